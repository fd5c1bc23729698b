"""What the figures draw and no other module gives: values by day, time courses, an example, variance of the effect.

Pure functions of sessions and results; nothing here knows of a figure.
"""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.columns import where
from loop2p.analysis.contrast import Contrast
from loop2p.analysis.learning import GROUPS, PER_CELL, by_mouse, rates_hz, same_roles
from loop2p.analysis.neurons import rate_matched
from loop2p.analysis.outcome import ended_trials
from loop2p.analysis.partial import EDGE_DEG, ErrorEvents
from loop2p.analysis.residuals import Coincident, Lines, fit_lines, loop_residuals
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, mouse_means

COURSE_S = np.arange(-4.0, 4.01, 0.5)
"""Edges of the bins of `residual_course`, from the end of the trial."""


class ByDay(Struct, frozen=True):
    """One value of each mouse on each day."""

    mice: list[str]
    days: NDArray[np.int64]
    """(n_days,) rising."""
    values: Floats
    """(n_mice, n_days); NaN where it was not measured."""


def by_day(sessions: Sequence[SessionData], of: Callable[[SessionData], float]) -> ByDay:
    """Mice that have no finite value are left out, and so are days."""
    return days_of_values(
        np.array([s.mouse for s in sessions], np.str_),
        np.array([s.day for s in sessions], np.int64),
        np.array([of(s) for s in sessions], float),
    )


def days_of_values(mouse: NDArray[np.str_], day: NDArray[np.int64], values: Floats) -> ByDay:
    """All (n_sessions,), a mouse's day once."""
    there = np.isfinite(values)
    mice, row = np.unique(mouse[there], return_inverse=True)
    days, column = np.unique(day[there], return_inverse=True)
    table = np.full((len(mice), len(days)), np.nan)
    table[row, column] = values[there]
    return ByDay(mice.tolist(), days, table)


def group_rate_hz(session: SessionData, group: str) -> float:
    """Mean rate of somatic events of a group's cells; NaN without cells or events."""
    own = session.role == group
    return float(rates_hz(session)[own].mean()) if 0 in session.events and own.any() else np.nan


