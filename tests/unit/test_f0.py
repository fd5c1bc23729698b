"""F0 is np.percentile of the previous 30 s, whatever the frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loop2p.decoding import RollingF0
from loop2p.decoding.bench import bench_f0

Frames = NDArray[np.float32]


def expected(frames: Frames, window: int, percentile: float) -> Frames:
    """F0 of every frame, the slow way."""
    return np.array(
        [np.percentile(frames[max(0, k + 1 - window) : k + 1], percentile, axis=0) for k in range(len(frames))]
    )


def rolling(f0: RollingF0, frames: Frames) -> Frames:
    return np.array([f0.update(f).copy() for f in frames])


HUGE = 2.0**100
VALUES = [st.integers(-3, 3).map(float), st.floats(0, 4096, width=32), st.floats(-HUGE, HUGE, width=32)]
"""Few values with many ties; counts; extremes."""


@st.composite
def recordings(draw: st.DrawFn) -> Frames:
    """Frames of a few ROIs."""
    n_rois, n_frames = draw(st.integers(1, 4)), draw(st.integers(1, 60))
    value = draw(st.sampled_from(VALUES))
    flat = draw(st.lists(value, min_size=n_rois * n_frames, max_size=n_rois * n_frames))
    return np.array(flat, np.float32).reshape(n_frames, n_rois)


@settings(max_examples=200)
@given(recordings(), st.integers(1, 20), st.sampled_from([0.0, 10.0, 37.5, 50.0, 100.0]))
def test_equals_numpys_percentile_of_the_last_frames(frames: Frames, window: int, percentile: float) -> None:
    got = rolling(RollingF0(frames.shape[1], window, percentile), frames)
    # float32 sums of values of both signs may cancel: the tolerance is relative to the window's largest value
    scale = np.abs(frames).max()
    np.testing.assert_allclose(got, expected(frames, window, percentile), rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("trend", ["flat", "bleaching", "brightening"])
def test_equals_numpys_percentile_over_minutes(trend: str) -> None:
    rng = np.random.default_rng(2)
    slope = {"flat": 0.0, "bleaching": -0.05, "brightening": 0.05}[trend]
    frames = (rng.gamma(9.0, 20.0, (1500, 3)) + 100 + slope * np.arange(1500)[:, None]).astype(np.float32)
    np.testing.assert_allclose(rolling(RollingF0(3, 464), frames), expected(frames, 464, 10), rtol=1e-5)


def test_the_first_frame_is_its_own_f0() -> None:
    assert RollingF0(2, 464).update(np.array([5, 7], np.float32)).tolist() == [5, 7]


def test_the_window_holds_the_present_frame_and_as_many_before_as_it_says() -> None:
    f0 = RollingF0(1, 3, percentile=0)
    assert [float(f0.update(np.array([v], np.float32))[0]) for v in (1, 5, 6, 7, 2)] == [1, 1, 1, 5, 2]


def test_reset_forgets() -> None:
    frames = np.random.default_rng(3).gamma(4, 50, (30, 2)).astype(np.float32)
    f0 = RollingF0(2, 10)
    first = rolling(f0, frames)
    f0.reset()
    np.testing.assert_array_equal(rolling(f0, frames), first)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_and_leaves_the_window_alone(bad: float) -> None:
    frames = np.random.default_rng(4).gamma(4, 50, (40, 3)).astype(np.float32)
    f0 = RollingF0(3, 10)
    rolling(f0, frames[:25])
    with pytest.raises(ArithmeticError, match=r"ROI 1: F is -?(nan|inf), expected a finite number"):
        f0.update(np.array([1, bad, 3], np.float32))
    np.testing.assert_allclose(rolling(f0, frames[25:]), expected(frames, 10, 10)[25:], rtol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="2 cells, expected 3"):
        RollingF0(3, 10).update(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="window of 0 frames"):
        RollingF0(3, 0)
    with pytest.raises(ValueError, match="percentile 101"):
        RollingF0(3, 10, 101)


def test_the_benchmark_measures_equal_results() -> None:
    result = bench_f0(seed=1, n_rois=5, repeats=10)
    assert result["n"] == 10
    assert result["max_abs_diff"] < 1e-5
    assert 0 < result["ours"]["min"] <= result["ours"]["p50"] <= result["ours"]["p99"]
    assert 0 < result["numpy"]["min"] <= result["numpy"]["p50"] <= result["numpy"]["p99"]
