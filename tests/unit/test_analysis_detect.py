"""Events are found where they were planted, with their sizes; none is found in noise."""

import numpy as np
import pytest

from loop2p.analysis.detect import find_events, find_events_dff
from loop2p.analysis.residuals import coincident
from loop2p.analysis.sessions import PlaneEvents
from loop2p.analysis.spikes import Oasis

RATE_HZ, START_S = 15.46, 12.5
N_FRAMES, N_ROIS = 12000, 12


def planted(
    enters_frames: int, tau_s: float, noise: float = 0.04, apart_s: float = 4.0, seed: int = 0
) -> tuple[np.ndarray, PlaneEvents]:
    """Traces (n_frames, n_rois) in which calcium enters over some frames, and the events: begin, size."""
    rng = np.random.default_rng(seed)
    enters = np.zeros((N_FRAMES, N_ROIS))
    times, rois, sizes = [], [], []
    for roi in range(N_ROIS):
        frame = 30
        while (frame := frame + round(apart_s * RATE_HZ) + rng.geometric(0.004)) < N_FRAMES - 60:
            size = rng.lognormal(-0.46, 0.45)
            enters[frame : frame + enters_frames, roi] += size / enters_frames
            times.append(START_S + frame / RATE_HZ)
            rois.append(roi)
            sizes.append(size)
    calcium, now = np.empty_like(enters), np.zeros(N_ROIS)
    for k, new in enumerate(enters):
        now = now * np.exp(-1 / (tau_s * RATE_HZ)) + new
        calcium[k] = now
    order = np.argsort(times)
    events = PlaneEvents(np.array(times)[order], np.array(rois)[order], np.array(sizes)[order])
    return calcium + noise * rng.standard_normal(calcium.shape), events


PLANES = {"proximal": (3, 0.45, 0.1), "distal": (12, 0.35, 0.45)}
"""Frames over which calcium enters, its decay, and by how much the peak is later than the begin at most, s."""


@pytest.mark.parametrize("plane", PLANES)
def test_planted_events_are_found_with_their_sizes(plane):
    frames, tau_s, late_s = PLANES[plane]
    traces, truth = planted(frames, tau_s)
    found = find_events(Oasis().infer(traces, RATE_HZ), RATE_HZ, START_S)
    both = coincident(truth, found, 0.6)
    assert len(both.t_s) > 0.95 * len(truth.t_s)
    assert len(both.t_s) > 0.95 * len(found.t_s)
    assert np.corrcoef(both.soma, both.dendrite)[0, 1] > 0.9
    times = PlaneEvents(found.t_s, found.roi, found.t_s)
    late = coincident(PlaneEvents(truth.t_s, truth.roi, truth.t_s), times, 0.6)
    assert 0 <= np.median(late.dendrite - late.soma) <= late_s


def test_noise_has_next_to_no_events():
    """The null, in a plane where others have events: less than one in ten minutes, where real ROIs have 17."""
    noise = 0.04 * np.random.default_rng(1).standard_normal((N_FRAMES, N_ROIS))
    plane = np.concatenate([noise, planted(3, 0.45)[0]], axis=1)
    found = find_events(Oasis().infer(plane, RATE_HZ), RATE_HZ, START_S)
    minutes = N_ROIS * N_FRAMES / RATE_HZ / 60
    assert np.sum(found.roi < N_ROIS) / minutes < 0.1
    assert np.sum(found.roi >= N_ROIS) / minutes > 1


def test_events_come_in_order_of_time_with_the_frame_time_of_their_peak():
    rates = np.zeros((100, 3))
    rates[40, 0], rates[20, 2], rates[60, 2] = 2, 3, 4
    found = find_events(rates, 10.0, 5.0)
    assert found.t_s.tolist() == [7, 9, 11]
    assert found.roi.tolist() == [2, 0, 2]
    assert found.roi.dtype == np.int64
    assert found.magnitude.tolist() == pytest.approx([0.3, 0.2, 0.4])  # height x one frame at half height


def test_a_peak_on_the_flank_of_another_has_the_width_of_its_own_part():
    k = np.arange(200)
    rates = (np.exp(-((k - 100) ** 2) / 18) + 0.6 * np.exp(-((k - 109) ** 2) / 18))[:, None]
    found = find_events(rates, 10.0, 0.0)
    assert len(found.t_s) == 2
    assert found.magnitude[1] / found.magnitude[0] < 0.7


