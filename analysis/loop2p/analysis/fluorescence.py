"""From raw fluorescence to dF/F0, as it is done offline (docs/experiment.md 3.2)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loop2p.analysis.percentiles import rolling_percentile

Traces = NDArray[np.float32]
"""(n_frames, n_rois)"""
QUIET_SD = 2.0
"""A ROI is quiet within this many robust SD of its median."""


def dff(f: ArrayLike, rate_hz: float, window_s: float = 120.0, percentile: float = 10.0) -> Traces:
    """(n_frames, n_rois) float32: (F - F0) / F0, F0 the percentile of the window around each frame (docs, 3.2).

    `f`: (n_frames, n_rois), detector counts or anything else that is above 0 at rest; `rate_hz`: of its frames. A ROI
    whose F0 is not above 0 in every frame (offset subtracted twice, masked out, a value that is not finite) has no
    dF/F: NaN throughout, for the caller to drop. Raises ValueError as `rolling_percentile` does.
    """
    table = np.asarray(f, np.float32)
    f0 = rolling_percentile(table, rate_hz, window_s, percentile)
    f0[:, ~(f0 > 0).all(axis=0)] = np.nan
    above = table - f0
    above /= f0
    return above


def subtract_neuropil(f: ArrayLike, neuropil: ArrayLike, share: float = 0.7) -> Traces:
    """(n_frames, n_rois) float32: F less a share of the neuropil around each ROI, where such traces exist.

    `f`, `neuropil`: same shape and unit (suite2p's F and Fneu; 0.7 is suite2p's share). FISSA, which the paper used,
    is not re-implemented. Take `dff` of the result. Raises ValueError where the shapes differ.
    """
    table, around = np.asarray(f, np.float32), np.asarray(neuropil, np.float32)
    if table.shape != around.shape:
        raise ValueError(f"fluorescence {table.shape} and neuropil {around.shape}, expected the same shape")
    return table - np.float32(share) * around


def subtract_shared(traces: ArrayLike) -> Traces:
    """(n_frames, n_rois) float32: dF/F less what a ROI shares with the mean of all others, where there is no neuropil.

    The share is the slope of a ROI's dF/F on the others' mean over the frames in which the ROI itself is quiet, so that
    events shared with others do not count as neuropil; it is kept between 0 and 1, so that nothing is ever added
    to a trace. ROIs that are NaN stay so and are left out of the mean.

    An option that nothing calls: on the simulated mouse, whose neuropil is the mean of 300 cells and far below the
    noise, recall, precision and correlation of sizes changed by 0.001 at most (measured).
    """
    table = np.asarray(traces, np.float32)
    there = np.isfinite(table).all(axis=0)
    own = table[:, there]
    if own.shape[1] < 2:
        return table.copy()
    others = (own.sum(axis=1, keepdims=True) - own) / np.float32(own.shape[1] - 1)
    others -= np.median(others, axis=0)
    away = own - np.median(own, axis=0)
    quiet = np.abs(away) <= QUIET_SD * 1.4826 * np.median(np.abs(away), axis=0)
    n = quiet.sum(axis=0)
    x = np.where(quiet, others, 0)
    x = np.where(quiet, x - x.sum(axis=0) / n, 0)
    squares = (x**2).sum(axis=0)
    slope = np.divide((x * away).sum(axis=0), squares, out=np.zeros_like(squares), where=squares > 0)
    result = table.copy()
    result[:, there] -= np.clip(slope, 0, 1) * others
    return result
