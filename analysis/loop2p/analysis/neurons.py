"""Which neurons are compared with which: by event rate, by size of somatic events, by correlation with D (4.1, 4.4).

Everything here chooses; nothing is drawn: the same data give the same neurons.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, signal

from loop2p.analysis.learning import PER_CELL
from loop2p.analysis.residuals import coincident
from loop2p.analysis.sessions import PlaneEvents, SessionData

PLANE_HZ = 15.46
"""Frames a second of one plane (1)."""
DECAY_S = 0.45
"""Of an event's trace in `event_traces`. The indicator's in the prototype of the simulated mouse; not fitted."""
CLOSEST_SD = 0.1
"""Somatic sizes of a matched pair differ by no more than this, in SD over all neurons that are matched. A choice:
what is left of the difference between the groups is then below a tenth of an SD."""


def in_phase(session: SessionData, t_s: NDArray[np.float64], phase: str) -> NDArray[np.bool_]:
    """(n,) which times lie in phases of this kind: "closed_loop", or "baseline" for the passive blocks."""
    inside = np.zeros(len(t_s), bool)
    for kind, _, start, stop in session.phases:
        inside |= (kind == phase) & (t_s >= start) & (t_s < stop)
    return inside


def phase_rates_hz(session: SessionData, phase: str) -> NDArray[np.float64]:
    """(n_rois,) somatic events a second in phases of this kind; NaN where the session has none."""
    seconds = sum(stop - start for kind, _, start, stop in session.phases if kind == phase)
    events = session.events[0]
    counts = np.bincount(events.roi[in_phase(session, events.t_s, phase)], minlength=len(session.role))
    return counts / (seconds or np.nan)


def rate_matched(rate_hz: NDArray[np.float64], role: NDArray[np.str_], per_cell: int = PER_CELL) -> NDArray[np.int64]:
    """Rows of the P0 that match P+ and P- in rate, (n_rois,) each: `per_cell` for each P cell, none twice (4.1, ED4).

    The choice with the least sum of differences. Rates are day 1's; cells chosen for a rate that was measured on some
    stretch fall or rise afterwards by themselves, so match on one half of day 1 and compare with the other
    (`learning.rates_hz` gives halves). Raises ValueError where P0 are too few.
    """
    cells = np.repeat(np.flatnonzero((role == "plus") | (role == "minus")), per_cell)
    pool = np.flatnonzero(role == "other")
    if len(pool) < len(cells):
        raise ValueError(f"{len(pool)} P0 for {len(cells)} places, expected as many: ask for fewer per cell")
    _, chosen = optimize.linear_sum_assignment(np.abs(rate_hz[cells][:, None] - rate_hz[pool][None]))
    return np.sort(pool[chosen])


def soma_sizes(sessions: Sequence[SessionData], phase: str = "closed_loop") -> NDArray[np.float64]:
    """(n_neuron_sessions,) mean somatic magnitude (dF/F) of the coincident events, in the order of `contrast`'s rows.

    NaN for a neuron without any.
    """
    sizes = [np.zeros(0)]
    for session in sessions:
        events = coincident(session.events[0], session.events[1])
        inside = in_phase(session, events.t_s, phase)
        roi, soma, n_rois = events.roi[inside], events.soma[inside], len(session.role)
        n = np.bincount(roi, minlength=n_rois)
        sizes.append(np.where(n > 0, np.bincount(roi, soma, n_rois) / n.clip(1), np.nan))
    return np.concatenate(sizes)


def soma_matched(
    size: NDArray[np.float64], role: NDArray[np.str_], mouse: NDArray[np.str_], closest_sd: float = CLOSEST_SD
) -> NDArray[np.bool_]:
    """(n_neuron_sessions,) P+ and P- whose somatic sizes have equal distributions (ED13a); all others are False.

    Within each mouse, so that mice stay comparable, P+ and P- neuron-sessions become pairs no more than `closest_sd`
    apart: as many and as close as one assignment allows. The paper doesn't say how it matched.
    """
    matched = np.zeros(len(size), bool)
    groups = [(role == name) & np.isfinite(size) for name in ("plus", "minus")]
    limit = closest_sd * np.std(size[groups[0] | groups[1]]) if (groups[0] | groups[1]).any() else 0.0
    for name in np.unique(mouse):
        plus, minus = (np.flatnonzero(group & (mouse == name)) for group in groups)
        apart = np.abs(size[plus][:, None] - size[minus][None])
        # A place left alone costs as much as two pairs at the limit.
        a, b = optimize.linear_sum_assignment(np.where(apart <= limit, apart, 2 * limit))
        near = apart[a, b] <= limit
        matched[plus[a[near]]] = matched[minus[b[near]]] = True
    return matched


def event_traces(
    events: PlaneEvents, n_rois: int, times_s: NDArray[np.float64], decay_s: float = DECAY_S
) -> NDArray[np.float64]:
    """(n_frames, n_rois) activity for sessions without fluorescence: each event jumps by its size and decays.

    `times_s` are those of the frames, evenly spaced. An event counts from the first frame at or after it; those outside
    are left out.
    """
    traces = np.zeros((len(times_s), n_rois))
    frame = np.searchsorted(times_s, events.t_s)
    inside = (frame < len(times_s)) & (events.t_s >= times_s[0])
    np.add.at(traces, (frame[inside], events.roi[inside]), events.magnitude[inside])
    keep = np.exp(-(times_s[1] - times_s[0]) / decay_s)
    return np.asarray(signal.lfilter([1.0], [1.0, -keep], traces, axis=0))


def like_decoder(activity: NDArray[np.floating], role: NDArray[np.str_]) -> NDArray[np.str_]:
    """(n_rois,) P0 that go with D as "plus", those that go against it as "minus", all else "other" (4.4, ED14).

    `activity` (n_frames, n_rois): dF/F of the frames that count (the closed loop's), or `event_traces`. D is the mean
    of P+ minus the mean of P-. With D: Pearson r above the mean of all P0 plus one SD; against it: below the mean minus
    one SD. The result takes the place of the roles for `contrast`. Raises ValueError without P+, P- or P0.
    """
    groups = {name: np.flatnonzero(role == name) for name in ("plus", "minus", "other")}
    for name, rows in groups.items():
        if not len(rows):
            raise ValueError(f"no neuron is {name!r}, expected some of P+, P- and P0")
    d = activity[:, groups["plus"]].mean(axis=1) - activity[:, groups["minus"]].mean(axis=1)
    r = _pearson(activity[:, groups["other"]], d)
    mean, sd = np.nanmean(r), np.nanstd(r)
    like = np.full(len(role), "other", dtype="<U5")
    like[groups["other"][r > mean + sd]] = "plus"
    like[groups["other"][r < mean - sd]] = "minus"
    return like


def like_decoder_of(session: SessionData, phase: str = "closed_loop") -> NDArray[np.str_]:
    """(n_rois,) `like_decoder` from a session's somatic events.

    From the closed loop as the paper has it; with phase "baseline" the events that choose are not those that are
    judged.
    """
    start = min(p[2] for p in session.phases)
    times_s = np.arange(start, max(p[3] for p in session.phases), 1 / PLANE_HZ)
    activity = event_traces(session.events[0], len(session.role), times_s)
    return like_decoder(activity[in_phase(session, times_s, phase)], session.role)


def _pearson(traces: NDArray[np.floating], d: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n_rois,) r of each trace with d; NaN for a flat one."""
    a, b = traces - traces.mean(axis=0), d - d.mean()
    scale = np.sqrt((a**2).sum(axis=0) * (b @ b))
    return np.asarray((b @ a) / np.where(scale > 0, scale, np.nan), float)
