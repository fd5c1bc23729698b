"""What was measured in sessions comes back from disk as the arm it is; what is stale is measured anew."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from short_day import SHORT_DAY
from toy_arms import toy_session

from loop2p.analysis import measure as measure_of
from loop2p.analysis import store
from loop2p.analysis.arm import arms_in
from loop2p.analysis.detected import Detected
from loop2p.analysis.measure import MeasureParams, read_measured, stamp_for
from loop2p.analysis.results import results_of, write_results
from loop2p.analysis.session_store import read_back, session_tables
from loop2p.analysis.sessions import PlaneEvents, SessionData, SessionError
from loop2p.simulation.cohort import CohortParams, prepare, run_day


def kept(folder: Path, session: SessionData) -> Path:
    store.save(folder, session_tables(session), {})
    return folder


def test_a_session_comes_back_as_it_was(tmp_path: Path):
    session = structs.replace(toy_session(day=3), simulated=True)
    again = read_back(kept(tmp_path / "a", session))
    for name in SessionData.__struct_fields__:
        one, other = getattr(session, name), getattr(again, name)
        if name == "events":
            for plane in (0, 1):
                fields = one[plane].__struct_fields__
                assert all(np.array_equal(getattr(one[plane], f), getattr(other[plane], f)) for f in fields)
        elif isinstance(one, np.ndarray):
            assert one.dtype.kind == other.dtype.kind, name
            assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), name
        else:
            assert one == other, name


def test_a_passive_session_without_trials_and_events_comes_back(tmp_path: Path):
    none = np.zeros(0)
    session = SessionData(
        path=Path("x.nwb"), mouse="m", day=1, role=np.array(["other"]), start_s=none, outcome=np.array([], np.str_),
        hit_s=none, reward_s=none, phases=[], shown_s=none, shown_deg=none, lick_s=none, speed_cm_s=none, events={},
    )  # fmt: skip
    again = read_back(kept(tmp_path / "a", session))
    assert again.phases == []
    assert again.outcome.dtype.kind == "U"
    assert again.events == {}
    assert len(again.start_s) == 0


def test_sessions_become_an_arm_by_mouse_and_day_and_none_counts_twice(tmp_path: Path):
    days = [("m1", 1), ("m0", 2), ("m0", 1)]
    folders = [kept(tmp_path / f"{m}-{d}", toy_session(m, d)) for m, d in days]
    arm = read_measured("main", folders)
    assert [(s.mouse, s.day) for s in arm.sessions] == sorted(days)
    assert (arm.dff, arm.pairs, arm.like, arm.network, arm.outcomes) == ([], [], [], None, None)
    with pytest.raises(SessionError, match="are both day 1 of m0, expected one"):
        read_measured("main", [*folders, kept(tmp_path / "again", toy_session("m0", 1))])


def test_a_file_that_changed_or_another_question_is_measured_anew(tmp_path: Path):
    path = tmp_path / "a.nwb"
    path.write_bytes(b"one")
    params = MeasureParams()
    stamp = stamp_for(path, "main", params)
    assert stamp_for(path, "main", params) == stamp
    assert stamp_for(path, "led", params) != stamp
    assert stamp_for(path, "main", MeasureParams(seed=1)) != stamp
    path.write_bytes(b"other")
    assert stamp_for(path, "main", params) != stamp


def test_what_is_no_session_is_told_by_name_and_leaves_nothing(tmp_path: Path):
    path = tmp_path / "a.nwb"
    path.write_bytes(b"no HDF5")
    told = measure_of(path, "main", MeasureParams(), tmp_path / "out")
    assert str(path) in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("missing", "more_open"), [("other", {"A7"}), ("minus", {"A12", "A13", "A14", "A15"})])
def test_a_session_without_p0_or_p_minus_is_analysed(tmp_path: Path, monkeypatch, missing: str, more_open: set[str]):
    """Only which P0 are like P+ and P- can't be said."""
    session = toy_session(error=1.0)
    keep = session.role != missing
    row = np.cumsum(keep) - 1
    events = {}
    for plane, of in session.events.items():
        own = keep[of.roi]
        events[plane] = PlaneEvents(of.t_s[own], row[of.roi[own]], of.magnitude[own])
    session = structs.replace(session, role=session.role[keep], events=events)
    monkeypatch.setattr(import_module("loop2p.analysis.measure"), "read_recorded", lambda _: Detected(session=session))
    path = tmp_path / "a.nwb"
    path.touch()
    params = MeasureParams(events="recorded", n_shuffles=19, n_outcome_shuffles=1)
    assert measure_of(path, "main", params, tmp_path / "out") == "done"
    arm = read_measured("main", [tmp_path / "out"])
    assert arm.like == []
    assert arm.network is not None
    assert arm.outcomes is not None
    found = results_of({"main": arm}, 0)
    needs = {row.id: row.detail for row in found.rows if row.met is None}
    assert {"A16", *more_open} <= set(needs)
    assert not {"A1", "A6", "A8", *({"A12", "A15"} - more_open)} & set(needs)
    assert write_results(tmp_path, {"main": arm}, found, {"seed": 0}).exists()


def test_a_file_that_is_damaged_anywhere_is_measured_or_named(tmp_path: Path):
    prepare(tmp_path, CohortParams(arm="main", mice=1, days=1, n_cells=40, seed=3, task=SHORT_DAY))
    run_day(tmp_path, 0, 1)
    whole = (tmp_path / "mouse-00" / "day-01.nwb").read_bytes()
    rng = np.random.default_rng(0)
    damaged, told = tmp_path / "damaged.nwb", []
    for k in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(len(data), size=40)] = rng.integers(256, size=40)
        damaged.write_bytes(data[: rng.integers(len(data)) if k % 4 == 0 else None].tobytes())
        told.append(measure_of(damaged, "led", MeasureParams(), tmp_path / f"out-{k}"))
    named = [text for text in told if text != "done"]
    assert 20 < len(named) < 60
    assert all(str(damaged) in text for text in named)
    assert all((store.stamp_of(tmp_path / f"out-{k}") is not None) == (text == "done") for k, text in enumerate(told))


def test_arms_are_folders_by_their_names_or_all_is_one(tmp_path: Path):
    def touch(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    touch("two/main/a/1.nwb", "two/no-apical/a/1.nwb", "two/other/1.nwb", "runs/x/session.nwb", "cohort/mouse/1.nwb")
    (tmp_path / "cohort" / "cohort.toml").write_text('arm = "led"\n')
    assert {name: len(paths) for name, paths in arms_in(tmp_path / "two").items()} == {"main": 1, "no-apical": 1}
    assert list(arms_in(tmp_path / "runs")) == ["main"]
    assert list(arms_in(tmp_path / "runs", "ndnf")) == ["ndnf"]
    assert list(arms_in(tmp_path / "cohort")) == ["led"]
    assert list(arms_in(tmp_path / "two" / "no-apical")) == ["no-apical"]
    (tmp_path / "two" / "scalar").mkdir()
    with pytest.raises(SessionError, match="scalar: no session, expected NWB files or suite2p session folders"):
        arms_in(tmp_path / "two")
    with pytest.raises(SessionError, match="arm 'x', expected one of main"):
        arms_in(tmp_path / "two", "x")
