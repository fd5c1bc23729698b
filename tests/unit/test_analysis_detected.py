"""Events found in the fluorescence of a simulated day, against those that made it."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from loop2p.analysis.detected import read_detected
from loop2p.analysis.sessions import PlaneEvents, SessionError, read_fluorescence, read_session
from loop2p.simulation.cohort import CohortParams, prepare, run_day

TASK = """
[baseline]
duration_s = 60
[calibration]
window_s = 8
[trial]
loop_s = 8
[closed_loop]
duration_s = 180
"""


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
    true, (seen, pairs) = read_session(day["events"]), read_detected(day["traces"])
    assert np.array_equal(seen.outcome, true.outcome)
    assert np.array_equal(pairs.proximal, pairs.distal)  # row k is neuron k in both planes of a simulated day
    assert len(pairs.r) > 25
    soma = true.events[0]
    assert len(soma.t_s) > 100
    assert found(soma, seen.events[0], 0.065).mean() > 0.95
    assert found(seen.events[0], soma, -0.065).mean() > 0.9
    paired = np.isin(true.events[1].roi, pairs.proximal) & (true.events[1].magnitude > 0)
    trunk = PlaneEvents(*(getattr(true.events[1], name)[paired] for name in PlaneEvents.__struct_fields__))
    assert found(trunk, seen.events[1], 0.26).mean() > 0.85
    # what a wrong neuron's events would score
    assert found(PlaneEvents(soma.t_s, (soma.roi + 1) % 40, soma.magnitude), seen.events[0], 0.065).mean() < 0.2


def test_lost_frames_are_filled_in_and_a_hole_is_refused(day: dict[str, Path], tmp_path: Path):
    whole = read_fluorescence(day["traces"])[0]
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
            filled = read_fluorescence(path)[0]
            assert filled.f.shape == whole.f.shape
            assert np.array_equal(np.delete(filled.f, slice(1000, 1003), 0), np.delete(whole.f, slice(1000, 1003), 0))
            assert np.allclose(filled.f[1001], (whole.f[999] + whole.f[1003]) / 2)
        else:
            with pytest.raises(SessionError, match=r"RawFluorescenceProximal: a hole of 2\.0 s, expected <= 1 s"):
                read_fluorescence(path)


def test_a_session_without_fluorescence_is_refused_by_name(day: dict[str, Path]):
    with pytest.raises(SessionError, match="no /processing/ophys/Fluorescence"):
        read_detected(day["events"])
