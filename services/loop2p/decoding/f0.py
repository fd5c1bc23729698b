"""F0: the rolling 10th percentile that every dF/F stands on (experiment.md 2.3)."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


class RollingF0:
    """The running percentile of the last `window` frames of each ROI, the present frame included.

    Equal to `np.percentile(last_frames, percentile, axis=0)` (linear interpolation). Each ROI keeps its window
    sorted, so that a frame costs one binary search and one shift instead of a sort. Until the window is full it
    uses the frames it has; the first frame's F0 is that frame itself.

    A value that is not finite (NaN, inf) has no place in a sorted window: `update` raises ArithmeticError and
    leaves the window as it was.
    """

    def __init__(self, n_rois: int, window: int, percentile: float = 10.0) -> None:
        if n_rois < 1 or window < 1:
            raise ValueError(f"{n_rois} ROIs and a window of {window} frames, expected at least 1 of each")
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile {percentile}, expected 0 to 100")
        self.window, self.percentile = window, percentile
        self._frames = np.zeros((window, n_rois), np.float32)  # ring: which value leaves
        self._sorted = np.zeros((n_rois, window), np.float32)
        self._f0 = np.zeros(n_rois, np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._count = 0  # frames seen; the ring's place follows from it

    def update(self, f: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take a frame's F, (n_rois,) float32; returns F0, (n_rois,). The array returned is used again by the next call.

        Raises ArithmeticError for a value that is not finite and ValueError for another number of ROIs.
        """
        if len(f) != len(self._f0):
            raise ValueError(f"{len(f)} cells, expected {len(self._f0)}")
        bad = _slide(f, self._frames, self._sorted, self._count, self.percentile, self._f0)
        if bad >= 0:
            raise ArithmeticError(f"ROI {bad}: F is {f[bad]}, expected a finite number")
        self._count += 1
        return self._f0


@njit(cache=True)  # type: ignore[untyped-decorator]
def _slide(
    f: NDArray[np.float32],
    frames: NDArray[np.float32],
    ordered: NDArray[np.float32],
    count: int,
    percentile: float,
    f0: NDArray[np.float32],
) -> int:
    """Put `f` in the place of the oldest frame and write F0. Returns the first ROI that is not finite, else -1."""
    for roi in range(f.size):
        if not np.isfinite(f[roi]):
            return roi
    window = frames.shape[0]
    place = count % window
    n = min(count + 1, window)
    rank = percentile / 100.0 * (n - 1)
    low = int(rank)
    high = min(low + 1, n - 1)
    share = rank - low
    for roi in range(f.size):
        row, new = ordered[roi], f[roi]
        last = n - 1
        # The value that leaves has its place at `hole`: the end while the window fills, else where the oldest is.
        hole = last if count < window else np.searchsorted(row, frames[place, roi])
        frames[place, roi] = new
        if hole > 0 and row[hole - 1] > new:
            first = np.searchsorted(row[:hole], new)
            for k in range(hole, first, -1):
                row[k] = row[k - 1]
            hole = first
        elif hole < last and row[hole + 1] < new:
            end = hole + np.searchsorted(row[hole + 1 : n], new)
            for k in range(hole, end):
                row[k] = row[k + 1]
            hole = end
        row[hole] = new
        f0[roi] = row[low] + share * (row[high] - row[low])
    return -1
