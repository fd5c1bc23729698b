"""Which ROIs are P+ and P-."""

import numpy as np
import pytest

from loop2p.task import rank_by_event_rate, split
from loop2p.task.selection import SelectionParams


def test_a_split_is_equal_whole_seeded_and_random():
    plus, minus = split([3, 5, 8, 13, 21, 34, 55, 89], seed=1)
    assert len(plus) == len(minus) == 4
    assert sorted(plus + minus) == [3, 5, 8, 13, 21, 34, 55, 89]
    assert split([3, 5, 8, 13, 21, 34, 55, 89], seed=1) == (plus, minus)
    counts = np.zeros(8)
    for seed in range(400):
        counts[split(range(8), seed)[0]] += 1
    assert (abs(counts - 200) < 50).all()  # 5 standard deviations


def traces(rates_hz: list[float], n: int = 12_000, rate_hz: float = 15.46) -> np.ndarray:
    rng = np.random.default_rng(7)
    kernel = np.exp(-np.arange(30) / 8)
    columns = [np.convolve(rng.random(n) < r / rate_hz, kernel)[:n] + 0.05 * rng.standard_normal(n) for r in rates_hz]
    return np.column_stack(columns)


def test_the_most_active_roi_comes_first_with_its_rate():
    ranked = rank_by_event_rate(traces([0.01, 0.08, 0.0, 0.04]), 15.46)
    assert [c.roi for c in ranked] == [1, 3, 0, 2]
    assert ranked[0].rate_hz == pytest.approx(0.08, rel=0.35)
    assert ranked[-1].rate_hz < 0.005


def test_a_dead_or_broken_trace_has_no_events():
    dff = traces([0.05, 0.05, 0.05])
    dff[:, 1] = 0.0
    dff[100, 2] = np.nan
    ranked = rank_by_event_rate(dff, 15.46)
    assert ranked[0].roi == 0
    assert [c.rate_hz for c in ranked[1:]] == [0.0, 0.0]


def test_a_table_is_expected():
    with pytest.raises(ValueError, match=r"shape \(5,\), expected \(n_frames, n_rois\)"):
        rank_by_event_rate(np.zeros(5), 15.46)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rois": (1, 2, 3)}, "even number"),
        ({"rois": (1, 2, 2, 3)}, "ROI 2 is named twice"),
        ({"plus": (1,), "minus": (1,)}, "ROI 1 is named twice"),
        ({"plus": (1,)}, "expected ROIs in both"),
        ({"rois": (1, 2), "plus": (3,), "minus": (4,)}, "expected one of them"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(given: dict[str, tuple[int, ...]], words: str):
    with pytest.raises(ValueError, match=words):
        SelectionParams(**given)
