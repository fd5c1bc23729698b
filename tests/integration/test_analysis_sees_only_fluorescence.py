"""The proof: what the analysis says of a session follows from what a microscope and the rig see, and nothing else."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from msgspec import Struct
from short_day import day_task
from suite2p_folder import from_nwb

from loop2p.analysis.contrast import contrast
from loop2p.analysis.detected import Detected, read_any, read_detected
from loop2p.analysis.measure import MeasureParams, measure
from loop2p.simulation.cohort import CohortParams, prepare, run_day

TASK = day_task(60, 180)
SEEN = (
    "session_description", "general/subject/subject_id",
    *(f"processing/ophys/Fluorescence/RawFluorescence{plane}/{part}"
      for plane in ("Proximal", "Distal") for part in ("data", "starting_time")),
    "processing/ophys/ImageSegmentation/RoisProximal/role",
    *(f"intervals/trials/{column}" for column in ("start_time", "outcome", "hit_time", "reward_time")),
    *(f"intervals/phases/{column}" for column in ("id", "phase", "detail", "start_time", "stop_time")),
    "stimulus/presentation/ShownAngle/data", "stimulus/presentation/ShownAngle/timestamps",
    "events/licks/timestamp",
    "processing/behavior/WheelSpeed/data", "processing/behavior/WheelSpeed/starting_time",
)  # fmt: skip
"""Who, which day, what the microscope saw, which ROIs drove the decoder, what happened, what the screen showed."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated day with the fluorescence of 40 cells."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder, CohortParams(arm="main", mice=1, days=1, n_cells=40, seed=3, task=TASK, level="traces"))
    run_day(folder, 0, 1)
    return folder / "mouse-00" / "day-01.nwb"


@pytest.fixture(scope="module")
def found(whole: Path) -> Detected:
    return read_detected(whole)


@pytest.fixture(scope="module")
def tables(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return measured(whole, tmp_path_factory.mktemp("measured") / "whole")


def measured(path: Path, folder: Path) -> dict[str, bytes]:
    """All tables of the first stage, decoders included, as they are on disk; but for the one that has the path."""
    said = measure(path, "main", MeasureParams(n_shuffles=3, n_other=1, n_outcome_shuffles=2), folder)
    assert said == "done", said
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet") if file.stem != "session"}


def results(found: Detected) -> dict[str, Any]:
    """What was found in a session, and the error signal in it."""
    return {"found": found, "contrast": [contrast([s]) for s in (found.session, found.session_dff)]}


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Places where two results are not equal to the bit; a session's path may differ."""
    if isinstance(one, Struct):
        one, other = ({f: getattr(x, f) for f in x.__struct_fields__ if f != "path"} for x in (one, other))
    if isinstance(one, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list | tuple) and len(one) == len(other):
        return [d for k, (a, b) in enumerate(zip(one, other, strict=True)) for d in differences(a, b, f"{place}.{k}")]
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        return [] if same else [place]
    return [] if one == other or (one != one and other != other) else [place]


def test_everything_else_may_be_missing(whole: Path, found: Detected, tables: dict[str, bytes], tmp_path: Path):
    path = tmp_path / "seen.nwb"
    with h5py.File(whole) as file, h5py.File(path, "w") as seen:
        for name in SEEN:
            group, _, leaf = name.rpartition("/")
            file.copy(name, seen.require_group(group or "/"), leaf)
    assert path.stat().st_size < whole.stat().st_size
    assert len(found.session.events[0].t_s) > 100
    assert contrast([found.session]).n_events.sum() > 10
    assert differences(results(found), results(read_any(path))) == []
    assert {"events_soma.parquet", "pairs.parquet", "outcomes.parquet", "network.parquet"} <= set(tables)
    assert differences(tables, measured(path, tmp_path / "measured")) == []


def test_everything_else_may_be_wrong(whole: Path, found: Detected, tables: dict[str, bytes], tmp_path: Path):
    path = tmp_path / "garbage.nwb"
    shutil.copy(whole, path)
    with h5py.File(path, "r+") as file:
        spoilt = spoil_all_but(SEEN, file)
        add_hidden_things(file, n_cells=40)
    assert {"processing/behavior/D/data", "processing/behavior/calibration/threshold", "general/notes"} <= set(spoilt)
    assert not set(spoilt) & set(SEEN)
    assert differences(results(found), results(read_any(path))) == []
    assert differences(tables, measured(path, tmp_path / "measured")) == []


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("processing/ophys/Fluorescence/RawFluorescenceDistal/data", ".found.session.events.1.magnitude"),
        ("stimulus/presentation/ShownAngle/data", ".contrast.0.residual"),
    ],
)
def test_what_is_seen_matters(name: str, what: str, whole: Path, found: Detected, tmp_path: Path):
    """Else the comparisons above would show nothing."""
    path = tmp_path / "other.nwb"
    shutil.copy(whole, path)
    with h5py.File(path, "r+") as file:
        file[name][:] = file[name][:][::-1]
    assert what in differences(results(found), results(read_any(path)))


def test_a_suite2p_folder_of_the_same_traces_gives_the_same_events(whole: Path, found: Detected, tmp_path: Path):
    again = read_any(from_nwb(tmp_path / "suite2p", whole))
    assert differences(found.roi, again.roi) == []
    known = [field for field in found.session.__struct_fields__ if field not in ("path", "events", "followed")]
    for field in known:
        assert differences(getattr(found.session, field), getattr(again.session, field), field) == []
    assert differences(found.pairs.proximal, again.pairs.proximal) == []
    assert differences(found.pairs.distal, again.pairs.distal) == []
    for one, other in ((found.session, again.session), (found.session_dff, again.session_dff)):
        for plane in (0, 1):
            assert np.array_equal(one.events[plane].roi, other.events[plane].roi)
            # the planes' rates, which the NWB file has apart, differ in the last digits
            assert np.allclose(one.events[plane].t_s, other.events[plane].t_s, rtol=0, atol=1e-6)
            assert np.allclose(one.events[plane].magnitude, other.events[plane].magnitude, rtol=1e-4)


def spoil_all_but(seen: tuple[str, ...], file: h5py.File) -> list[str]:
    """Put garbage into every other dataset; returns their names."""
    rng = np.random.default_rng(0)
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and name not in seen else None
    )
    for name in names:
        dataset = file[name]
        if h5py.check_string_dtype(dataset.dtype):
            dataset[...] = "garbage"
        else:
            n_bytes = dataset.size * dataset.dtype.itemsize
            dataset[...] = np.frombuffer(rng.bytes(n_bytes), dataset.dtype).reshape(dataset.shape)
    return names


def add_hidden_things(file: h5py.File, n_cells: int) -> None:
    """Events as a simulated cohort without traces has them, and what a simulated mouse keeps to itself; all made up."""
    rng = np.random.default_rng(1)
    for name in ("somatic_events", "dendritic_events"):
        table = file.create_group(f"events/{name}")
        table["timestamp"] = np.sort(rng.uniform(0, 240, 500))
        table["roi"] = rng.integers(0, n_cells, 500)
        table["magnitude"] = rng.exponential(1.0, 500)
    for name in ("role_weight", "excitability", "apical_signal", "residual", "decay_s", "partner"):
        file[f"scratch/cell_parameters/{name}"] = rng.standard_normal(n_cells)
        file[f"processing/ophys/ImageSegmentation/RoisProximal/{name}"] = rng.standard_normal(n_cells)
