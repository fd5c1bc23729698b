"""F0: the rolling 10th percentile that every dF/F stands on (docs/experiment.md 2.3)."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


class RollingF0:
    """The running percentile of the last `window` frames of each ROI, the present frame included.

    Equal to `np.percentile(last_frames, percentile, axis=0)` (linear interpolation). Each ROI keeps its window
    sorted, so that a frame costs two counts and one shift instead of a sort. Until the window is full it uses the
    frames it has; the first frame's F0 is that frame itself.

    A value that is not finite (NaN, inf) has no place in a sorted window: `update` raises ArithmeticError and
    leaves the window as it was.
    """

    def __init__(self, n_rois: int, window: int, percentile: float = 10.0) -> None:
        if n_rois < 1 or window < 1:
            raise ValueError(f"{n_rois} ROIs and a window of {window} frames, expected at least 1 of each")
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile {percentile}, expected 0 to 100")
        self.window, self.percentile = window, percentile
        self._frames = np.empty((window, n_rois), np.float32)  # ring: which value leaves
        self._sorted = np.empty((n_rois, window), np.float32)
        self._f0 = np.zeros(n_rois, np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._count = 0  # frames seen; the ring's place follows from it
        self._frames.fill(np.inf)  # a frame that is not there yet sorts behind every real one
        self._sorted.fill(np.inf)

    def update(self, f: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take a frame's F, (n_rois,) float32; return F0, (n_rois,), in an array that the next call writes again.

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
        row, new, old = ordered[roi], f[roi], frames[place, roi]
        frames[place, roi] = new
        # Counting beats a binary search: it runs straight through memory and in vector registers
        # (bench_f0, 500 ROIs: half the time of two searches when the window is not in the cache).
        n_below_old, n_below_new = np.int32(0), np.int32(0)
        for k in range(row.size):
            n_below_old += np.int32(row[k] < old)
            n_below_new += np.int32(row[k] < new)
        if n_below_new > n_below_old:
            part = row[n_below_old:n_below_new]
            for k in range(part.size - 1):
                part[k] = part[k + 1]
            part[-1] = new
        else:
            part, carried = row[n_below_new : n_below_old + 1], new
            for k in range(part.size):
                part[k], carried = carried, part[k]
        f0[roi] = row[low] + share * (row[high] - row[low])
    return -1
