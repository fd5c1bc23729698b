"""A suite2p folder is read as it stands, and every mistake in it is refused by name."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suite2p_folder import RATE_HZ, small_folder, transients, write_table

from loop2p.analysis.detected import read_any, read_detected, read_recorded
from loop2p.analysis.sessions import SessionError
from loop2p.analysis.suite2p import neurons, read_suite2p_plane, read_suite2p_session

CELLS = [0, 2, 3, 4, 5, 6, 7]
"""Of plane0."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_folder(tmp_path_factory.mktemp("suite2p") / "m1-day2")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(good, tmp_path / "session"))


def test_what_the_experiment_knows_is_read(good: Path):
    session = read_suite2p_session(good)
    assert (session.path, session.mouse, session.day, session.events) == (good, "m1", 2, {})
    assert session.role.tolist() == ["plus", "minus", "other", "plus", "minus", "other", "other"]
    assert session.start_s.tolist() == [30, 45]
    assert session.outcome.tolist() == ["hit", "miss"]
    assert session.hit_s[0] == 40.5
    assert session.reward_s[0] == 41.5
    assert np.isnan([session.hit_s[1], session.reward_s[1]]).all()
    assert session.phases == [("baseline", "passive", 0, 29.5), ("closed_loop", "", 30, 76)]
    assert session.shown_s.tolist() == [30, 30.5, 35, 40.5, 42.5, 45.5, 73]
    assert np.array_equal(session.shown_deg, [np.nan, 30, 45, 90, np.nan, 15, np.nan], equal_nan=True)
    assert session.lick_s.tolist() == [40.9, 41.7]
    assert session.speed_t_s.tolist() == list(range(76))
    assert session.speed_cm_s == pytest.approx(3 + 0.1 * np.arange(76))


def test_licks_and_speed_may_be_missing_and_other_columns_are_left_alone(folder: Path):
    (folder / "licks.csv").unlink()
    (folder / "speed.csv").unlink()
    text = (
        (folder / "shown.csv")
        .read_text(encoding="utf-8")
        .replace("\n", ",why\n")
        .replace("angle_deg,why", "angle_deg,n")
    )
    (folder / "shown.csv").write_text(f"\ufeff{text}\n , , \n", encoding="utf-8")  # as a spreadsheet saves it
    session = read_suite2p_session(folder)
    assert not len(session.lick_s)
    assert not len(session.speed_cm_s)
    assert not len(session.speed_t_s)
    assert session.shown_s.tolist() == [30, 30.5, 35, 40.5, 42.5, 45.5, 73]


def test_a_passive_session_has_tables_without_rows(folder: Path):
    (folder / "trials.csv").write_text("start_s,outcome,hit_s,reward_s\n", encoding="utf-8")
    (folder / "shown.csv").write_text("angle_deg,t_s\n", encoding="utf-8")
    session = read_suite2p_session(folder)
    assert [len(x) for x in (session.start_s, session.outcome, session.hit_s, session.shown_s)] == [0] * 4


def test_fluorescence_is_that_of_cells_less_their_neuropil(folder: Path):
    plane = read_suite2p_plane(folder, 0)
    f, around = (np.load(folder / "plane0" / f"{name}.npy") for name in ("F", "Fneu"))
    assert plane.roi.tolist() == CELLS
    assert np.allclose(plane.f, (f - 0.7 * around)[CELLS].T)
    assert (plane.start_s, plane.rate_hz, plane.centre_um) == (0, RATE_HZ, None)
    assert read_suite2p_plane(folder, 1).start_s == 0.5 / RATE_HZ
    with (folder / "session.toml").open("a", encoding="utf-8") as file:
        file.write("neuropil_share = 0.5\n")
    assert np.allclose(read_suite2p_plane(folder, 0).f, (f - 0.5 * around)[CELLS].T)


