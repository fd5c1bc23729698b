"""Pairs and duplicates among traces whose truth is known."""

import numpy as np
import pytest

from loop2p.analysis.pairs import correlations, in_proximal_rows, pair, single, snr
from loop2p.analysis.sessions import PlaneEvents

RATE_HZ = 15.46
N_FRAMES = 12_000


def activity(n: int, seed: int, size: float = 0.7, n_frames: int = N_FRAMES) -> np.ndarray:
    """(n_frames, n) dF/F without noise: events at 0.05 Hz that decay in 0.4 s."""
    rng = np.random.default_rng(seed)
    spikes = (rng.random((n_frames, n)) < 0.05 / RATE_HZ) * rng.lognormal(np.log(size), 0.4, (n_frames, n))
    kernel = np.exp(-np.arange(40) / (0.4 * RATE_HZ))
    return np.apply_along_axis(lambda x: np.convolve(x, kernel)[:n_frames], 0, spikes)


def noisy(clean: np.ndarray, seed: int, sd: float = 0.1) -> np.ndarray:
    return clean + np.random.default_rng(seed).normal(0, sd, clean.shape)


def found(pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.proximal.tolist(), pairs.distal.tolist(), strict=True))


def test_snr_is_the_height_of_events_over_the_noise():
    quiet, loud = noisy(activity(5, 1), 2, sd=0.05), noisy(activity(5, 1), 2, sd=0.1)
    assert (np.median(snr(quiet)) / np.median(snr(loud))) == pytest.approx(2, rel=0.1)
    only_noise = snr(np.random.default_rng(3).standard_normal((50_000, 4)))
    assert only_noise == pytest.approx([2.576] * 4, rel=0.05)  # a Gaussian's 99.5th percentile


def test_neither_a_slow_drift_nor_one_bad_frame_is_signal_to_noise():
    trace = np.random.default_rng(3).standard_normal((20_000, 3))
    trace[:, 1] += np.linspace(0, 0.5, len(trace))
    trace[500, 2] = 1000.0
    assert snr(trace) == pytest.approx(snr(trace)[[0, 0, 0]], rel=0.15)


def test_a_flat_or_broken_trace_has_no_snr_and_no_partner():
    traces = noisy(activity(3, 1), 2)
    traces[:, 1], traces[7, 2] = 0.3, np.nan
    assert np.isnan(snr(traces)).tolist() == [False, True, True]
    assert found(pair(traces, traces, RATE_HZ)) == [(0, 0)]
    assert correlations(traces, traces, RATE_HZ)[1:].tolist() == [[0.0] * 3] * 2


def test_correlations_are_pearsons():
    one, other = noisy(activity(4, 1), 2), noisy(activity(3, 5), 6)
    other[:, 0] += one[:, 2]
    expected = np.corrcoef(one.T, other.T)[:4, 4:]
    assert correlations(one, other, RATE_HZ, smooth_s=0) == pytest.approx(expected, abs=1e-5)


def test_pairs_are_found_in_another_order_and_with_cells_in_one_plane_only():
    clean = activity(30, 1)
    order = np.random.default_rng(4).permutation(30)
    distal = noisy(0.2 + 0.7 * clean[:, order], 3)[:, :25]
    pairs = pair(noisy(clean, 2), distal[:-1], RATE_HZ, smooth_s=0.2)
    assert sorted(found(pairs)) == sorted(zip(order[:25].tolist(), range(25), strict=True))
    assert np.all(np.diff(pairs.proximal) > 0)
    assert pairs.r.min() >= 0.6


def test_unrelated_planes_have_no_pairs():
    assert found(pair(noisy(activity(60, 1), 2), noisy(activity(60, 7), 3), RATE_HZ)) == []


def test_smoothing_finds_pairs_that_noise_hides_and_makes_none_up():
    clean, foreign = activity(30, 1), activity(30, 8)
    proximal, distal = noisy(clean, 2, sd=0.15), noisy(np.hstack([clean, foreign]), 3, sd=0.15)
    assert len(found(pair(proximal, distal, RATE_HZ, smooth_s=0))) < 10
    smoothed = found(pair(proximal, distal, RATE_HZ, smooth_s=0.2))
    assert len(smoothed) >= 28
    assert all(p == d for p, d in smoothed)


