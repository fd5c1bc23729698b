"""Where the error falls and where it grows: 2 s bins of closed loop, by their rotation (docs/experiment.md 3.11)."""

from itertools import pairwise

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.sessions import SessionData

BIN_S = 2.0
TOLERANCE_S = 1e-3
"""A flip mapped to frame time may miss the frame that caused it by rounding."""


class Epochs(Struct, frozen=True):
    """A session's closed loop as one piece of time, all else taken out, in bins."""

    start_s: NDArray[np.float64]
    stop_s: NDArray[np.float64]
    """(n_stretches,) where the grating followed the neurons: in a trial, from the first grating to the target, or to
    the timeout."""
    sign: NDArray[np.int8]
    """(n_bins,) of the net rotation: 1 the error fell, -1 it grew, 0 neither."""

    def at(self, t_s: NDArray[np.float64]) -> NDArray[np.int8]:
        """(n,) sign of the bin at each time; 0 outside the loop too, and after the last whole bin."""
        signs = np.zeros(len(t_s), np.int8)
        if not len(self.sign):
            return signs
        stretch = np.searchsorted(self.start_s, t_s, "right") - 1
        inside = (stretch >= 0) & (t_s < self.stop_s[stretch])
        before_s = np.cumsum(self.stop_s - self.start_s) - (self.stop_s - self.start_s)
        bins = ((before_s[stretch] + t_s - self.start_s[stretch])[inside] // BIN_S).astype(int)
        signs[inside] = np.append(self.sign, np.int8(0))[np.minimum(bins, len(self.sign))]
        return signs


def error_epochs(session: SessionData) -> Epochs:
    """Cut a session's closed loop into bins.

    As the paper words it: first everything else is dropped, then bins are cut, so a bin may hold the end of one trial
    and the begin of the next. The jump between them is no rotation; the last turn, onto the target, is. Trials that
    are void or unfinished are left out.
    """
    at, angle = session.shown_s, session.shown_deg
    grating = np.isfinite(angle)
    starts: list[float] = []
    stops: list[float] = []
    turn_s: list[NDArray[np.float64]] = []  # in loop time
    turns: list[NDArray[np.float64]] = []
    done_s = 0.0
    edges = np.searchsorted(at, np.append(session.start_s - TOLERANCE_S, np.inf))
    for trial, (first, end) in enumerate(pairwise(edges)):
        if session.outcome[trial] not in ("hit", "miss"):
            continue
        shown = np.flatnonzero(grating[first:end])
        if not len(shown):
            continue
        begin = first + shown[0]
        over = ~grating[begin:end] | (at[begin:end] >= session.hit_s[trial] - TOLERANCE_S)
        if not over[1:].any():
            continue
        last = begin + 1 + int(np.argmax(over[1:]))  # the target's own picture, or the first blank
        pictures = slice(begin, last + 1 if grating[last] else last)
        turn_s.append(done_s + at[pictures][1:] - at[begin])
        turns.append(np.diff(angle[pictures]))
        starts.append(at[begin])
        stops.append(at[last])
        done_s += at[last] - at[begin]
    n_bins = int(done_s // BIN_S)
    when, turn = np.concatenate([np.zeros(0), *turn_s]), np.concatenate([np.zeros(0), *turns])
    bins = (np.ceil(when / BIN_S) - 1).astype(int)  # a turn belongs to the time that led to it
    whole = bins < n_bins
    net = np.bincount(bins[whole], turn[whole], n_bins)
    return Epochs(np.array(starts), np.array(stops), np.sign(net).astype(np.int8))