def test_centres_are_in_um_or_by_the_size_of_a_pixel_in_pixels(folder: Path):
    write_table(folder / "plane0" / "centres.csv", "roi,y_um,x_um", [(k, 10 * k, 3.5) for k in range(8)])
    centre_um = np.array([(10 * k, 3.5) for k in CELLS])
    assert np.array_equal(read_suite2p_plane(folder, 0).centre_um, centre_um)
    write_table(folder / "plane0" / "centres.csv", "roi,y_px,x_px", [(k, 5 * k, 3.5) for k in range(8)])
    with pytest.raises(SessionError, match=r"centres\.csv, line 1: roi,y_px,x_px; expected a column y_um"):
        read_suite2p_plane(folder, 0)
    with (folder / "session.toml").open("a", encoding="utf-8") as file:
        file.write("pixel_um = [2.0, 1.0]\n")
    assert np.array_equal(read_suite2p_plane(folder, 0).centre_um, centre_um)


def test_events_are_found_in_it(good: Path):
    found = read_detected(good)
    assert found.roi[0].tolist() == CELLS
    assert found.roi[1].tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert found.roi[0][found.pairs.proximal].tolist() == [0, 2, 3, 4, 5, 7]  # those that are cells in both planes
    assert found.roi[1][found.pairs.distal].tolist() == [0, 2, 3, 4, 5, 7]
    calcium = transients(1200, 8)
    true = np.argwhere(np.diff(calcium, axis=0, prepend=0) > 0.3)
    true = true[true[:, 1] != 1]
    assert len(true) > 50
    for plane, is_cell in ((0, CELLS), (1, [0, 2, 3, 4, 5, 7])):
        events = found.session.events[plane]
        seen = [np.any((np.abs(events.t_s - t / RATE_HZ) < 0.3) & (found.roi[0][events.roi] == roi)) for t, roi in true]
        assert np.mean(np.array(seen)[np.isin(true[:, 1], is_cell)]) > 0.9
    assert read_any(good).session.events[0].t_s.tolist() == found.session.events[0].t_s.tolist()
    with pytest.raises(SessionError, match="a folder, expected an NWB file with events"):
        read_recorded(good)


# ------------------------------------------------------------ duplicates


def noisy(*traces_and_sd: tuple[np.ndarray, float]) -> np.ndarray:
    """(n_frames, n_rois)"""
    rng = np.random.default_rng(0)
    return np.stack([trace + sd * rng.standard_normal(trace.shape) for trace, sd in traces_and_sd], axis=1)


def test_a_duplicate_goes_but_never_a_cell_of_the_decoder():
    a, b, c, d = transients(2000, 4).T
    dff = noisy((a, 0.05), (a, 0.01), (b, 0.05), (c, 0.05), (c, 0.01), (d, 0.05), (d, 0.01))
    role = np.array(["plus", "other", "minus", "other", "other", "plus", "minus"])
    # 1 is the better copy of a P+; of 3 and 4, both P0, the better one stays; 5 and 6 were both chosen
    assert neurons(dff, RATE_HZ, role).tolist() == [0, 2, 4, 5, 6]
    assert neurons(dff, RATE_HZ, np.full(7, "other")).tolist() == [1, 2, 4, 6]
    assert neurons(dff[:, :3], RATE_HZ, role[[0, 2, 0]]).tolist() == [0, 1, 2]  # no P0 at all


def test_less_alike_is_a_duplicate_only_nearby():
    a, b = transients(2000, 2).T
    dff = noisy((a, 0.02), (a + 0.6 * b, 0.02))
    role = np.array(["plus", "other"])
    assert 0.6 < np.corrcoef(dff.T)[0, 1] < 0.9
    assert neurons(dff, RATE_HZ, role).tolist() == [0, 1]
    for apart_um, kept in ((15.0, [0]), (25.0, [0, 1])):
        assert neurons(dff, RATE_HZ, role, np.array([[0.0, 0.0], [0.0, apart_um]])).tolist() == kept


def test_p0_without_dff_go():
    dff = noisy(*((trace, 0.02) for trace in transients(2000, 3).T))
    dff[:, 1] = np.nan
    assert neurons(dff, RATE_HZ, np.array(["plus", "other", "other"])).tolist() == [0, 2]


