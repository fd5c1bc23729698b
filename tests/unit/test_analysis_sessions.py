"""A recording, with events added to it, comes back as the arrays that went in."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from synthetic_session import T0_NS, Made, make_session, write_journal

from loop2p.analysis.contrast import contrast
from loop2p.analysis.epochs import error_epochs
from loop2p.analysis.sessions import SessionError, find_sessions, read_session
from loop2p.protocol import Lick, Trial, Wheel
from loop2p.recording.nwb import build, write_nwb
from loop2p.recording.nwb_offline import add_detected_events
from loop2p.recording.run import Run


@pytest.fixture(scope="module")
def made() -> Made:
    return make_session(seconds=60)


@pytest.fixture(scope="module")
def folder(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with events.nwb, to which a detector has added its events, and bare.nwb, to which none has."""
    folder = tmp_path_factory.mktemp("run")
    run = Run(write_journal(folder, made.envelopes))
    nwb = build(run)
    rng = np.random.default_rng(0)
    t_s = rng.uniform(20, 60, 400)
    roi, size = rng.integers(0, 4, 400), rng.lognormal(-0.4, 0.4, 400)
    add_detected_events(nwb, 0, t_s, roi, size)
    add_detected_events(nwb, 1, t_s, roi, 0.2 + 0.7 * size + 0.2 * rng.standard_normal(400))
    write_nwb(nwb, folder / "events.nwb")
    write_nwb(build(run), folder / "bare.nwb")
    return folder


def test_trials_and_licks_are_those_of_the_session(made: Made, folder: Path):
    session = read_session(folder / "events.nwb")
    edges = [e.message for _, e in made.envelopes if isinstance(e.message, Trial)]
    assert session.start_s.tolist() == [m.t_s for m in edges if m.edge == "start"]
    hits = [m.t_s for m in edges if m.edge == "hit"]
    assert session.hit_s[session.outcome == "hit"].tolist() == hits != []
    licks = [e.message for _, e in made.envelopes if isinstance(e.message, Lick)]
    assert len(session.lick_s) == len(licks) > 0
    wheel = [e.message for _, e in made.envelopes if isinstance(e.message, Wheel)]
    assert len(session.speed_t_s) == len(session.speed_cm_s) > 0.9 * len(wheel)
    assert (np.diff(session.speed_t_s) > 0).all()
    k = len(wheel) // 2
    at = wheel[k].t_ns / 1e9 - T0_NS / 1e9
    nearest = int(np.argmin(np.abs(session.speed_t_s - at)))
    assert abs(session.speed_t_s[nearest] - at) < 0.01
    assert session.speed_cm_s[nearest] == wheel[k].speed_cm_s
    assert set(session.role.tolist()) == {"plus", "minus"}  # all of its ROIs are in a group


def test_its_loop_lies_within_its_trials_and_ends_at_the_hits(folder: Path):
    session = read_session(folder / "events.nwb")
    epochs = error_epochs(session)
    assert len(epochs.start_s) == np.isin(session.outcome, ["hit", "miss"]).sum() > 0
    hits = session.outcome[np.isin(session.outcome, ["hit", "miss"])] == "hit"
    assert np.abs(epochs.stop_s[hits] - session.hit_s[session.outcome == "hit"]).max() < 0.1
    assert (epochs.stop_s > epochs.start_s).all()


def test_its_events_meet_their_partners_in_the_other_plane(folder: Path):
    session = read_session(folder / "events.nwb")
    assert np.all(np.diff(session.events[0].t_s) >= 0)
    found = contrast([session])
    assert found.n_events[:4].sum() > 0
    assert not found.n_events[4:].any()


def test_a_recording_without_events_is_read_and_only_the_contrast_refuses_it(folder: Path):
    bare = read_session(folder / "bare.nwb")
    assert bare.events == {}
    with pytest.raises(SessionError, match=r"bare\.nwb: no events/somatic_events, expected the events of both planes"):
        contrast([bare])


NEEDED = (
    "general/subject/subject_id", "session_description", "processing/ophys/ImageSegmentation/RoisProximal/role",
    "intervals/trials/start_time", "intervals/trials/outcome", "intervals/trials/hit_time",
    "intervals/trials/reward_time", "intervals/phases/start_time", "intervals/phases/stop_time",
    "stimulus/presentation/ShownAngle/data", "events/licks/timestamp", "processing/behavior/WheelSpeed/data",
    "events/somatic_events/timestamp", "events/dendritic_events/roi", "events/dendritic_events/magnitude",
)  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
def test_an_object_that_is_missing_is_named(name: str, folder: Path, tmp_path: Path):
    path = tmp_path / "a.nwb"
    shutil.copy(folder / "events.nwb", path)
    with h5py.File(path, "r+") as file:
        del file[name]
    with pytest.raises(SessionError, match=f"no /{name}, expected a session as loop2p records it"):
        read_session(path)


def test_sessions_of_both_kinds_are_found(tmp_path: Path):
    for name in (
        "led/mouse-01/day-02.nwb", "led/mouse-01/day-01.nwb", "led/mouse-00/.day-02.partial.nwb", "led/mouse-00/n.txt",
        "a/day3/session.toml", "a/day3/plane0/F.npy", "a/day3/ophys.nwb", "a/day3/plane0/ophys.nwb", "z/session.nwb",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_sessions(tmp_path)]
    assert found == ["a/day3", "led/mouse-01/day-01.nwb", "led/mouse-01/day-02.nwb", "z/session.nwb"]
    assert find_sessions(tmp_path / "a" / "day3") == [tmp_path / "a" / "day3"]
    assert find_sessions(tmp_path / "led" / "mouse-00") == []
