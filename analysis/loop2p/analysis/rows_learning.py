"""A1-A5 and A19: does the mouse learn, and what do its cells do? From sessions alone.

Levels: A1-A5 are means over mice; in A19 the test against chance takes mice, that between groups sessions, as the paper
does, and the other level is beside it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from loop2p.analysis.arm import name_in_all_arms
from loop2p.analysis.learning import (
    LATE,
    RATE_LATE,
    accuracy,
    by_mouse,
    days_of,
    rate_ratios,
    rewards_per_min,
    running_slope,
    same_roles,
    sparsification_slope,
)
from loop2p.analysis.row import Arms, Found, MissingError, aimed, arm_of, mean_of, p_of, p_text, row
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, mouse_means, t_one_sample, t_paired, t_two_sample

CHANCE = 0.5


@row("A1", "before learning a trial succeeds by chance", paper=".50", rule="accuracy .45-.60, 1.2-1.9 rewards/min")
def a1(arms: Arms) -> Found:
    _sessions(arms, "main")
    days = {name: _with_outcomes(days_of(_sessions(arms, name), [1])) for name in ("main", "led") if name in arms}
    arm_days = [(name_in_all_arms(s.mouse, arm), s) for arm, of in days.items() for s in of]
    mouse = np.array([name for name, _ in arm_days])
    hit, per_min = (mouse_means(_each([s for _, s in arm_days], of), mouse) for of in (accuracy, rewards_per_min))
    extra = f", SD {hit.std(ddof=1):.3f}" if len(hit) > 1 else ""
    twin = arms["no-apical"].loops if "no-apical" in arms else []
    if twin:
        extra += f"; all days without apical role {mean_of(_each(twin, accuracy)):.3f} (n = {len(twin)} sessions)"
    return Found(
        f"{hit.mean():.3f}, {per_min.mean():.2f}/min",
        bool(0.45 <= hit.mean() <= 0.60 and 1.2 <= per_min.mean() <= 1.9),
        f"day 1, n = {len(hit)} mice in {len(arm_days)} sessions{extra}",
        [t_one_sample(hit, CHANCE, what="accuracy of day 1 - .5", level="mouse")],
    )


@row("A2", "accuracy rises", paper=">.75 late; LED control .71", rule="late .68-.88, above day 1 in 5 of 6 mice")
def a2(arms: Arms) -> Found:
    first, late = _first_and_late(arms, "main", accuracy)
    _with_outcomes(days_of(arms["main"].loops, [1]))
    up = int(np.sum(late > first))
    value = late.mean()
    rise = t_paired(late, first, what="accuracy, late - day 1", level="mouse")
    sessions = _each(days_of(arms["main"].loops, LATE), accuracy)
    return Found(
        f"{first.mean():.3f} -> {value:.3f}",
        bool(0.68 <= value <= 0.88 and up >= np.ceil(5 / 6 * len(late))),
        f"{up} of {len(late)} mice up; paired t, mice: {p_text(rise.p)}",
        [
            rise,
            t_one_sample(late, CHANCE, what="late accuracy - .5", level="mouse"),
            t_one_sample(sessions, CHANCE, what="late accuracy - .5", level="session"),
        ],
        aimed(value, 0.71, 0.80, "late .71-.80"),
    )


@row("A3", "rewards a minute rise", paper="3.1 late (LED control)", rule="late 2.2-4.0 and >1.5x day 1")
def a3(arms: Arms) -> Found:
    first, late = _first_and_late(arms, "main", rewards_per_min)
    if not first.any():
        raise MissingError("a reward on day 1 of the arm main, to compare the late days with")
    value, ratio = late.mean(), late.mean() / first.mean()
    rise = t_paired(late, first, what="rewards/min, late - day 1", level="mouse")
    return Found(
        f"{first.mean():.2f} -> {value:.2f} ({ratio:.2f}x)",
        bool(2.2 <= value <= 4.0 and ratio > 1.5),
        f"n = {len(late)} mice; paired t, mice: {p_text(rise.p)}",
        [rise],
        aimed(value, 2.5, 3.5, "2.5-3.5"),
    )


@row(
    "A4",
    "P+ keep firing, P- fall: rate of days 10-14 / day 1",
    paper="P+ .85 > P0 .71 > P- .60",
    rule="that order, P- <= .75, P+ - P- >= .12",
)
def a4(arms: Arms) -> Found:
    ratios = []
    for first, *later in _mice_with_late_rates(arms):
        if not all(same_roles(first, s) for s in days_of(later, RATE_LATE)):
            raise MissingError(f"P+ and P- of day 1 on days 10-14, where those of {first.mouse} are others")
        found = rate_ratios([first, *later])
        for group, name in (("plus", "P+"), ("minus", "P-"), ("other", "P0")):
            if np.isnan(found[group]):
                raise MissingError(f"{name} with events on day 1, which {first.path} has not")
        ratios.append(found)
    plus, other, minus = (np.array([r[group] for r in ratios]) for group in ("plus", "other", "minus"))
    ordered = int(np.sum((plus > other) & (other > minus)))
    p, o, m = plus.mean(), other.mean(), minus.mean()
    near = all(abs(a - b) <= 0.08 for a, b in ((p, 0.85), (o, 0.71), (m, 0.60)))
    pairs = {"P+ - P-": (plus, minus), "P+ - P0": (plus, other), "P0 - P-": (other, minus)}
    tests = [t_paired(*pair, what=f"rate of days 10-14 / day 1, {name}", level="mouse") for name, pair in pairs.items()]
    return Found(
        f"P+ {p:.2f}, P0 {o:.2f}, P- {m:.2f}",
        bool(p > o > m and m <= 0.75 and p - m >= 0.12),
        f"order in {ordered} of {len(plus)} mice; P+ against P-, paired t, mice: {p_text(tests[0].p)}",
        tests,
        f"each within .08: {'reached' if near else 'not reached'}",
    )


@row(
    "A5",
    "active cells fall most; running does not change",
    paper="yes; p = .58",
    rule="slope < 0 in the mean; running: no trend (p > .05)",
    imposed="every cell loses rate in proportion to its rate, and running knows nothing of days",
)
def a5(arms: Arms) -> Found:
    mice = _mice_with_late_rates(arms)
    if len(mice) < 2:
        raise MissingError("two mice: a trend is tested over mice")
    slopes = np.array([sparsification_slope(days) for days in mice])
    for days, slope in zip(mice, slopes, strict=True):
        if np.isnan(slope):
            raise MissingError(f"P0 that differ in rate on day 1, which {days[0].path} has not")
    trends = np.array([running_slope(days) for days in mice])
    fall = t_one_sample(slopes, 0.0, what="slope of rate change on rate", level="mouse")
    trend = t_one_sample(trends, 0.0, what="running, cm/s a day", level="mouse")
    return Found(
        f"slope {slopes.mean():.2f}; running {trends.mean():+.3f} cm/s a day",
        bool(slopes.mean() < 0 and p_of(trend) > 0.05),
        f"slope < 0 in {int(np.sum(slopes < 0))} of {len(slopes)} mice; running, t of slopes, mice: {p_text(trend.p)}",
        [fall, trend],
    )


@row(
    "A19",
    "NDNF blocks learning, the LED alone does not",
    paper=".56 against .71; 1.9 against 3.1/min",
    rule="NDNF late ns from chance (mice), groups p < .01 (sessions)",
    unmet="mice that hit less than by chance from the first days on fail it without having learned",
)
def a19(arms: Arms) -> Found:
    mice, led_mice = (_first_and_late(arms, name, accuracy)[1] for name in ("ndnf", "led"))
    if min(len(mice), len(led_mice)) < 2:
        raise MissingError("two mice of each of the arms ndnf and led: it is tested over mice")
    sessions, control = (days_of(arms[name].loops, LATE) for name in ("ndnf", "led"))
    each, led_each = _each(sessions, accuracy), _each(control, accuracy)
    against, between = "NDNF, late accuracy - .5", "late accuracy, NDNF - LED only"
    chance = t_one_sample(mice, CHANCE, what=against, level="mouse")
    chance_each = t_one_sample(each, CHANCE, what=against, level="session")
    group = t_two_sample(each, led_each, what=between, level="session")
    group_mice = t_two_sample(mice, led_mice, what=between, level="mouse")
    per_min = _each(sessions, rewards_per_min).mean(), _each(control, rewards_per_min).mean()
    return Found(
        f"{each.mean():.3f} against {led_each.mean():.3f}; {per_min[0]:.2f} against {per_min[1]:.2f}/min",
        bool(p_of(chance) > 0.05 and p_of(group) < 0.01 and each.mean() < led_each.mean()),
        (
            f"chance: mice n = {len(mice)} {p_text(chance.p)}, sessions n = {len(each)} {p_text(chance_each.p)}; "
            f"groups: sessions {len(each)} + {len(led_each)} {p_text(group.p)}, mice {p_text(group_mice.p)}"
        ),
        [chance, chance_each, group, group_mice],
    )


ROWS = (a1, a2, a3, a4, a5, a19)


def _sessions(arms: Arms, name: str) -> list[SessionData]:
    """An arm's loops. Raises MissingError where a mouse has no day 1: everything is measured against it."""
    sessions = arm_of(arms, name).loops
    if not sessions:
        raise MissingError(f"closed loops of the arm {name}")
    for mouse, days in by_mouse(sessions).items():
        if days[0].day != 1:
            raise MissingError(f"day 1 of {mouse}, whose first session is day {days[0].day}")
    return sessions


