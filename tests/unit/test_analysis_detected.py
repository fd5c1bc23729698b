"""Events found in the fluorescence of a simulated day, against those that made it."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from short_day import day_task

from loop2p.analysis.detected import read_any, read_detected, read_recorded
from loop2p.analysis.sessions import NEUROPIL, PlaneEvents, SessionError, read_plane, read_session
from loop2p.simulation.cohort import CohortParams, prepare, run_day

TASK = day_task(60, 180)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same day at both levels."""
    files = {}
    for level in ("events", "traces"):
        folder = tmp_path_factory.mktemp(level)
        prepare(folder, CohortParams(arm="main", mice=1, days=1, n_cells=40, seed=3, task=TASK, level=level))
        run_day(folder, 0, 1)
        files[level] = folder / "mouse-00" / "day-01.nwb"
    return files


def found(true: PlaneEvents, seen: PlaneEvents, late_s: float) -> np.ndarray:
    """(n_true,) is there an event of the same neuron within 0.4 s of its expected time?"""
    return np.array(
        [
            bool(np.any((seen.roi == roi) & (np.abs(seen.t_s - t_s - late_s) < 0.4)))
            for t_s, roi in zip(true.t_s, true.roi, strict=True)
        ]
    )


def test_events_are_found_by_fluorescence_alone(day: dict[str, Path]):
    with h5py.File(day["traces"]) as file:
        assert not any(name in file.get("events", {}) for name in ("somatic_events", "dendritic_events"))
    true, detected = read_session(day["events"]), read_detected(day["traces"])
    seen, pairs = detected.session, detected.pairs
    assert np.array_equal(seen.outcome, true.outcome)
    assert np.array_equal(pairs.proximal, pairs.distal)  # row k is neuron k in both planes of a simulated day
    assert len(pairs.r) > 7
    soma = true.events[0]
    assert len(soma.t_s) > 100
    assert found(soma, seen.events[0], 0.065).mean() > 0.95
    assert found(seen.events[0], soma, -0.065).mean() > 0.9
    paired = np.isin(true.events[1].roi, pairs.proximal) & (true.events[1].magnitude > 0)
    trunk = PlaneEvents(*(getattr(true.events[1], name)[paired] for name in PlaneEvents.__struct_fields__))
    assert found(trunk, seen.events[1], 0.26).mean() > 0.85
    # what a wrong neuron's events would score
    assert found(PlaneEvents(soma.t_s, (soma.roi + 1) % 40, soma.magnitude), seen.events[0], 0.065).mean() < 0.2


def test_what_they_were_found_in_comes_with_them(day: dict[str, Path]):
    detected = read_any(day["traces"])
    recorded = read_plane(day["traces"], 0)
    n_frames, n_rois = recorded.f.shape
    assert detected.dff.shape == detected.rate.shape == (n_frames, n_rois) == (len(detected.frame_s), 40)
    assert np.diff(detected.frame_s) == pytest.approx(1 / recorded.rate_hz)
    assert detected.frame_s[0] == recorded.start_s
    assert [rois.tolist() for rois in detected.roi.values()] == [list(range(40))] * 2
    # an event lies where its ROI's rate is high
    frame = np.rint((detected.session.events[0].t_s - recorded.start_s) * recorded.rate_hz).astype(int)
    assert np.median(detected.rate[frame, detected.session.events[0].roi]) > 5 * detected.rate.mean()


def test_the_same_events_are_measured_on_dff(day: dict[str, Path]):
    detected = read_detected(day["traces"])
    for plane in (0, 1):
        by_rate = detected.session.events[plane]
        size = dict(zip(zip(by_rate.t_s, by_rate.roi, strict=True), by_rate.magnitude, strict=True))
        on_dff = detected.session_dff.events[plane]
        both = list(zip(on_dff.t_s, on_dff.roi, strict=True))
        assert set(both) <= set(size)
        assert len(both) > 0.9 * len(size)
        sizes = np.array([size[event] for event in both])
        assert np.corrcoef(np.log(sizes), np.log(on_dff.magnitude))[0, 1] > 0.6
        assert not np.array_equal(sizes, on_dff.magnitude)
    assert np.array_equal(detected.session_dff.role, detected.session.role)
    assert np.isin(detected.session_dff.events[1].roi, detected.pairs.proximal).all()


def test_events_of_a_file_without_fluorescence_are_taken_as_they_are(day: dict[str, Path]):
    true = read_session(day["events"])
    for found in (read_recorded(day["events"]), read_any(day["events"])):
        for plane in (0, 1):
            for name in PlaneEvents.__struct_fields__:
                assert np.array_equal(getattr(found.session.events[plane], name), getattr(true.events[plane], name))
        assert (found.pairs, found.session_dff, found.dff, found.rate, found.frame_s) == (None,) * 5