def test_a_duplicate_is_left_out_of_roles_and_events(folder: Path):
    path = folder / "plane0" / "F.npy"
    f = np.load(path)
    f[7] = f[0] + np.random.default_rng(0).standard_normal(f.shape[1])
    np.save(path, f)
    found = read_detected(folder)
    assert found.roi[0].tolist() == [0, 2, 3, 4, 5, 6]
    assert found.dff.shape == found.rate.shape == (len(found.frame_s), 6)
    assert found.session.role.tolist() == ["plus", "minus", "other", "plus", "minus", "other"]
    assert found.session.events[0].roi.max() == 5
    assert found.roi[0][found.pairs.proximal].tolist() == [0, 2, 3, 4, 5]


# ------------------------------------------------------------ refusals


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    """A mistake in a text file."""

    def damage(folder: Path) -> None:
        before = (folder / name).read_text(encoding="utf-8")
        assert old in before
        (folder / name).write_text(before.replace(old, new, 1), encoding="utf-8")

    return damage


def array(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """A mistake in one of suite2p's files."""

    def damage(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)))

    return damage


def spoilt(place: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[place] = value
        return values

    return change


def missing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no sheet": (missing("session.toml"), r"session\.toml: no such file; expected a suite2p session"),
    "no key": (text("session.toml", "day = 2", ""), "missing key.*day"),
    "another key": (text("session.toml", "day =", "date ="), r"session\.toml, line 2: date: unknown key; expected"),
    "one plane's start": (text("session.toml", "= [0.0, ", "= ["), "first_frame_s: .*length 2"),
    "a rate that is none": (text("session.toml", "15.46", "0"), "plane_rate_hz: .*> 0"),
    "an infinite rate": (text("session.toml", "15.46", "inf"), "not finite, expected numbers"),
    "no F": (missing("plane0/F.npy"), r"plane0/F\.npy: no such file, expected it as suite2p writes it"),
    "no Fneu": (missing("plane1/Fneu.npy"), r"plane1/Fneu\.npy: no such file"),
    "no iscell": (missing("plane1/iscell.npy"), r"plane1/iscell\.npy: no such file"),
    "one trace": (array("plane0/F.npy", lambda f: f[0]), r"plane0/F\.npy: shape \(1200,\), expected \(n_rois, n_f"),
    "Fneu of other frames": (
        array("plane0/Fneu.npy", lambda f: f[:, :-5]),
        r"plane0/Fneu\.npy: shape \(8, 1195\), expected \(8, 1200\) as F\.npy",
    ),
    "iscell of another length": (
        array("plane1/iscell.npy", lambda cell: cell[:5]),
        r"plane1/iscell\.npy: shape \(5, 2\), expected \(8, 2\): for each ROI of F\.npy",
    ),
    "iscell of one column": (array("plane1/iscell.npy", lambda cell: cell[:, 0]), r"iscell\.npy: shape \(8,\)"),
    "iscell of probabilities": (array("plane0/iscell.npy", lambda cell: cell[:, ::-1]), "expected 0 or 1 for each ROI"),
    "no cell": (array("plane1/iscell.npy", np.zeros_like), r"plane1/iscell\.npy: no ROI is a cell"),
    "texts": (array("plane0/F.npy", lambda f: f.astype(str)), r"plane0/F\.npy: <U.*, expected an array of numbers"),
    "NaN": (
        array("plane0/F.npy", spoilt((3, 17), np.nan)),
        r"plane0/F\.npy: ROI 3, frame 17: nan, expected numbers throughout: mark the ROI as no cell",
    ),
    "infinite neuropil": (array("plane1/Fneu.npy", spoilt((7, 0), np.inf)), r"Fneu\.npy: ROI 7, frame 0: inf"),
    "a P cell that is below 0": (
        array("plane0/Fneu.npy", spoilt(4, 1e3)),
        r"session: ROI 4 of plane 0 \(plus\) has no dF/F, expected fluorescence above 0 at rest.*neuropil_share",
    ),
    "no roles": (missing("roles.csv"), r"roles\.csv: no such file, expected a table with the columns roi,role"),
    "a role that is none": (text("roles.csv", "plus", "P+"), r"roles\.csv, line 2: role: 'P\+', expected one of plus"),
    "a role of no cell": (text("roles.csv", "0,", "1,"), r"line 2: roi 1, expected a cell: plane0/iscell\.npy"),
    "a role of no ROI": (text("roles.csv", "0,", "8,"), r"line 2: roi 8, expected a ROI of plane0/F\.npy, 0 to 7"),
    "half a ROI": (text("roles.csv", "0,", "0.5,"), r"line 2: roi: '0\.5', expected a whole number from 0"),
    "two roles": (text("roles.csv", "5,", "4,"), "line 5: roi 4, expected each ROI once"),
    "no trials": (missing("trials.csv"), r"trials\.csv: no such file, .*its first line alone if there were none"),
    "an empty file": (lambda f: (f / "trials.csv").write_text(""), "line 1: nothing"),
    "no column": (
        text("trials.csv", "hit_s", "hit"),
        r"trials\.csv, line 1: start_s,outcome,hit,reward_s; expected a column hit_s",
    ),
    "a column twice": (text("shown.csv", "t_s,angle_deg", "t_s,t_s"), "expected a column t_s, once"),
    "another outcome": (text("trials.csv", "miss", "fail"), "line 3: outcome: 'fail', expected one of hit, miss, void"),
    "a hit without its time": (text("trials.csv", "40.5", ""), "line 2: hit_s nan, expected the time of the hit"),
    "a hit before its trial": (text("trials.csv", "40.5", "4.5"), r"line 2: hit_s 4\.5, expected the time of the hit"),
    "a miss with a hit": (text("trials.csv", "miss,", "miss,50"), r"line 3: hit_s 50\.0, expected nothing: this"),
    "a reward before its trial": (text("trials.csv", "41.5", "1.5"), r"line 2: reward_s 1\.5, expected a time after"),
    "trials that fall": (text("trials.csv", "45,miss", "29,miss"), r"line 3: start_s 29\.0, expected times that rise"),
    "milliseconds": (
        text("trials.csv", "45,miss", "45000,miss"),
        r"trials\.csv: start_s 45000\.0, expected a time while plane0 was imaged, 0 to 77\.\d+ s",
    ),
    "no number": (text("shown.csv", "35,45", "35,45 deg"), "line 4: angle_deg: '45 deg', expected a number or nothing"),
    "no time": (text("shown.csv", "35,45", ",45"), "line 4: t_s: nothing, expected a number"),
    "a time that is none": (text("licks.csv", "41.7", "nan"), r"licks\.csv, line 3: t_s: 'nan', expected a number"),
    "pictures that fall": (text("shown.csv", "35,45", "29,45"), r"line 4: t_s 29\.0, expected times that rise.*sort"),
    "licks that fall": (text("licks.csv", "41.7", "40.1"), r"licks\.csv, line 3: t_s 40\.1, expected times that rise"),
    "speeds that fall": (text("speed.csv", "\n7,", "\n1,"), r"speed\.csv, line 9: t_s 1\.0, expected times that rise"),
    "decimal commas": (text("speed.csv", "3.7", "3,7"), r"speed\.csv, line 9: 3 cells, expected 2: one a column"),
    "semicolons": (text("speed.csv", "t_s,cm_s", "t_s;cm_s"), r"line 1: t_s;cm_s; expected a column t_s"),
    "another phase": (text("phases.csv", "closed_loop", "task"), "phases.csv, line 3: phase: 'task', expected one of"),
    "a phase that ends first": (text("phases.csv", "29.5", "-1"), r"line 2: stop_s -1\.0, expected a time after"),
    "phases that overlap": (text("phases.csv", "29.5", "31"), r"line 3: start_s 30\.0, expected a time after"),
    "another encoding": (
        lambda f: (f / "licks.csv").write_bytes("t_s\n41,é\n".encode("latin-1")), r"licks\.csv: .*save it as such",
    ),
    "an open quote": (text("licks.csv", "41.7", '"41.7'), r"licks\.csv: .*expected comma-separated text in UTF-8"),
    "a centre missing": (
        lambda f: write_table(f / "plane0" / "centres.csv", "roi,y_um,x_um", [(k, k, k) for k in range(7)]),
        r"plane0/centres\.csv: no row of ROI 7, expected one of each cell",
    ),
    "a centre of no ROI": (
        lambda f: write_table(f / "plane1" / "centres.csv", "roi,y_um,x_um", [(k, k, k) for k in range(9)]),
        r"plane1/centres\.csv, line 10: roi 8, expected a ROI of F\.npy beside it, 0 to 7",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_refused_by_its_name(name: str, folder: Path):
    damage, says = REFUSALS[name]
    damage(folder)
    with pytest.raises(SessionError, match=f"{re.escape(str(folder.parent))}.*{says}"):
        read_detected(folder)


def test_planes_of_unequal_frames_are_refused_but_one_more_is_none(folder: Path):
    for name in ("F.npy", "Fneu.npy"):
        array(f"plane1/{name}", lambda f: f[:, :-1])(folder)
    assert read_suite2p_session(folder).mouse == "m1"
    for name in ("F.npy", "Fneu.npy"):
        array(f"plane1/{name}", lambda f: f[:, :-1])(folder)
    with pytest.raises(SessionError, match=r"plane0/F\.npy has 1200 frames, plane1/F\.npy 1198, expected as many"):
        read_suite2p_session(folder)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_unpickled(folder: Path, tmp_path: Path):
    gone_off = tmp_path / "gone off"
    bomb = pickle.dumps(Bomb(gone_off))
    for name in ("stat.npy", "ops.npy", "spks.npy"):
        (folder / "plane0" / name).write_bytes(bomb)
    assert read_suite2p_plane(folder, 0).f.shape == (1200, 7)  # they are not looked at
    for as_array in (False, True):
        for name in ("F.npy", "Fneu.npy", "iscell.npy"):
            before = (folder / "plane0" / name).read_bytes()
            if as_array:
                np.save(folder / "plane0" / name, np.array([Bomb(gone_off)], object), allow_pickle=True)
            else:
                (folder / "plane0" / name).write_bytes(bomb)
            with pytest.raises(SessionError, match=rf"plane0/{name}: .*; expected an array of numbers"):
                read_suite2p_session(folder)
            (folder / "plane0" / name).write_bytes(before)
    assert not gone_off.exists()


FILES = [
    "session.toml", "roles.csv", "trials.csv", "shown.csv", "phases.csv", "licks.csv", "speed.csv",
    *(f"plane{plane}/{name}.npy" for plane in (0, 1) for name in ("F", "Fneu", "iscell")),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")  # as of an old Python: some damage makes that
@settings(max_examples=100)
@given(
    name=st.sampled_from(FILES),
    at=st.integers(0, 300),
    put=st.binary(max_size=6) | st.sampled_from([b"nan", b"-1", b"1e999", b",", b"\n", b'"', b"\0", b"9" * 30]),
    instead_of=st.integers(0, 6),
    cut=st.booleans(),
)
def test_whatever_a_file_holds_it_is_read_or_refused(
    good: Path, tmp_path_factory: pytest.TempPathFactory, name: str, at: int, put: bytes, instead_of: int, cut: bool
):
    folder = shutil.copytree(good, tmp_path_factory.mktemp("fuzz") / "session")
    whole = (folder / name).read_bytes()
    rest = b"" if cut else whole[at + instead_of :]
    (folder / name).write_bytes(whole[:at] + put + rest)
    refused = ""
    try:
        session = read_suite2p_session(folder)
        planes = [read_suite2p_plane(folder, plane) for plane in (0, 1)]
    except SessionError as error:
        refused = str(error)
    finally:
        shutil.rmtree(folder)
    if refused:
        assert str(folder) in refused
    else:
        assert all(np.isfinite(plane.f).all() for plane in planes)
        assert len(session.role) == planes[0].f.shape[1]
