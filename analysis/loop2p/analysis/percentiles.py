"""Percentiles of traces, at rest or rolling: a rank is found by halving the range of values, without sorting.

Each half is a count over the window, a pass without branches or copies, and 32 of them always do. For a plane of 50,000
frames and 300 ROIs, windows of 120 s take 0.55 s, where np.partition of each takes 2.6 s; the noise of all traces, a
median, takes 0.08 s, with np.median 0.37 s (measured).
"""

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

NODES = 16
"""A rolling percentile is computed so many times a window, and interpolated in between."""
OTHER_BITS = 0x7FFFFFFF
"""All of a float32 but its sign."""


def percentile(traces: ArrayLike, percent: float) -> NDArray[np.float32]:
    """(n_rois,): np.percentile(traces, percent, axis=0) of (n_frames, n_rois) in float32; NaN where a value is not
    finite. Raises ValueError for what is no table of frames.
    """
    table = _checked(traces, percent)
    start, stop = np.zeros(1, np.int64), np.full(1, len(table))
    found = np.full(table.shape[1], np.nan, np.float32)
    for roi in np.flatnonzero(np.isfinite(table).all(axis=0)):
        found[roi] = _of_windows(table[:, roi], start, stop, percent)[0]
    return found


def rolling_percentile(f: ArrayLike, rate_hz: float, window_s: float, percent: float) -> NDArray[np.float32]:
    """(n_frames, n_rois) float32: percentile of the window centred on each frame, shortened at the ends.

    Exact in NODES frames a window, linear in between: a window that moved on by a sixteenth has hardly changed. A ROI
    with a value that is not finite is NaN throughout. Raises ValueError for what is no table of frames.
    """
    table = _checked(f, percent)
    if not (rate_hz > 0 and window_s > 0):
        raise ValueError(f"rate_hz {rate_hz}, window_s {window_s}: expected both above 0")
    half = max(1, round(window_s * rate_hz / 2))
    frames = np.arange(len(table))
    nodes = np.unique(np.append(frames[:: max(1, 2 * half // NODES)], frames[-1]))
    start, stop = np.maximum(nodes - half, 0), np.minimum(nodes + half + 1, len(table))
    found = np.full(table.shape, np.nan, np.float32)
    for roi in np.flatnonzero(np.isfinite(table).all(axis=0)):
        found[:, roi] = np.interp(frames, nodes, _of_windows(table[:, roi], start, stop, percent))
    return found


def _checked(traces: ArrayLike, percent: float) -> NDArray[np.float32]:
    table = np.asarray(traces, np.float32)
    if table.ndim != 2 or not len(table):
        raise ValueError(f"traces of shape {table.shape}, expected (n_frames, n_rois) with at least one frame")
    if not 0 <= percent <= 100:
        raise ValueError(f"percentile {percent}, expected 0 to 100")
    return table


def _of_windows(
    trace: NDArray[np.float32], start: NDArray[np.int64], stop: NDArray[np.int64], percent: float
) -> NDArray[np.float32]:
    """(n_windows,) percentile of each trace[start:stop], linear between the two values around it."""
    rank = percent / 100 * (stop - start - 1)
    below = np.floor(rank).astype(np.int64)
    bits = np.ascontiguousarray(trace).view(np.int32)
    keys = np.empty((2, len(start)), np.int32)
    _select(_ordered(bits), start, stop, below, keys)
    low, high = _ordered(keys).view(np.float32)
    return np.asarray(low + (rank - below).astype(np.float32) * (high - low))


def _ordered(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Finite float32 numbers' bits as whole numbers of the same order, and back: those of negative ones are turned."""
    return bits ^ ((bits >> 31) & OTHER_BITS)


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _select(
    keys: NDArray[np.int32],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    below: NDArray[np.int64],
    found: NDArray[np.int32],
) -> None:
    """Write to `found` (2, n_windows) the key of each window that comes after `below` others, and the one after it."""
    lowest, highest = int(keys.min()), int(keys.max())
    for k in range(start.size):
        window = keys[start[k] : stop[k]]
        low, high = lowest, highest
        while low < high:
            middle = (low + high) >> 1
            if _count(window, middle) > below[k]:
                high = middle
            else:
                low = middle + 1
        found[0, k] = found[1, k] = low
        if _count(window, low) == below[k] + 1 < window.size:  # the one after it is larger
            larger = highest
            for t in range(window.size):
                if window[t] > low:
                    larger = min(larger, window[t])
            found[1, k] = larger


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _count(window: NDArray[np.int32], most: int) -> int:
    """How many are not above `most`. By index and in 32 bits, or the compiler makes a loop of a ninth of the speed."""
    n, limit = np.int32(0), np.int32(most)
    for t in range(window.size):
        n = np.int32(n + (window[t] <= limit))
    return int(n)
