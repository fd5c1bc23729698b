"""From rates to events: peaks, their sizes and times (docs/experiment.md 3.6)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

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
    table = np.asarray(rates, float)
    if table.ndim != 2:
        raise ValueError(f"rates of shape {table.shape}, expected (n_frames, n_rois)")
    found = [_peaks(rate, least_sd) for rate in table.T]
    frame = np.concatenate([np.zeros(0, np.int64), *(frames for frames, _ in found)])
    size = np.concatenate([np.zeros(0), *(sizes for _, sizes in found)]) / rate_hz
    roi = np.repeat(np.arange(len(found)), [len(frames) for frames, _ in found])
    order = np.lexsort((roi, frame))
    return PlaneEvents(start_s + frame[order] / rate_hz, roi[order], size[order])


def _peaks(rate: NDArray[np.float64], least_sd: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Frames of a ROI's peaks, and height x width in frames."""
    if not np.isfinite(rate).all():
        return np.zeros(0, np.int64), np.zeros(0)
    median = np.median(rate)
    least = least_sd * 1.4826 * np.median(np.abs(rate - median))
    frames, shape = find_peaks(rate, height=median + least, prominence=max(least, np.finfo(float).tiny), width=0)
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
    table = np.asarray(dff, float)
    smooth = gaussian_filter1d(table, smooth_s * rate_hz, axis=0) if smooth_s else table
    rising, before, after = (round(s * rate_hz) for s in (RISING_S, BEFORE_S, AFTER_S))
    peaks = np.round((events.t_s - start_s) * rate_hz).astype(int)
    order = np.lexsort((peaks, events.roi))
    apart = np.where(np.diff(events.roi[order]) == 0, np.diff(peaks[order]) - rising, after)
    ends = peaks.copy()
    ends[order] += np.append(apart, after).clip(0, after)[: len(order)]
    size = np.zeros(len(peaks))
    for k, (at, end, roi) in enumerate(zip(peaks.tolist(), ends.tolist(), events.roi.tolist(), strict=True)):
        first = max(0, at - before)
        up = np.diff(smooth[first : end + 1, roi]) > 0
        long = up.copy()  # where a rise of RISING_S is under way from here on
        for step in range(1, rising):
            long[:-step] &= up[step:]
            long[-step:] = False
        begins = np.flatnonzero(long & ~np.append(False, long[:-1]))
        begins = begins[begins <= at - first]
        if len(begins):
            trace = smooth[first + begins[-1] : end + 1, roi]
            rise = int(np.argmax(trace))
            size[k] = (trace[rise] - trace[0]) * rise / rate_hz
    return PlaneEvents(events.t_s[size > 0], events.roi[size > 0], size[size > 0])