def test_a_file_that_holds_neither_is_refused_by_both_names(day: dict[str, Path], tmp_path: Path):
    path = tmp_path / "neither.nwb"
    shutil.copy(day["events"], path)
    with h5py.File(path, "r+") as file:
        del file["events/dendritic_events"]
    with pytest.raises(SessionError, match=r"neither .*RawFluorescenceDistal nor .*events/dendritic_events, expected"):
        read_any(path)
    with pytest.raises(SessionError, match=r"neither\.nwb: no events/dendritic_events, expected the events of both"):
        read_recorded(path)


def test_neuropil_is_taken_off_where_a_file_holds_it(day: dict[str, Path], tmp_path: Path):
    path = tmp_path / "neuropil.nwb"
    shutil.copy(day["traces"], path)
    bare = read_plane(path, 1)
    around = np.random.default_rng(0).uniform(20, 40, bare.f.shape)
    with h5py.File(path, "r+") as file:
        series = file.create_group(NEUROPIL[1])
        series["data"] = around
    assert np.allclose(read_plane(path, 1).f, bare.f - 0.7 * around)
    assert np.array_equal(read_plane(path, 0).f, read_plane(day["traces"], 0).f)
    with h5py.File(path, "r+") as file:
        del file[f"{NEUROPIL[1]}/data"]
        file[f"{NEUROPIL[1]}/data"] = around[:, 1:]
    with pytest.raises(SessionError, match=r"RawNeuropilDistal/data of shape \(\d+, 39\), expected \(\d+, 40\)"):
        read_plane(path, 1)


def test_a_decoders_cell_without_dff_is_refused_by_name(day: dict[str, Path], tmp_path: Path):
    path = tmp_path / "dark.nwb"
    shutil.copy(day["traces"], path)
    role = read_session(path).role
    for group in ("other", "minus"):
        row = int(np.flatnonzero(role == group)[0])
        with h5py.File(path, "r+") as file:
            file["processing/ophys/Fluorescence/RawFluorescenceProximal/data"][:, row] = 0
        if group == "other":
            assert np.isnan(read_detected(path).dff[:, row]).all()
        else:
            with pytest.raises(SessionError, match=rf"dark\.nwb: ROI {row} of plane 0 \(minus\) has no dF/F, expected"):
                read_detected(path)


def test_traces_without_their_row_in_the_table_are_refused(day: dict[str, Path], tmp_path: Path):
    path = tmp_path / "short.nwb"
    shutil.copy(day["traces"], path)
    with h5py.File(path, "r+") as file:
        role = file["processing/ophys/ImageSegmentation/RoisProximal/role"]
        kept = role[:30]
        del file[role.name]
        file["processing/ophys/ImageSegmentation/RoisProximal/role"] = kept
    with pytest.raises(SessionError, match=r"40 traces of plane 0, 30 rows in its table of ROIs, expected as many"):
        read_detected(path)


def test_lost_frames_are_filled_in_and_a_hole_is_refused(day: dict[str, Path], tmp_path: Path):
    whole = read_plane(day["traces"], 0)
    assert whole.rate_hz == pytest.approx(15.46, abs=0.01)
    for n_lost in (3, 30):
        path = tmp_path / f"{n_lost}.nwb"
        shutil.copy(day["traces"], path)
        with h5py.File(path, "r+") as file:
            series = file["processing/ophys/Fluorescence/RawFluorescenceProximal"]
            left = np.delete(np.arange(len(whole.f)), slice(1000, 1000 + n_lost))
            times = whole.start_s + left / whole.rate_hz
            data = whole.f[left].astype(np.uint16)
            del series["data"], series["starting_time"]
            series["data"], series["timestamps"] = data, times
        if n_lost == 3:
            filled = read_plane(path, 0)
            assert filled.f.shape == whole.f.shape
            assert np.array_equal(np.delete(filled.f, slice(1000, 1003), 0), np.delete(whole.f, slice(1000, 1003), 0))
            assert np.allclose(filled.f[1001], (whole.f[999] + whole.f[1003]) / 2)
        else:
            with pytest.raises(SessionError, match=r"RawFluorescenceProximal: a hole of 2\.0 s, expected <= 1 s"):
                read_plane(path, 0)


def test_a_session_without_fluorescence_is_refused_by_name(day: dict[str, Path]):
    with pytest.raises(SessionError, match="no /processing/ophys/Fluorescence"):
        read_detected(day["events"])


def test_frames_that_do_not_follow_each_other_are_refused(day: dict[str, Path], tmp_path: Path):
    path = tmp_path / "back.nwb"
    shutil.copy(day["traces"], path)
    with h5py.File(path, "r+") as file:
        series = file["processing/ophys/Fluorescence/RawFluorescenceDistal"]
        times = np.arange(len(series["data"])) / 15.46
        del series["starting_time"]
        times[100] = times[98]
        series["timestamps"] = times
    with pytest.raises(SessionError, match=r"RawFluorescenceDistal: times that do not rise, expected each frame after"):
        read_plane(path, 1)
