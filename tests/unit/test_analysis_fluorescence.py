"""dF/F with F0 from a sliding window, and neuropil taken off, on traces whose parts are known."""

import numpy as np
import pytest

from loop2p.analysis.fluorescence import dff, subtract_neuropil, subtract_shared
from loop2p.analysis.percentiles import rolling_percentile

RATE_HZ = 15.46


def calcium(n_frames: int, n_rois: int, rng: np.random.Generator, rate_hz: float = 0.05) -> np.ndarray:
    """(n_frames, n_rois) dF/F of Poisson events of size 0.7 that decay with 0.45 s."""
    spikes = (rng.random((n_frames, n_rois)) < rate_hz / RATE_HZ) * rng.lognormal(-0.46, 0.45, (n_frames, n_rois))
    trace, now = np.empty_like(spikes), np.zeros(n_rois)
    for k, new in enumerate(spikes):
        now = now * np.exp(-1 / (0.45 * RATE_HZ)) + new
        trace[k] = now
    return trace


def exact_f0(f: np.ndarray, half: int, frames: range) -> np.ndarray:
    """The slow way, (len(frames), n_rois)."""
    return np.array([np.percentile(f[max(0, k - half) : k + half + 1], 10, axis=0) for k in frames])


@pytest.mark.parametrize("trend", [0.0, -0.3, 0.3])
def test_f0_is_numpys_percentile_of_the_window_to_a_fraction_of_the_noise(trend):
    rng = np.random.default_rng(1)
    n, frames = 9000, range(0, 9000, 17)
    slope = 1 + trend * np.linspace(0, 1, n)[:, None]
    f = 1000 * slope * (1 + calcium(n, 4, rng) + 0.04 * rng.standard_normal((n, 4)))
    found = rolling_percentile(f, RATE_HZ, 120.0, 10.0)
    error = np.abs(found[frames] / exact_f0(f, round(60 * RATE_HZ), frames) - 1)
    print(
        f"error of F0 in SD of the noise: rms {np.sqrt(np.mean(error**2)) / 0.04:.4f}, largest {error.max() / 0.04:.4f}"
    )
    assert error.max() < 0.1 * 0.04
    assert np.sqrt(np.mean(error**2)) < 0.02 * 0.04


def test_dff_does_not_know_gain_and_slow_drift():
    rng = np.random.default_rng(3)
    truth = calcium(9000, 5, rng) + 0.04 * rng.standard_normal((9000, 5))
    gain = np.array([100.0, 300, 1000, 3000, 10000])
    drift = 1 + 0.1 * np.sin(np.linspace(0, 2 * np.pi, 9000))[:, None]
    still, moved = dff((1 + truth) * gain, RATE_HZ), dff((1 + truth) * gain * drift, RATE_HZ)
    assert np.allclose(still, dff(1 + truth, RATE_HZ), atol=1e-4)
    for k in range(5):
        assert np.corrcoef(still[:, k], truth[:, k])[0, 1] > 0.999
        assert np.corrcoef(moved[:, k], truth[:, k])[0, 1] > 0.98


def test_whole_counts_do_not_wrap():
    counts = np.full((3000, 1), 500, np.uint16)
    counts[1000:1010] = 400  # below F0
    assert dff(counts, RATE_HZ)[1005, 0] == pytest.approx(-0.2)


def test_a_roi_without_a_positive_f0_has_no_dff_and_does_not_touch_the_others():
    f = np.random.default_rng(4).normal(100, 3, (3000, 4))
    alone = dff(f[:, [0]], RATE_HZ)
    f[:, 1] -= 100
    f[:, 2] = 0
    f[1500, 3] = np.nan
    found = dff(f, RATE_HZ)
    assert np.isnan(found[:, 1:]).all()
    assert np.array_equal(found[:, :1], alone)


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(n_frames, n_rois\)"):
        dff(np.ones(5), RATE_HZ)
    with pytest.raises(ValueError, match="rate_hz 0, window_s"):
        dff(np.ones((5, 1)), 0)


def test_neuropil_traces_are_taken_off_by_their_share():
    rng = np.random.default_rng(5)
    truth, around = 100 + calcium(500, 3, rng), 50 + calcium(500, 3, rng)
    assert np.allclose(subtract_neuropil(truth + 0.7 * around, around), truth, atol=1e-4)
    with pytest.raises(ValueError, match=r"\(500, 3\) and neuropil \(500, 2\)"):
        subtract_neuropil(truth, around[:, :2])


def shared(share: float, seed: int, n: int = 6000, n_rois: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A plane's dF/F, what its cells do, and the neuropil, whose SD is half of the noise's at a share of 1."""
    rng = np.random.default_rng(seed)
    own = calcium(n, n_rois, rng, 0.03)
    common = calcium(n, 1, rng, 0.5)
    common *= 0.02 / common.std()
    return own + share * common + 0.04 * rng.standard_normal(own.shape), own, common


def left(trace: np.ndarray, common: np.ndarray) -> float:
    """Mean slope of the traces' errors on the neuropil."""
    return float(np.mean([np.polyfit(common[:, 0], e, 1)[0] for e in trace.T]))


def test_what_all_rois_share_is_taken_off_without_neuropil_traces():
    traces, own, common = shared(1.0, 6)
    assert left(traces - own, common) == pytest.approx(1, abs=0.1)
    assert abs(left(subtract_shared(traces) - own, common)) < 0.35


def test_where_nothing_is_shared_next_to_nothing_changes():
    """The null: independent cells."""
    traces, _, _ = shared(0.0, 7)
    change = subtract_shared(traces) - traces
    assert np.sqrt(np.mean(change**2)) < 0.1 * 0.04


def test_events_that_cells_share_are_not_turned_upside_down_in_a_cell_without_them():
    """Half of the cells burst together, strongly; the other half must not show the mirror image of it."""
    rng = np.random.default_rng(8)
    together = calcium(12000, 1, rng, 0.05)
    traces = 0.04 * rng.standard_normal((12000, 40))
    traces[:, :20] += together
    quiet_half = subtract_shared(traces)[:, 20:]
    slopes = [np.polyfit(together[:, 0], trace, 1)[0] for trace in quiet_half.T]
    assert np.abs(slopes).max() < 0.02


def test_a_roi_that_is_nan_stays_so_and_is_left_out():
    traces, _, _ = shared(1.0, 9, n=2000, n_rois=6)
    traces[:, 2] = np.nan
    found = subtract_shared(traces)
    assert np.isnan(found[:, 2]).all()
    rest = [0, 1, 3, 4, 5]
    assert np.array_equal(found[:, rest], subtract_shared(traces[:, rest]))
    assert np.array_equal(subtract_shared(traces[:, :1]), traces[:, :1].astype(np.float32))