def _first_and_late(arms: Arms, name: str, of: Callable[[SessionData], float]) -> tuple[Floats, Floats]:
    """(day 1, mean of the late days that have a value) of each mouse, both (n_mice,). Raises MissingError."""
    mice = by_mouse(_sessions(arms, name)).values()
    if not all(days_of(days, LATE) for days in mice):
        raise MissingError(f"days 9-14 of every mouse of the arm {name}")
    first = np.array([of(days[0]) for days in mice])
    late = np.array([mean_of(_each(days_of(days, LATE), of)) for days in mice])
    for days, value in zip(mice, late, strict=True):
        if np.isnan(value):
            raise MissingError(f"a hit or a miss on days 9-14 of {days[0].mouse}")
    return first, late


def _with_outcomes(sessions: list[SessionData]) -> list[SessionData]:
    """The same. Raises MissingError for a session without an accuracy."""
    for session in sessions:
        if np.isnan(accuracy(session)):
            raise MissingError(f"a hit or a miss on day {session.day} of {session.mouse}")
    return sessions


def _mice_with_late_rates(arms: Arms) -> list[list[SessionData]]:
    mice = list(by_mouse(_sessions(arms, "main")).values())
    for days in mice:
        late = days_of(days, RATE_LATE)
        if not late or not all(0 in session.events for session in (days[0], *late)):
            raise MissingError("events, and days 10-14 of every mouse of the arm main")
    if not all(session.followed for days in mice for session in days):
        raise MissingError("rows of ROIs that are the same cells on each day, which suite2p's folders do not promise")
    for days in mice:
        n_rois = len(days[0].role)
        for session in days_of(days, RATE_LATE):
            if len(session.role) != n_rois:
                raise MissingError(f"the {n_rois} ROIs of day 1 on each day: {session.path} has {len(session.role)}")
    return mice


def _each(sessions: Sequence[SessionData], of: Callable[[SessionData], float]) -> Floats:
    """Of the sessions that have it: where all trials are void there is no accuracy."""
    values = np.array([of(s) for s in sessions], float)
    return np.asarray(values[np.isfinite(values)])
