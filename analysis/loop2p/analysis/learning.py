"""Does the mouse learn, and what do its cells do? Accuracy, rewards, event rates, running (docs/experiment.md 4.1)."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from loop2p.analysis.sessions import SessionData

LATE = range(9, 15)
"""Days (Methods 2.6)."""
RATE_LATE = range(10, 15)
"""Days whose event rates are compared with day 1 (ED4e)."""
GROUPS = ("plus", "minus", "other")
PER_CELL = 3
"""P0 cells matched to each cell of P+ and P-."""


def accuracy(session: SessionData) -> float:
    """Hits among the trials that came to an outcome; NaN without any (Methods 2.6)."""
    hits, misses = np.sum(session.outcome == "hit"), np.sum(session.outcome == "miss")
    return float(hits / (hits + misses)) if hits + misses else np.nan


def rewards_per_min(session: SessionData) -> float:
    """Drops a minute of closed loop; NaN without one."""
    return float(np.isfinite(session.reward_s).sum() / session.loop_s * 60) if session.loop_s else np.nan


def rates_hz(session: SessionData, half: int | None = None) -> NDArray[np.float64]:
    """(n_rois,) somatic events a second over the session; `half` 0, 1: of its even or odd minutes alone."""
    events = session.events[0]
    if half is None:
        chosen, duration_s = np.ones(len(events.t_s), bool), session.duration_s
    else:
        chosen = np.floor(events.t_s / 60).astype(int) % 2 == half
        first, last = min(p[2] for p in session.phases), max(p[3] for p in session.phases)
        seconds = np.arange(np.floor(first), np.ceil(last))
        duration_s = float(np.sum(np.floor(seconds / 60).astype(int) % 2 == half))
    return np.bincount(events.roi[chosen], minlength=len(session.role)) / duration_s


def speed_cm_s(session: SessionData) -> float:
    """Mean speed of the treadmill; NaN without a reading."""
    return float(session.speed_cm_s.mean()) if len(session.speed_cm_s) else np.nan


def by_mouse(sessions: Iterable[SessionData]) -> dict[str, list[SessionData]]:
    """Each mouse's sessions by day."""
    mice: dict[str, list[SessionData]] = {}
    for session in sessions:
        mice.setdefault(session.mouse, []).append(session)
    return {mouse: sorted(days, key=lambda s: s.day) for mouse, days in sorted(mice.items())}


def days_of(sessions: Sequence[SessionData], days: Iterable[int]) -> list[SessionData]:
    wanted = set(days)
    return [s for s in sessions if s.day in wanted]


def same_roles(first: SessionData, later: SessionData) -> bool:
    """Is each ROI in the role that it had? Not after P+ and P- were exchanged, nor with more ROIs or fewer."""
    return np.array_equal(first.role, later.role)


def rate_ratios(days: Sequence[SessionData]) -> dict[str, float]:
    """One mouse: event rate of days 10-14 over day 1 of P+, P- and matched P0 ("other"); NaN without an event on day 1.

    Roles are day 1's, and a row must be the same cell on each day.

    Matched: for each cell of P+ and P- the three P0 cells nearest in day-1 rate. A cell that is picked because its rate
    was high on some stretch falls afterwards by itself: so cells are matched on day 1's odd minutes, and day 1's rate
    is that of the even minutes.
    """
    first, late = days_of(days, [1])[0], days_of(days, RATE_LATE)
    match_hz, first_hz = rates_hz(first, 1), rates_hz(first, 0)
    late_hz = np.mean([rates_hz(s) for s in late], axis=0)
    cells = {group: np.flatnonzero(first.role == group) for group in GROUPS}
    chosen = np.concatenate([cells["plus"], cells["minus"]])
    pool = cells["other"]
    matched = [pool[np.argsort(np.abs(match_hz[pool] - match_hz[cell]), kind="stable")[:PER_CELL]] for cell in chosen]
    cells["other"] = np.concatenate([pool[:0], *matched])
    return {group: float(late_hz[rows].sum() / (first_hz[rows].sum() or np.nan)) for group, rows in cells.items()}


def sparsification_slope(days: Sequence[SessionData]) -> float:
    """One mouse: slope over P0 cells of (rate of days 10-14 minus day 1's even minutes) on day 1's odd minutes.

    The two halves of day 1 are independent, so regression to the mean can't make the slope by itself. NaN where all P0
    have one rate in the odd minutes: there is no slope on it.
    """
    first, late = days_of(days, [1])[0], days_of(days, RATE_LATE)
    other = first.role == "other"
    rate_hz = rates_hz(first, 1)[other]
    if len(np.unique(rate_hz)) < 2:
        return np.nan
    change_hz = np.mean([rates_hz(s) for s in late], axis=0) - rates_hz(first, 0)
    return float(stats.linregress(rate_hz, change_hz[other]).slope)


def running_slope(days: Sequence[SessionData]) -> float:
    """One mouse: change of running speed, cm/s a day."""
    return float(stats.linregress([s.day for s in days], [speed_cm_s(s) for s in days]).slope)
