"""Stretches of gratings, put end to end and cut into 2 s bins: where the error falls and where it grows (3.11)."""

from itertools import pairwise

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats

BIN_S = 2.0
TOLERANCE_S = 1e-3
"""Times this close are the same: a flip mapped to frame time may miss the frame that caused it by rounding, and so may
a turn or an event at the edge of a bin."""
TARGET_DEG = 90.0
PER_BIN = 40
"""Samples of the screen in a bin: every 50 ms, about a frame of a plane."""


class Epochs(Struct, frozen=True):
    """Stretches of a session as one piece of time, all else taken out, in bins."""

    start_s: Floats
    stop_s: Floats
    """(n_stretches,) rising."""
    rotation_deg: Floats
    """(n_bins,) net rotation of the grating in each whole bin: above 0 the error fell. From one stretch to the next
    nothing turns."""

    @property
    def n_bins(self) -> int:
        return len(self.rotation_deg)

    @property
    def sign(self) -> NDArray[np.int8]:
        """(n_bins,) 1 the error fell, -1 it grew, 0 neither."""
        return np.sign(self.rotation_deg).astype(np.int8)

    def bins(self, t_s: Floats) -> NDArray[np.int64]:
        """(n,) bin at each time; -1 outside the stretches and after the last whole bin."""
        found = np.full(len(t_s), -1)
        if not len(self.start_s):
            return found
        stretch = np.searchsorted(self.start_s, t_s, "right") - 1
        inside = (stretch >= 0) & (t_s < self.stop_s[stretch])
        since_s = self._before_s[stretch] + t_s - self.start_s[stretch]
        found[inside] = ((since_s[inside] + TOLERANCE_S) // BIN_S).astype(int)
        found[found >= self.n_bins] = -1
        return found

    def at(self, t_s: Floats) -> NDArray[np.int8]:
        """(n,) sign of the bin at each time; 0 where there is none."""
        return np.append(self.sign, np.int8(0))[self.bins(t_s)]

    def session_s(self, gone_s: Floats) -> Floats:
        """Session time at which so much of the stretches is gone, of an array of any shape."""
        stretch = np.searchsorted(self._before_s, gone_s, "right") - 1
        return np.asarray(self.start_s[stretch] + gone_s - self._before_s[stretch])

    @property
    def _before_s(self) -> Floats:
        """(n_stretches,) what is gone when each begins."""
        lengths = self.stop_s - self.start_s
        return np.asarray(np.cumsum(lengths) - lengths)


def error_epochs(session: SessionData) -> Epochs:
    """Where the grating followed the neurons: in a trial, from its first grating to the target, or to the timeout.

    As the paper words it: first everything else is dropped, then bins are cut, so a bin may hold the end of one trial
    and the begin of the next. The jump between them is no rotation; the last turn, onto the target, is. Trials that
    are void or unfinished are left out. A yoked loop has no trials of its own: there, those of its pictures count.
    """
    if not len(session.start_s):
        session = _with_trials_of_pictures(session)
    at, angle = session.shown_s, session.shown_deg
    grating = np.isfinite(angle)
    starts: list[float] = []
    stops: list[float] = []
    turn_s: list[Floats] = [np.zeros(0)]  # in time of the loop
    turns: list[Floats] = [np.zeros(0)]
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
        if not over.any():
            continue
        last = begin + int(np.argmax(over))  # the target's own picture, which may be the first, or the first blank
        pictures = slice(begin, last + 1 if grating[last] else last)
        turn_s.append(done_s + at[pictures][1:] - at[begin])
        turns.append(np.diff(angle[pictures]))
        starts.append(at[begin])
        stops.append(at[last])
        done_s += at[last] - at[begin]
    when, turn = np.concatenate(turn_s), np.concatenate(turns)
    rotation_deg = np.zeros(_n_bins(done_s))
    bins = (np.ceil((when - TOLERANCE_S) / BIN_S) - 1).astype(int).clip(0)  # a turn belongs to the time that led to it
    whole = bins < len(rotation_deg)
    np.add.at(rotation_deg, bins[whole], turn[whole])
    return Epochs(np.array(starts), np.array(stops), rotation_deg)


def _with_trials_of_pictures(session: SessionData) -> SessionData:
    """Trials as the pictures of the closed loop tell them: from a blank to the target, which only a hit shows, or to
    the next blank."""
    at, grating = session.shown_s, np.isfinite(session.shown_deg)
    in_loop = np.zeros(len(at), bool)
    for phase, _, start, stop in session.phases:
        in_loop |= (phase == "closed_loop") & (at >= start) & (at < stop)
    first = np.flatnonzero(in_loop[1:] & grating[1:] & ~grating[:-1]) + 1
    ends = np.append(first[1:], len(at))[: len(first)]
    targets = [np.flatnonzero(session.shown_deg[a:b] >= TARGET_DEG) for a, b in zip(first, ends, strict=True)]
    hit_s = np.array([at[a + on[0]] if len(on) else np.nan for a, on in zip(first, targets, strict=True)])
    outcome = np.where(np.isfinite(hit_s), "hit", "miss")
    return structs.replace(session, start_s=at[first], outcome=outcome, hit_s=hit_s)


def passive_epochs(session: SessionData) -> Epochs:
    """Where gratings came by themselves: each picture of the passive blocks is a stretch, and none turns."""
    parts = [np.zeros((0, 2))]
    for phase, _, start, stop in session.phases:
        if phase != "baseline":
            continue
        chosen = np.isfinite(session.shown_deg) & (session.shown_s >= start) & (session.shown_s < stop)
        ends = np.append(session.shown_s[1:], stop).clip(max=stop)
        parts.append(np.column_stack([session.shown_s[chosen], ends[chosen]]))
    start_s, stop_s = np.concatenate(parts).T
    return Epochs(start_s, stop_s, np.zeros(_n_bins((stop_s - start_s).sum())))


def angle_deg(session: SessionData, t_s: Floats) -> Floats:
    """Angle of the last grating that was shown by each time, of any shape; NaN before the first."""
    grating = np.isfinite(session.shown_deg)
    angles = np.append(np.nan, session.shown_deg[grating])
    return np.asarray(angles[np.searchsorted(session.shown_s[grating], t_s, "right")])


def mean_angle_deg(session: SessionData, epochs: Epochs) -> Floats:
    """(n_bins,) mean displayed angle of each bin."""
    samples = (np.arange(epochs.n_bins * PER_BIN) + 0.5) * BIN_S / PER_BIN
    if not len(samples):
        return np.zeros(0)
    return np.asarray(angle_deg(session, epochs.session_s(samples)).reshape(-1, PER_BIN).mean(axis=1))


def _n_bins(total_s: float) -> int:
    return int((total_s + TOLERANCE_S) // BIN_S)