def test_the_threshold_is_the_traces_own_noise():
    rng = np.random.default_rng(2)
    rates = np.abs(rng.normal(0, 1, (5000, 1)))
    rates[2500] = 30
    quiet, loud = (find_events(rates * scale, RATE_HZ, 0.0, 8.0) for scale in (1, 1000))
    assert len(quiet.t_s) == len(loud.t_s) == 1
    assert len(find_events(rates, RATE_HZ, 0.0, 1.0).t_s) > 100


def test_rois_without_a_rate_have_no_events():
    assert len(find_events(np.full((100, 2), np.nan), RATE_HZ, 0.0).t_s) == 0
    assert len(find_events(np.zeros((100, 2)), RATE_HZ, 0.0).t_s) == 0
    assert len(find_events(np.zeros((100, 0)), RATE_HZ, 0.0).t_s) == 0
    with pytest.raises(ValueError, match=r"shape \(100,\), expected"):
        find_events(np.zeros(100), RATE_HZ, 0.0)


@pytest.mark.parametrize("plane", PLANES)
def test_on_dff_the_same_events_have_a_size_too(plane):
    frames, tau_s, _ = PLANES[plane]
    traces, truth = planted(frames, tau_s)
    found = find_events(Oasis().infer(traces, RATE_HZ), RATE_HZ, START_S)
    measured = find_events_dff(traces, found, RATE_HZ, START_S)
    assert len(measured.t_s) > 0.9 * len(found.t_s)
    both = coincident(truth, measured, 0.6)
    assert np.corrcoef(both.soma, both.dendrite)[0, 1] > 0.7


def test_a_fall_has_no_onset():
    """The null: the trace upside down."""
    traces, truth = planted(3, 0.45, noise=0.0)
    up = find_events_dff(traces, truth, RATE_HZ, START_S)
    down = find_events_dff(-traces, truth, RATE_HZ, START_S)
    assert len(up.t_s) > 0.9 * len(truth.t_s)
    assert down.magnitude.sum() < 0.5 * up.magnitude.sum()


def test_a_larger_event_soon_after_does_not_lend_its_peak():
    rise, fall = np.linspace(0, 1, 7), np.linspace(1, 0, 9)
    trace = np.concatenate([np.zeros(50), rise, fall, 3 * rise, 3 * fall, np.zeros(60)])[:, None]
    times = np.array([54, 71]) / RATE_HZ
    found = find_events_dff(trace, PlaneEvents(times, np.array([0, 0]), np.ones(2)), RATE_HZ, 0.0, smooth_s=0)
    assert found.magnitude.tolist() == pytest.approx([6 / RATE_HZ, 3 * 6 / RATE_HZ], rel=0.2)
    alone = find_events_dff(trace, PlaneEvents(times[:1], np.array([0]), np.ones(1)), RATE_HZ, 0.0, smooth_s=0)
    assert alone.magnitude[0] > 5 * found.magnitude[0]  # its follower was not detected


def test_an_onset_and_peak_drawn_by_hand():
    """Flat, a rise of 6 frames from frame 50, a fall."""
    trace = np.concatenate([np.zeros(50), np.linspace(0, 3, 7), np.linspace(3, 0, 40), np.zeros(40)])[:, None]
    event = PlaneEvents(np.array([53 / RATE_HZ]), np.array([0]), np.array([1.0]))
    found = find_events_dff(trace, event, RATE_HZ, 0.0, smooth_s=0)
    assert found.t_s.tolist() == event.t_s.tolist()
    assert found.magnitude.tolist() == pytest.approx([3 * 6 / RATE_HZ])
    assert len(find_events_dff(trace[1:-44], event, RATE_HZ, 0.0, smooth_s=0).t_s) == 1  # at the very end
    short = np.concatenate([trace[:50], trace[53:]])  # a rise of 3 frames is none
    assert len(find_events_dff(short, event, RATE_HZ, 0.0, smooth_s=0).t_s) == 0
    flat = PlaneEvents(np.array([20 / RATE_HZ]), np.array([0]), np.array([1.0]))
    assert len(find_events_dff(np.zeros_like(trace), flat, RATE_HZ, 0.0).t_s) == 0
