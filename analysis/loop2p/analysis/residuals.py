"""The somato-dendritic residual: what a dendritic event is beyond what its soma predicts (docs/experiment.md 3.7-8)."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.columns import where
from loop2p.analysis.sessions import EVENT_TABLES, PlaneEvents, SessionData, SessionError

COINCIDENT_S = 0.5
"""Two detections within this are one event of the neuron (Methods; 3.7)."""
LEAST_EVENTS = 10
"""A neuron with fewer has no line. The paper gives no number; below it a line bends noticeably towards the very events
that are judged by it: residuals shrink by 2 in n degrees of freedom."""


class Coincident(Struct, frozen=True):
    """Events seen in both compartments, by neuron and time; all (n_events,)."""

    t_s: NDArray[np.float64]
    """Of the somatic event."""
    roi: NDArray[np.int64]
    soma: NDArray[np.float64]
    dendrite: NDArray[np.float64]
    """Magnitudes, dF/F."""
    latency_s: NDArray[np.float64]
    """Time of the dendritic event less that of the somatic one. The planes' detections are late by different times, so
    only differences between events of one neuron mean something."""


class Lines(Struct, frozen=True):
    """Each neuron's line dendrite = intercept + slope x soma; all (n_rois,), NaN where there is none."""

    intercept: NDArray[np.float64]
    slope: NDArray[np.float64]
    sd: NDArray[np.float64]
    """Of the residuals about the line, dF/F."""


def coincident(soma: PlaneEvents, dendrite: PlaneEvents, within_s: float = COINCIDENT_S) -> Coincident:
    """Events of one neuron in both planes, one to one, the closest in time first.

    `roi` must mean the same neuron in both planes. An event that finds no partner is left out.
    """
    if not len(soma.t_s) or not len(dendrite.t_s):
        none = np.zeros(0)
        return Coincident(none, none.astype(np.int64), none, none, none)
    # All neurons on one line, each in a stretch of its own, so that no neuron is near another.
    first = min(soma.t_s.min(), dendrite.t_s.min())
    stretch_s = max(soma.t_s.max(), dendrite.t_s.max()) - first + 4 * within_s
    places = [events.roi * stretch_s + events.t_s - first for events in (soma, dendrite)]
    a, b = (np.argsort(place, kind="stable") for place in places)  # events that are still alone
    of_soma, of_dendrite = [], []
    while len(a) and len(b):
        at, to = places[0][a], places[1][b]
        partner = _nearest(at, to)
        found = (_nearest(to, at)[partner] == np.arange(len(a))) & (np.abs(to[partner] - at) <= within_s)
        if not found.any():
            break
        of_soma.append(a[found])
        of_dendrite.append(b[partner[found]])
        a, b = a[~found], np.delete(b, partner[found])
    s, d = (np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64) for parts in (of_soma, of_dendrite))
    order = np.argsort(places[0][s], kind="stable")
    s, d = s[order], d[order]
    return Coincident(soma.t_s[s], soma.roi[s], soma.magnitude[s], dendrite.magnitude[d], dendrite.t_s[d] - soma.t_s[s])


def _nearest(at: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.int64]:
    """(len(at),) index of the nearest of `to`, both rising; of two equally near the earlier."""
    right = np.searchsorted(to, at).clip(1, max(1, len(to) - 1))
    left = right - 1
    right = right.clip(max=len(to) - 1)
    return np.where(at - to[left] <= to[right] - at, left, right)


def fit_lines(events: Coincident, n_rois: int, fit: NDArray[np.bool_] | None = None) -> Lines:
    """Ordinary least squares for each neuron, on the events where `fit` is true (default: all).

    No line (NaN) from fewer than LEAST_EVENTS events, or where all somatic sizes or all residuals are the same.
    """
    chosen = np.ones(len(events.roi), bool) if fit is None else fit
    roi, x, y = events.roi[chosen], events.soma[chosen], events.dendrite[chosen]

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(roi, values, n_rois).astype(float)

    n = np.bincount(roi, minlength=n_rois).astype(float)
    n[n < LEAST_EVENTS] = np.nan
    mean_x, mean_y = total(x) / n, total(y) / n
    dx, dy = x - mean_x[roi], y - mean_y[roi]  # before squaring: sums of squares lose digits
    squares = total(dx**2)
    squares[~(squares > 1e-12 * n * mean_x**2)] = np.nan
    slope = total(dx * dy) / squares
    sd = np.sqrt(total((dy - slope[roi] * dx) ** 2) / (n - 1))
    sd[~(sd > 1e-9 * np.abs(mean_y))] = np.nan
    return Lines(mean_y - slope * mean_x, slope, sd)


def z_residuals(events: Coincident, lines: Lines) -> NDArray[np.float64]:
    """(n_events,) distance from the neuron's line in units of its SD; > 0 amplified, < 0 attenuated, NaN without line.

    Lines of control events (LED off, awake) judge the others as the paper does (3.8).
    """
    expected = lines.intercept[events.roi] + lines.slope[events.roi] * events.soma
    return np.asarray((events.dendrite - expected) / lines.sd[events.roi])


def coincident_of(session: SessionData) -> Coincident:
    """A session's coincident events. `roi` of an event must mean the same neuron in both planes.

    Raises SessionError for a session without events of both planes.
    """
    for plane, table in enumerate(EVENT_TABLES):
        if plane not in session.events:
            raise SessionError(f"{session.path}: no events/{table}, expected the events of both planes")
    return coincident(session.events[0], session.events[1])


def loop_residuals(session: SessionData) -> tuple[Coincident, NDArray[np.float64]]:
    """Coincident events of a session's closed loop, and (n_events,) their z residuals; neurons without a line left out.

    Lines are those of the same events. Raises SessionError as `coincident_of`.
    """
    events = coincident_of(session)
    in_loop = np.zeros(len(events.t_s), bool)
    for phase, _, start, stop in session.phases:
        in_loop |= (phase == "closed_loop") & (events.t_s >= start) & (events.t_s < stop)
    z = z_residuals(events, fit_lines(events, len(session.role), in_loop))
    use = in_loop & np.isfinite(z)
    return where(events, use), z[use]


def latency_r(session: SessionData) -> NDArray[np.float64]:
    """(n_rois,) Pearson of latency and z residual over each neuron's events in the closed loop (4.2); NaN without line.

    Below 0: amplified events are early in the dendrite. Blind to a constant delay between the planes. Raises
    SessionError as `coincident_of`.
    """
    events, z = loop_residuals(session)
    r = np.full(len(session.role), np.nan)
    for roi in np.unique(events.roi):
        own = events.roi == roi
        if np.ptp(events.latency_s[own]) > 0:
            r[roi] = np.corrcoef(events.latency_s[own], z[own])[0, 1]
    return r
