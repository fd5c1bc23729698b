"""Figures of what changes from day to day: learning, event rates, running, licking."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from loop2p.analysis.arm import Arm
from loop2p.analysis.behaviour import licking, running_trend
from loop2p.analysis.figures.arms_used import Arms, leading, ordered, sample
from loop2p.analysis.figures.curves import ByDay, by_day, days_of_values, group_rate_hz, relative_rates
from loop2p.analysis.figures.style import (
    BLUE,
    RED,
    ROLES,
    SOFT,
    Look,
    Plate,
    curve,
    day_axis,
    legend_above,
    look,
    many,
    mean_mark,
    panels,
    points,
    reference,
    zero,
)
from loop2p.analysis.learning import GROUPS, accuracy, rewards_per_min, speed_cm_s
from loop2p.analysis.row import told
from loop2p.analysis.sessions import SessionData

CHANCE = 0.5
"""Accuracy at the threshold's calibration (docs/experiment.md 2.4)."""
CONTROLS = ("no-apical", "scalar", "permuted", "yoked", "swap")


def learning_curves(arms: Arms) -> Plate | None:
    """Accuracy and rewards a minute by day; the controls in panels of their own, beside the main arm."""
    there = [arm for arm in ordered(arms) if len(by_day(arm.loops, accuracy).days)]
    rows = [[arm for arm in there if arm.name not in CONTROLS], [arm for arm in there if arm.name in CONTROLS]]
    if rows[0] and rows[1]:
        rows[1] = [arm for arm in rows[0] if arm.name == "main"] + rows[1]
    rows = [row for row in rows if row]
    if not rows:
        return None
    titles = ["accuracy", "rewards a minute"]
    titles += [f"{title}, controls" for title in titles[: 2 * (len(rows) - 1)]]
    figure, axes = panels(titles, 2, 2.9)
    for row, chosen in enumerate(rows):
        _learning(axes[2 * row], axes[2 * row + 1], chosen)
    legend_above(figure, axes)
    n = "; ".join(f"{look(a.name).label} {sample(a.loops)}" for a in there)
    return Plate(
        figure, "Learning",
        f"Hits among hits and misses, and drops a minute of closed loop, by day. Thick: mean over mice, bars s.e.m. "
        f"over mice (none for one mouse); thin: each mouse. Level: mouse. Dashed: the threshold is set so that half of "
        f"the trials succeed by chance. n: {n}.",
    )  # fmt: skip


def _learning(hits: Axes, rewards: Axes, arms: Sequence[Arm]) -> None:
    for k, arm in enumerate(arms):
        offset = 0.06 * (k - (len(arms) - 1) / 2)
        for axes, of in ((hits, accuracy), (rewards, rewards_per_min)):
            found = by_day(arm.loops, of)
            curve(axes, found.days, found.values, look(arm.name), offset)
    hits.set(ylabel="accuracy", ylim=(0, 1))
    reference(hits, CHANCE, "chance")
    rewards.set(ylabel="rewards / min", ylim=(0, None))
    day_axis(hits)
    day_axis(rewards)


def rates_and_running(arms: Arms) -> Plate | None:
    """Event rates of the first day, their change over days, and running, of the leading arm."""
    arm = leading(arms)
    if arm is None:
        return None
    first_day = min(s.day for s in arm.sessions)
    first = [s for s in arm.sessions if s.day == first_day]
    relative = relative_rates(arm.sessions)
    running = by_day(arm.sessions, speed_cm_s)
    titles = [f"event rate on day {first_day}"]
    titles += ["event rate, day 1 = 1"] if len(relative["plus"].days) > 1 else []
    titles += ["running"] if len(running.days) else []
    figure, axes = panels(titles, len(titles), 2.9)
    for place, group in enumerate(GROUPS):
        rates = np.array([group_rate_hz(s, group) for s in first])
        points(axes[0], place, rates, ROLES[group])
        mean_mark(axes[0], place, rates, ROLES[group])
    axes[0].set(xticks=range(3), xticklabels=[ROLES[g].label for g in GROUPS], ylabel="events / s", ylim=(0, None))
    axes[0].set_xlim(-0.6, 2.6)
    text = (
        f"Arm: {look(arm.name).label}. Rate of somatic events on day {first_day}, means over a group's cells; each "
        f"mark a mouse, n = {many(len(first), 'mouse')}"
    )
    if len(relative["plus"].days) > 1:
        _relative(axes[1], relative)
        counts = ", ".join(f"{ROLES[g].label} {len(relative[g].mice)}" for g in GROUPS)
        text += (
            "; the same by day over that of day 1, P0 matched to P+ and P- in rate on day 1's odd minutes, day 1 taken "
            "from its even minutes, days on which P+ and P- are others left out "
            f"(mean +- s.e.m. over mice, thin lines mice, n = {counts})"
        )
    if len(running.days):
        curve(axes[-1], running.days, running.values, look(arm.name))
        axes[-1].set(ylabel="speed (cm / s)", ylim=(0, None))
        day_axis(axes[-1])
        text += f"; mean speed of the treadmill by day. Running over days: {told([running_trend(arm.sessions)])}"
    legend_above(figure, axes[1:2] if len(relative["plus"].days) > 1 else [])
    return Plate(figure, "Event rates and running", text + ".")


def _relative(axes: Axes, relative: dict[str, ByDay]) -> None:
    for group, offset in zip(GROUPS, (-0.08, 0.08, 0.0), strict=True):
        if len(relative[group].days):
            curve(axes, relative[group].days, relative[group].values, ROLES[group], offset)
    axes.set(ylabel="rate / day 1", ylim=(0, None))
    day_axis(axes)


def licking_by_day(arms: Arms, seed: int) -> Plate | None:
    """Correlation of licks with the angle, in closed loop and while the same gratings come by themselves."""
    arm = leading(arms)
    sessions: list[SessionData] = arm.sessions if arm else ordered(arms)[0].loops if arms else []
    found = licking(sessions, seed)
    loop, passive = Look("closed loop", BLUE, "o", "-"), Look("passive", RED, "s", "--")
    shuffle = Look("licks shifted in time", SOFT, "^", ":")
    measured = [
        ("closed loop", [(loop, found.loop), (shuffle, found.loop_shuffled)]),
        ("passive gratings", [(passive, found.passive), (shuffle, found.passive_shuffled)]),
    ]
    shown = [(title, rows) for title, rows in measured if np.isfinite(rows[0][1]).any()]
    if not shown:
        return None
    figure, axes = panels([title for title, _ in shown], len(shown), 2.8, sharey=True)
    counts = []
    for one, (title, rows) in zip(axes, shown, strict=True):
        for as_, r in rows:
            table = days_of_values(found.mouse, found.day, r)
            curve(one, table.days, table.values, as_)
        zero(one)
        day_axis(one)
        measured_in = [s for s, r in zip(sessions, rows[0][1], strict=True) if np.isfinite(r)]
        counts.append(f"{title} {sample(measured_in)}")
    axes[0].set_ylabel("r of lick rate and angle")
    legend_above(figure, axes)
    return Plate(
        figure, "Licking follows the angle",
        "Pearson's r of lick rate and displayed angle in bins of 2 s, by day: mean +- s.e.m. over mice, thin lines "
        "mice. Level: mouse. Control: the same licks shifted in a circle by a random time. Time from the target to the "
        f"next trial, when the mouse drinks, is in neither. n: {'; '.join(counts)}.",
    )  # fmt: skip
