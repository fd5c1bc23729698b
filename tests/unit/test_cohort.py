"""A cohort: its folder, its days, its seeds."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from short_day import SHORT_DAY

from loop2p.protocol import FileError, parse_toml
from loop2p.simulation.arms import ARMS, DRUGGED, LIT
from loop2p.simulation.cohort import (
    CohortParams,
    days_to_do,
    hours,
    night_file,
    prepare,
    read_params,
    run_day,
)
from loop2p.task.experiment import Experiment

TASKS = Path(__file__).parents[2] / "deploy" / "tasks"


def params(**more) -> CohortParams:
    return CohortParams(**{"arm": "main", "mice": 1, "days": 2, "n_cells": 40, "seed": 5, "task": SHORT_DAY, **more})


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file but those that say who wrote it, and when."""
    found = {}

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and "file_create" not in name:
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(look)
    return found


def same(one: Path, other: Path) -> bool:
    a, b = arrays(one), arrays(other)
    return a.keys() == b.keys() and len(a) > 20 and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


def run(folder: Path, asked: CohortParams) -> Path:
    prepare(folder, asked)
    for mouse in range(asked.mice):
        for day in days_to_do(folder, asked, mouse):
            run_day(folder, mouse, day)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), params())


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others(whole: Path, tmp_path: Path):
    again = run(tmp_path / "again", params())
    other = run(tmp_path / "other", params(seed=6, days=1))
    for day in ("day-01.nwb", "day-02.nwb"):
        assert same(whole / "mouse-00" / day, again / "mouse-00" / day)
    assert not same(whole / "mouse-00" / "day-01.nwb", other / "mouse-00" / "day-01.nwb")


def test_a_day_without_its_night_is_done_anew_to_the_same_result(whole: Path, tmp_path: Path):
    folder = run(tmp_path, params(days=1))
    half = tmp_path / "mouse-00" / "day-02.nwb"
    half.write_bytes(b"killed while writing")
    asked = params()
    prepare(folder, asked)
    assert list(days_to_do(folder, asked, 0)) == [2]
    run_day(folder, 0, 2)
    assert same(half, whole / "mouse-00" / "day-02.nwb")
    assert list(days_to_do(folder, asked, 0)) == []


def test_a_folder_of_another_cohort_is_refused(whole: Path):
    with pytest.raises(FileError, match="seed: 5 there, 6 asked"):
        prepare(whole, params(seed=6))
    assert read_params(whole).seed == 5
    prepare(whole, params(mice=2))  # more of the same is no other cohort
    assert read_params(whole).mice == 2


def test_the_level_changes_the_record_and_no_decision(whole: Path, tmp_path: Path):
    folder = run(tmp_path, params(level="traces", days=1))
    events, traces = arrays(whole / "mouse-00" / "day-01.nwb"), arrays(folder / "mouse-00" / "day-01.nwb")
    for name in ("processing/behavior/D/data", "stimulus/presentation/ShownAngle/data"):
        assert np.array_equal(events[name], traces[name], equal_nan=True)
    f = traces["processing/ophys/Fluorescence/RawFluorescenceProximal/data"]
    assert f.dtype == np.uint16
    assert f.shape[1] == 40
    assert 200 < np.median(f) < 300
    assert not any("somatic_events" in name for name in traces)
    assert any("somatic_events" in name for name in events)


def test_the_animal_keeps_its_cells_and_its_criterion(whole: Path):
    texts = []
    for day in (1, 2):
        with np.load(night_file(whole, 0, day), allow_pickle=False) as night:
            texts.append(bytes(night["own_animal"]).decode())
    names = ("plus", "minus", "z_star", "seed")
    kept = [[line for line in text.splitlines() if line.startswith(names)] for text in texts]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 4
    with h5py.File(whole / "mouse-00" / "day-02.nwb") as file:
        roles = [r.decode() for r in file["processing/ophys/ImageSegmentation/RoisProximal/role"][:]]
    assert (roles.count("plus"), roles.count("minus")) == (5, 5)


@pytest.mark.parametrize("arm", [name for name in ARMS if name not in ("main", "anaesthesia")])
def test_every_arm_runs_its_days(arm: str, tmp_path: Path):
    folder = run(tmp_path, params(arm=arm))
    a = arrays(folder / "mouse-00" / "day-02.nwb")
    assert len(a["processing/behavior/D/data"]) > 1000
    assert ("intervals/trials/id" in a) == (arm != "yoked")


def test_anaesthesia_comes_between_its_two_recordings(tmp_path: Path):
    blocks = [("awake", ""), ("anaesthetised", "wait = true\n")]
    short = "".join(f'[[passive]]\nname = "{name}"\nduration_s = 200\n{more}' for name, more in blocks)
    folder = run(tmp_path, params(arm="anaesthesia", days=1, task=short, n_cells=200))
    times = arrays(folder / "mouse-00" / "day-01.nwb")["events/somatic_events/timestamp"]
    assert np.sum(times > 205) < 0.65 * np.sum(times < 195)


def test_a_yoked_mouse_sees_what_its_twin_saw(whole: Path, tmp_path: Path):
    folder = run(tmp_path, params(arm="yoked", days=1))
    shown = "stimulus/presentation/ShownAngle/data"
    ours, twins = (arrays(f / "mouse-00" / "day-01.nwb")[shown] for f in (folder, whole))
    assert np.array_equal(ours[-60:-1], twins[-60:-1], equal_nan=True)
    events = "events/somatic_events/timestamp"
    ours, twins = (arrays(f / "mouse-00" / "day-01.nwb")[events] for f in (folder, whole))
    assert len(np.intersect1d(ours, twins)) < 0.2 * len(twins)  # the same cells, and not the same bursts



def test_p_plus_and_p_minus_change_places_on_the_day_of_the_swap(tmp_path: Path):
    folder = run(tmp_path, params(arm="swap", days=8, task=SHORT_DAY))
    roles = {}
    for day in (7, 8):
        with h5py.File(folder / "mouse-00" / f"day-{day:02d}.nwb") as file:
            roles[day] = np.array([r.decode() for r in file["processing/ophys/ImageSegmentation/RoisProximal/role"][:]])
    assert np.array_equal(roles[7] == "plus", roles[8] == "minus")
    assert np.array_equal(roles[7] == "minus", roles[8] == "plus")


def test_arms_say_what_the_task_files_say():
    for name, protocol in (("ndnf", LIT), ("anaesthesia", DRUGGED)):
        text = (TASKS / f"{name}.toml").read_text(encoding="utf-8")
        theirs, ours = parse_toml(text, Experiment, name), CohortParams(arm=name)
        assert hours(ours) * 3600 / (6 * 14) == pytest.approx(theirs.duration_s)
        assert [(b.name, b.duration_s, b.led, b.wait) for b in theirs.blocks] == [
            (b.name, b.duration_s, b.led, b.wait) for b in parse_toml(_toml(protocol), Experiment, name).blocks
        ]


def _toml(protocol: dict) -> str:
    import tomli_w

    return tomli_w.dumps(protocol)


@pytest.mark.parametrize(
    ("asked", "said"), [({"arm": "mian"}, "expected one of main, ndnf"), ({"task": "[trial]\nlop_s = 1"}, "lop_s")]
)
def test_a_mistake_is_named(asked: dict, said: str):
    with pytest.raises((ValueError, FileError), match=said):
        params(**asked)
