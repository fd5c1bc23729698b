"""From rates to events: peaks, their sizes and times (docs/experiment.md 3.6)."""

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from loop2p.analysis.percentiles import percentile
from loop2p.analysis.sessions import PlaneEvents

LEAST_SD = 4.0
"""A peak stands out by so many robust SD of its own rate."""


def find_events(rates: ArrayLike, rate_hz: float, start_s: float, least_sd: float = LEAST_SD) -> PlaneEvents:
    """Peaks of inferred rates (n_frames, n_rois) at `rate_hz`; `start_s`: frame time of the first frame.

    The paper states no threshold. Here height and prominence must exceed `least_sd` robust SD (1.4826 x median absolute
    deviation) of the ROI's own rate. A rate that is 0 most of the time, as `Oasis` makes it, has a robust SD of 0 and
    each of its peaks counts: there the threshold is Oasis's least jump, 2 SD of the noise of dF/F.

    Magnitude = height x width in seconds, in dF/F where the rate is in dF/F a second. Width is at half prominence, as
    findpeaks measures it unless told otherwise; for a peak that stands alone that is half height. Time = time of the
    peak. A ROI that is NaN has no events. Raises ValueError for what is no table of frames.
    """
    table = np.asarray(rates, np.float32)
    if table.ndim != 2:
        raise ValueError(f"rates of shape {table.shape}, expected (n_frames, n_rois)")
    middle = percentile(table, 50)
    least = least_sd * 1.4826 * percentile(np.abs(table - middle), 50)
    found = [_peaks(*of_roi) for of_roi in zip(table.T, middle.tolist(), least.tolist(), strict=True)]
    frame = np.concatenate([np.zeros(0, np.int64), *(frames for frames, _ in found)])
    size = np.concatenate([np.zeros(0), *(sizes for _, sizes in found)]) / rate_hz
    roi = np.repeat(np.arange(len(found)), [len(frames) for frames, _ in found])
    order = np.lexsort((roi, frame))
    return PlaneEvents(start_s + frame[order] / rate_hz, roi[order], size[order])


def _peaks(rate: NDArray[np.float32], middle: float, least: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Frames of a ROI's peaks that stand out of its `middle` by `least`, and height x width in frames."""
    if np.isnan(middle):
        return np.zeros(0, np.int64), np.zeros(0)
    prominence = max(least, np.finfo(float).tiny)
    frames, shape = find_peaks(rate.astype(float), height=middle + least, prominence=prominence, width=0)
    return frames, shape["peak_heights"] * shape["widths"]


RISING_S, BEFORE_S, AFTER_S = 0.3, 2.0, 2.0
"""Onset and peak on dF/F (3.6)."""


def find_events_dff(
    dff: ArrayLike, events: PlaneEvents, rate_hz: float, start_s: float, smooth_s: float = 0.2
) -> PlaneEvents:
    """The same events measured on dF/F itself: the paper's check that inference does not make the result (3.6).

    Onset: begin of the last rise of RISING_S that begins within BEFORE_S before an event's time; peak: highest value
    from there to AFTER_S after it, but before the rise of the ROI's next event (without that, followers spoil a sixth
    of the sizes); magnitude = height above the onset x time from onset to peak, dF/F s. An event keeps its time; one
    without onset is left out. `dff` (n_frames, n_rois) is smoothed first (Gaussian of this SD), else noise breaks
    every rise.
    """
    table = np.asarray(dff)
    rising, before, after = (max(1, round(s * rate_hz)) for s in (RISING_S, BEFORE_S, AFTER_S))
    peaks = np.round((events.t_s - start_s) * rate_hz).astype(int)
    order = np.lexsort((peaks, events.roi))
    apart = np.where(np.diff(events.roi[order]) == 0, np.diff(peaks[order]) - rising, after)
    ends = peaks.copy()
    ends[order] += np.append(apart, after).clip(0, after)[: len(order)]
    size = np.zeros(len(peaks))
    for roi in np.unique(events.roi):
        trace = table[:, roi].astype(float)
        smooth = gaussian_filter1d(trace, smooth_s * rate_hz) if smooth_s else trace
        for k in np.flatnonzero(events.roi == roi):
            size[k] = _rise(smooth, max(0, peaks[k] - before), peaks[k], min(ends[k], len(trace) - 1), rising) / rate_hz
    return PlaneEvents(events.t_s[size > 0], events.roi[size > 0], size[size > 0])


@njit(cache=True)  # type: ignore[untyped-decorator]
def _rise(trace: NDArray[np.float64], first: int, at: int, last: int, rising: int) -> float:
    """Height x frames from an onset to the highest value up to frame `last`; 0 without an onset.

    The onset: where the last rise of at least `rising` frames begins that begins from frame `first` to frame `at`.
    """
    onset, begin, length = -1, first, 0
    for t in range(first, last):
        if not trace[t + 1] > trace[t]:
            begin, length = t + 1, 0
            continue
        length += 1
        if length == rising and begin <= at:
            onset = begin
    if onset < 0:
        return 0.0
    top = onset
    for t in range(onset, last + 1):
        if trace[t] > trace[top]:
            top = t
    return float((trace[top] - trace[onset]) * (top - onset))