def test_of_several_partners_the_best_snr_is_kept_and_the_rule_is_one_to_one():
    clean = activity(2, 1)
    proximal = noisy(clean, 2, sd=0.05)
    # Cell 0 has three distal ROIs, the clearest in the middle; cell 1 has one.
    distal = np.column_stack([noisy(clean[:, [c]], 3 + k, sd=sd)[:, 0] for k, (c, sd) in enumerate(
        [(0, 0.12), (0, 0.04), (0, 0.08), (1, 0.12)]
    )])  # fmt: skip
    pairs = pair(proximal, distal, RATE_HZ)
    assert found(pairs) == [(0, 1), (1, 3)]
    assert pairs.snr == pytest.approx(np.sqrt(snr(proximal) * snr(distal)[[1, 3]]))
    assert found(pair(distal, proximal, RATE_HZ)) == [(1, 0), (3, 1)]


def test_the_best_partner_taken_leaves_the_second():
    clean = np.repeat(activity(1, 1), 2, axis=1)  # two ROIs of one cell in each plane
    proximal = np.column_stack([noisy(clean, k, sd=sd)[:, 0] for k, sd in ((2, 0.10), (3, 0.05))])
    distal = np.column_stack([noisy(clean, k, sd=sd)[:, 0] for k, sd in ((4, 0.10), (5, 0.05))])
    assert found(pair(proximal, distal, RATE_HZ, smooth_s=0.2)) == [(0, 0), (1, 1)]


def test_planes_that_differ_by_more_than_a_frame_are_refused():
    traces = noisy(activity(2, 1), 2)
    with pytest.raises(ValueError, match=r"planes of 12000 and 11998 frames, expected equal numbers or one more"):
        pair(traces, traces[:-2], RATE_HZ)
    with pytest.raises(ValueError, match=r"one of shape \(12000,\), expected \(n_frames, n_rois\)"):
        correlations(traces[:, 0], traces, RATE_HZ)


def test_distal_events_take_the_row_of_their_proximal_roi():
    clean = activity(3, 1)
    pairs = pair(noisy(clean, 2), noisy(clean[:, [2, 0]], 3), RATE_HZ)
    events = PlaneEvents(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 5, 0]), np.array([0.1, 0.2, 0.3, 0.4]))
    renamed = in_proximal_rows(events, pairs)
    assert renamed.roi.tolist() == [0, 2, 2]
    assert renamed.t_s.tolist() == [1.0, 2.0, 4.0]
    assert renamed.magnitude.tolist() == [0.1, 0.2, 0.4]


def test_of_duplicates_that_are_near_the_clearest_stays():
    clean = activity(3, 1)
    dff = np.column_stack([noisy(clean[:, [c]], 10 + k, sd=sd)[:, 0] for k, (c, sd) in enumerate(
        [(0, 0.10), (1, 0.1), (0, 0.05), (0, 0.10), (2, 0.1)]
    )])  # fmt: skip
    centre_um = np.array([[0, 0], [5, 0], [19, 0], [100, 0], [6, 0]])
    assert single(dff, RATE_HZ, centre_um).tolist() == [1, 2, 3, 4]  # 0 is 2 again; 3 is far; 1 and 4 are other cells
    with pytest.raises(ValueError, match=r"centres of shape \(4, 2\), expected \(5, 2\)"):
        single(dff, RATE_HZ, centre_um[:4])


def test_without_centres_only_traces_that_are_nearly_equal_are_duplicates():
    clean = activity(2, 1)
    partly = 0.8 * clean[:, 0] + 0.6 * clean[:, 1]
    dff = noisy(np.column_stack([clean[:, 0], clean[:, 0], clean[:, 1], partly]), 2, sd=0.02)
    assert 0.6 < correlations(dff, dff, RATE_HZ)[0, 3] < 0.9
    assert len(single(dff, RATE_HZ)) == 3
    assert set(single(dff, RATE_HZ)) > {2, 3}