def relative_rates(sessions: Sequence[SessionData]) -> dict[str, ByDay]:
    """Event rates of P+, P- and matched P0 by day, relative to day 1; mice without an event on day 1 are left out.

    P0 are matched in rate on day 1's odd minutes, and day 1 is its even minutes, as in `learning.rate_ratios`: cells
    picked for a high rate fall afterwards by themselves. None twice (`neurons.rate_matched`), fewer than three for a
    cell where P0 are few. Day 1 is 1 by definition. Days on which P+ and P- are not day 1's, after an exchange, or with
    more ROIs or fewer, are left out.
    """
    found: dict[str, list[tuple[str, int, float]]] = {group: [] for group in GROUPS}
    for mouse, days in by_mouse(s for s in sessions if 0 in s.events).items():
        first = days[0]
        if first.day != 1:
            continue
        cells = {group: np.flatnonzero(first.role == group) for group in GROUPS}
        n_chosen = len(cells["plus"]) + len(cells["minus"])
        per_cell = min(PER_CELL, len(cells["other"]) // n_chosen) if n_chosen else 0
        cells["other"] = rate_matched(rates_hz(first, 1), first.role, per_cell) if per_cell else np.zeros(0, np.int64)
        first_hz = rates_hz(first, 0)
        later = [s for s in days[1:] if same_roles(first, s)]
        for group, rows in cells.items():
            if first_hz[rows].sum() > 0:
                found[group].append((mouse, 1, 1.0))
                found[group] += [(mouse, s.day, rates_hz(s)[rows].sum() / first_hz[rows].sum()) for s in later]
    return {group: _table(rows) for group, rows in found.items()}


def _table(rows: list[tuple[str, int, float]]) -> ByDay:
    mouse, day, value = zip(*rows, strict=True) if rows else ([], [], [])
    return days_of_values(np.array(mouse, np.str_), np.array(day, np.int64), np.array(value, float))


def residual_course(
    sessions: Sequence[SessionData], edges_s: NDArray[np.float64] = COURSE_S
) -> dict[tuple[str, str], Floats]:
    """Mean z residual about the end of trials: (outcome, role) -> (n_mice, n_bins), mice by name, NaN without events.

    Time 0 is the target reached on a hit, the begin of the timeout on a miss. All events of a mouse count alike. An
    event near two ends counts for both. Raises SessionError for a session without events.
    """
    mice = sorted({s.mouse for s in sessions})
    shape = (2, len(GROUPS), len(mice), len(edges_s) - 1)  # hit or miss, role, mouse, bin
    total, n = np.zeros(shape), np.zeros(shape)
    for session in sessions:
        events, z = loop_residuals(session)
        trials = ended_trials(session)
        order = np.argsort(events.t_s, kind="stable")
        t_s, z, role = events.t_s[order], z[order], session.role[events.roi[order]]
        for row, chosen in enumerate((trials.hit, ~trials.hit)):
            for end_s in trials.end_s[chosen]:
                near = slice(*np.searchsorted(t_s, end_s + edges_s[[0, -1]]))
                bins = np.searchsorted(edges_s, t_s[near] - end_s, "right") - 1
                for group, name in enumerate(GROUPS):
                    own = (role[near] == name) & (bins >= 0) & (bins < shape[3])
                    place = (row, group, mice.index(session.mouse))
                    total[place] += np.bincount(bins[own], z[near][own], shape[3])
                    n[place] += np.bincount(bins[own], minlength=shape[3])
    means = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return {
        (outcome, name): means[row, group] for row, outcome in enumerate(("hit", "miss"))
        for group, name in enumerate(GROUPS)
    }  # fmt: skip


class Example(Struct, frozen=True):
    """One neuron in one closed loop."""

    mouse: str
    day: int
    roi: int
    soma: Floats
    dendrite: Floats
    """(n_events,) magnitudes of its coincident events, dF/F."""
    z: Floats
    """(n_events,) residuals in SD of the line."""
    intercept: float
    slope: float


def example_neuron(sessions: Sequence[SessionData], role: str = "plus") -> Example | None:
    """Of the neurons of a role the one with the most coincident events in a closed loop; of equals the first.

    A rule, so that nobody chooses the prettiest. None where no neuron of the role has a line. Raises SessionError for a
    session without events.
    """
    best: tuple[int, SessionData, int, Coincident, Floats] | None = None
    for session in sessions:
        events, z = loop_residuals(session)
        n = np.where(session.role == role, np.bincount(events.roi, minlength=len(session.role)), 0)
        if len(n) and n.max() > (best[0] if best else 0):
            best = (int(n.max()), session, int(n.argmax()), events, z)
    if best is None:
        return None
    _, session, roi, events, z = best
    lines: Lines = fit_lines(events, len(session.role))
    own = events.roi == roi
    return Example(
        session.mouse, session.day, roi, events.soma[own], events.dendrite[own], z[own], float(lines.intercept[roi]),
        float(lines.slope[roi]),
    )  # fmt: skip


def neuron_session_means(events: ErrorEvents) -> tuple[NDArray[np.str_], NDArray[np.str_], Floats]:
    """Mouse, role and mean z of each neuron in each session, as the paper averages before it tests."""
    if not len(events.z):
        return events.mouse, events.role, events.z
    key = np.stack([np.unique(x, return_inverse=True)[1] for x in (events.mouse, events.day, events.roi)])
    _, first, number = np.unique(key, axis=1, return_index=True, return_inverse=True)
    number = number.ravel()
    return events.mouse[first], events.role[first], np.bincount(number, events.z) / np.bincount(number)


def by_error_level(events: ErrorEvents, role: str, edge_deg: float = EDGE_DEG) -> Floats:
    """(n_mice, 2) mean z residual of a group in bins whose mean error is below the edge, and at or above it (A15).

    Means of a mouse's neuron-sessions, mice by name; NaN without an event.
    """
    names = np.unique(events.mouse)
    columns = []
    for chosen in (events.bin_error_deg < edge_deg, events.bin_error_deg >= edge_deg):
        mouse, found, z = neuron_session_means(where(events, chosen))
        own = [z[(mouse == name) & (found == role)] for name in names]
        columns.append([v.mean() if len(v) else np.nan for v in own])
    return np.array(columns).T.reshape(-1, 2)


def dd_of_sessions(found: Contrast) -> tuple[NDArray[np.str_], NDArray[np.int64], Floats]:
    """Mouse, day and dd of each session, means over its neurons; NaN where a group has no event in a kind of epoch."""
    rows = []
    for mouse, day in sorted(set(zip(found.mouse.tolist(), found.day.tolist(), strict=True))):
        own = (found.mouse == mouse) & (found.day == day)
        means = []
        for role in ("plus", "minus"):
            change = found.residual[own & (found.role == role)]
            for column in change.T:
                means.append(column[np.isfinite(column)].mean() if np.isfinite(column).any() else np.nan)
        rows.append((mouse, day, (means[0] - means[1]) - (means[2] - means[3])))
    mice, days, dd = zip(*rows, strict=True) if rows else ([], [], [])
    return np.array(mice, np.str_), np.array(days, np.int64), np.array(dd, float)


class Spread(Struct, frozen=True):
    """Where a measure's variance lies, all in its unit."""

    effect: float
    """Mean over mice."""
    sd_between_mice: float
    sd_within: float
    """Of a session about its mouse's mean."""
    n_mice: int
    n_sessions: int
    """Of a mouse, the mean, rounded."""


def spread(mouse: NDArray[np.str_], values: Floats) -> Spread | None:
    """Components of variance of (n_sessions,) values, sessions nested in mice, by the method of moments.

    The variance of mouse means less what sessions bring to it, 0 at least. None with fewer than two mice, or where no
    mouse has two sessions.
    """
    there = np.isfinite(values)
    mouse, values = mouse[there], values[there]
    names, number, n = np.unique(mouse, return_inverse=True, return_counts=True)
    if len(names) < 2 or n.max() < 2:
        return None
    means = mouse_means(values, mouse)
    within = float(((values - means[number]) ** 2).sum() / (len(values) - len(names)))
    between = float(means.var(ddof=1) - within * np.mean(1 / n))
    return Spread(
        float(means.mean()), float(np.sqrt(max(between, 0.0))), float(np.sqrt(within)), len(names),
        round(float(n.mean())),
    )  # fmt: skip
