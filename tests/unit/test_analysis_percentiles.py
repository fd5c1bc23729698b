"""Percentiles without sorting are those of numpy, whatever the values."""

import numpy as np
import pytest

from loop2p.analysis.percentiles import NODES, percentile, rolling_percentile

N = 400
RNG = np.random.default_rng(0)
TRACES = {
    "normal": RNG.standard_normal((N, 3)),
    "whole counts": RNG.poisson(2.0, (N, 3)),
    "mostly 0": RNG.poisson(0.1, (N, 3)) * RNG.standard_normal((N, 3)),
    "all the same": np.full((N, 3), -2.5),
    "tiny": -1e-41 * RNG.exponential(size=(N, 3)),
    "far apart": 1e30 * RNG.standard_cauchy((N, 3)),
    "minus 0": np.where(RNG.random((N, 3)) < 0.5, -0.0, 0.0),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("percent", [0, 10, 37.3, 50, 99.5, 100])
def test_a_percentile_of_all_frames_is_numpys(name, percent):
    table = TRACES[name].astype(np.float32)
    for n in (1, 2, 3, N):
        expected = np.percentile(table[:n].astype(float), percent, axis=0)
        assert percentile(table[:n], percent) == pytest.approx(expected, rel=1e-6, abs=1e-44)


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("percent", [0, 10, 50, 83.1, 100])
def test_a_rolling_percentile_is_numpys_in_its_nodes(name, percent):
    table = TRACES[name].astype(np.float32)
    half = 40
    nodes = np.append(np.arange(0, N, 2 * half // NODES), N - 1)
    found = rolling_percentile(table, 1.0, 2.0 * half, percent)
    windows = [table[max(0, k - half) : k + half + 1].astype(float) for k in nodes]
    expected = np.array([np.percentile(window, percent, axis=0) for window in windows])
    assert found[nodes] == pytest.approx(expected, rel=1e-6, abs=1e-44)
    assert found[2] == pytest.approx(0.6 * found[0] + 0.4 * found[5], rel=1e-5, abs=1e-44)  # linear in between


def test_a_window_wider_than_the_recording_is_the_whole_recording():
    f = np.random.default_rng(2).gamma(9, 20, (50, 3))
    expected = np.broadcast_to(np.percentile(f, 10, axis=0), f.shape)
    assert np.allclose(rolling_percentile(f, 1.0, 1000.0, 10.0), expected, rtol=1e-6)


def test_a_roi_with_a_value_that_is_not_finite_is_nan_and_does_not_touch_the_others():
    table = TRACES["normal"].copy()
    table[7, 0], table[9, 2] = np.nan, np.inf
    assert np.isnan(percentile(table, 50)).tolist() == [True, False, True]
    found = rolling_percentile(table, 1.0, 30.0, 20.0)
    assert np.isnan(found[:, [0, 2]]).all()
    assert np.array_equal(found[:, [1]], rolling_percentile(table[:, [1]], 1.0, 30.0, 20.0))


def test_no_roi_has_no_percentile():
    assert percentile(np.zeros((5, 0)), 50).shape == (0,)
    assert rolling_percentile(np.zeros((5, 0)), 1.0, 3.0, 50).shape == (5, 0)


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(n_frames, n_rois\)"):
        percentile(np.ones(5), 50)
    with pytest.raises(ValueError, match=r"shape \(0, 5\), expected .* at least one frame"):
        rolling_percentile(np.ones((0, 5)), 1.0, 1.0, 50)
    with pytest.raises(ValueError, match="percentile 101, expected 0 to 100"):
        percentile(np.ones((5, 1)), 101)
    with pytest.raises(ValueError, match="rate_hz 0, window_s 3"):
        rolling_percentile(np.ones((5, 1)), 0, 3, 50)
