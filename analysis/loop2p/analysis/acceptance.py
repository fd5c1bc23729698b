"""The acceptance table (docs/experiment.md 7): the paper's value, ours, the rule, met or not. Rows A1-A5 and A19.

A folder holds one arm, or a folder for each arm by its name ("main", "led", "ndnf", "no-apical", ...). Levels were
fixed before any judged cohort was simulated: A1-A5 are means over mice; in A19 the test against chance takes mice, that
between groups sessions, as the paper does, and the other level is printed beside it.
"""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct, to_builtins
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from loop2p.analysis.learning import (
    LATE,
    accuracy,
    by_mouse,
    days_of,
    rate_ratios,
    rewards_per_min,
    running_slope,
    sparsification_slope,
)
from loop2p.analysis.sessions import SessionData, SessionError, read_arm

ARM_NAMES = ("main", "led", "ndnf", "anaesthesia", "no-apical", "scalar", "permuted", "yoked", "swap")
CHANCE = 0.5
Arms = dict[str, list[SessionData]]


class Row(Struct, frozen=True):
    """One line of the table."""

    id: str
    signature: str
    paper: str
    measured: str
    rule: str
    met: bool | None
    """None: the arm or the days that it needs are not there."""
    aim: str = ""
    """What this project aims at beyond the rule, and whether it is reached."""
    detail: str = ""
    """n, tests."""

    def as_dict(self) -> dict[str, Any]:
        return to_builtins(self)  # type: ignore[no-any-return]


def read_arms(folder: Path) -> Arms:
    """Sessions by arm. Raises SessionError where there is none."""
    arms = {name: folder / name for name in ARM_NAMES if (folder / name).is_dir()}
    if not arms:
        asked = folder / "cohort.toml"
        name = tomllib.loads(asked.read_text(encoding="utf-8"))["arm"] if asked.exists() else folder.name
        if name not in ARM_NAMES:
            raise SessionError(f"{folder}: no arm of the experiment, expected a folder called {', '.join(ARM_NAMES)}")
        arms = {name: folder}
    return {name: read_arm(path) for name, path in arms.items()}


def check(folder: Path) -> list[Row]:
    """The rows that a folder's arms allow. Raises SessionError, OSError."""
    return rows_of(read_arms(folder))


def rows_of(arms: Arms) -> list[Row]:
    """A1-A5 and A19. Raises SessionError for a mouse without day 1: everything is measured against it."""
    for sessions in arms.values():
        for mouse, days in by_mouse(sessions).items():
            if days[0].day != 1:
                raise SessionError(f"{days[0].path}: the first session of {mouse} is day {days[0].day}, expected day 1")
    rows = []
    for name, row in (("main", _a1), ("main", _a2), ("main", _a3), ("main", _a4), ("main", _a5), ("ndnf", _a19)):
        rows.append(row(arms) if name in arms else _unknown(row.__name__[1:].upper(), f"needs the arm {name}"))
    return rows


def _unknown(name: str, needs: str) -> Row:
    return Row(name, "", "", "-", "", None, detail=needs)


def _a1(arms: Arms) -> Row:
    days = [s for name in ("main", "led") for s in days_of(arms.get(name, []), [1])]
    hit, per_min = _of(days, accuracy), _of(days, rewards_per_min)
    extra = f", SD {hit.std(ddof=1):.3f}" if len(hit) > 1 else ""
    if "no-apical" in arms:
        twin = arms["no-apical"]
        extra += f"; all days without apical role {_of(twin, accuracy).mean():.3f} (n = {len(twin)} sessions)"
    return Row(
        "A1", "before learning a trial succeeds by chance", ".50", f"{hit.mean():.3f}, {per_min.mean():.2f}/min",
        "accuracy .45-.60, 1.2-1.9 rewards/min",
        bool(0.45 <= hit.mean() <= 0.60 and 1.2 <= per_min.mean() <= 1.9),
        detail=f"day 1, n = {len(days)} mice{extra}",
    )  # fmt: skip


def _late(sessions: Sequence[SessionData], of: Callable[[SessionData], float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(day 1, mean of the late days) of each mouse."""
    mice = by_mouse(sessions).values()
    first = np.array([of(days_of(days, [1])[0]) for days in mice])
    late = np.array([np.mean([of(s) for s in days_of(days, LATE)] or [np.nan]) for days in mice])
    return first, late


def _a2(arms: Arms) -> Row:
    first, late = _late(arms["main"], accuracy)
    up = int(np.sum(late > first))
    value = late.mean()
    if not np.isfinite(value):
        return _unknown("A2", "needs days 9-14")
    return Row(
        "A2", "accuracy rises", ">.75 late; LED control .71", f"{first.mean():.3f} -> {value:.3f}",
        "late .68-.88, above day 1 in 5 of 6 mice",
        bool(0.68 <= value <= 0.88 and up >= np.ceil(5 / 6 * len(late))),
        aim=_aim(value, 0.71, 0.80, "late .71-.80"),
        detail=f"{up} of {len(late)} mice up; paired t, mice: p = {_paired(first, late):.2g}",
    )  # fmt: skip


def _a3(arms: Arms) -> Row:
    first, late = _late(arms["main"], rewards_per_min)
    value, ratio = late.mean(), late.mean() / first.mean()
    if not np.isfinite(value):
        return _unknown("A3", "needs days 9-14")
    return Row(
        "A3", "rewards a minute rise", "3.1 late (LED control)", f"{first.mean():.2f} -> {value:.2f} ({ratio:.2f}x)",
        "late 2.2-4.0 and >1.5x day 1", bool(2.2 <= value <= 4.0 and ratio > 1.5),
        aim=_aim(value, 2.5, 3.5, "2.5-3.5"),
        detail=f"n = {len(late)} mice; paired t, mice: p = {_paired(first, late):.2g}",
    )  # fmt: skip


def _a4(arms: Arms) -> Row:
    mice = by_mouse(arms["main"])
    if not all(days_of(days, range(10, 15)) and days[0].events for days in mice.values()):
        return _unknown("A4", "needs events and days 10-14")
    ratios = [rate_ratios(days) for days in mice.values()]
    plus, other, minus = (np.array([r[group] for r in ratios]) for group in ("plus", "other", "minus"))
    ordered = int(np.sum((plus > other) & (other > minus)))
    p, o, m = plus.mean(), other.mean(), minus.mean()
    near = all(abs(a - b) <= 0.08 for a, b in ((p, 0.85), (o, 0.71), (m, 0.60)))
    return Row(
        "A4", "P+ keep firing, P- fall: rate of days 10-14 / day 1", "P+ .85 > P0 .71 > P- .60",
        f"P+ {p:.2f}, P0 {o:.2f}, P- {m:.2f}", "that order, P- <= .75, P+ - P- >= .12",
        bool(p > o > m and m <= 0.75 and p - m >= 0.12),
        aim=f"each within .08: {'reached' if near else 'not reached'}",
        detail=f"order in {ordered} of {len(mice)} mice; P+ against P-, paired t, mice: p = {_paired(plus, minus):.2g}",
    )  # fmt: skip


def _a5(arms: Arms) -> Row:
    mice = by_mouse(arms["main"]).values()
    if not all(days_of(days, range(10, 15)) and days[0].events for days in mice):
        return _unknown("A5", "needs events and days 10-14")
    if len(mice) < 2:
        return _unknown("A5", "needs two mice: a trend is tested over mice")
    slopes = np.array([sparsification_slope(days) for days in mice])
    trends = np.array([running_slope(days) for days in mice])
    p = float(stats.ttest_1samp(trends, 0).pvalue)
    return Row(
        "A5", "active cells fall most; running does not change", "yes; p = .58",
        f"slope {slopes.mean():.2f}; running {trends.mean():+.3f} cm/s a day",
        "slope < 0 in the mean; running: no trend",
        bool(slopes.mean() < 0 and p > 0.05),
        detail=f"slope < 0 in {int(np.sum(slopes < 0))} of {len(slopes)} mice; running, t of slopes, mice: p = {p:.2g}",
    )  # fmt: skip


def _a19(arms: Arms) -> Row:
    sessions = days_of(arms["ndnf"], LATE)
    if not sessions or not days_of(arms.get("led", []), LATE):
        return _unknown("A19", "needs late days of the arms ndnf and led")
    control = days_of(arms["led"], LATE)
    mice, led_mice = _late(arms["ndnf"], accuracy)[1], _late(arms["led"], accuracy)[1]
    if min(len(mice), len(led_mice)) < 2:
        return _unknown("A19", "needs two mice of each arm: it is tested over mice")
    each, led_each = _of(sessions, accuracy), _of(control, accuracy)
    chance, chance_each = stats.ttest_1samp(mice, CHANCE).pvalue, stats.ttest_1samp(each, CHANCE).pvalue
    group, group_mice = stats.ttest_ind(each, led_each).pvalue, stats.ttest_ind(mice, led_mice).pvalue
    per_min = _of(sessions, rewards_per_min).mean(), _of(control, rewards_per_min).mean()
    return Row(
        "A19", "NDNF blocks learning, the LED alone does not", ".56 against .71; 1.9 against 3.1/min",
        f"{each.mean():.3f} against {led_each.mean():.3f}; {per_min[0]:.2f} against {per_min[1]:.2f}/min",
        "NDNF late ns from chance (mice), groups p < .01 (sessions)",
        bool(chance > 0.05 and group < 0.01 and each.mean() < led_each.mean()),
        detail=(
            f"chance: mice n = {len(mice)} p = {chance:.2g}, sessions n = {len(each)} p = {chance_each:.2g}; "
            f"groups: sessions {len(each)} + {len(led_each)} p = {group:.2g}, mice p = {group_mice:.2g}"
        ),
    )  # fmt: skip


def _of(sessions: Sequence[SessionData], of: Callable[[SessionData], float]) -> NDArray[np.float64]:
    return np.array([of(s) for s in sessions])


def _paired(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float(stats.ttest_rel(first, second).pvalue) if len(first) > 1 else np.nan


def _aim(value: float, low: float, high: float, text: str) -> str:
    return f"{text}: {'reached' if low <= value <= high else 'not reached'}"


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """The table, for a person."""
    table = Table(show_lines=True)
    for column in ("", "signature", "paper", "measured", "rule", "", "aim", "n and tests"):
        table.add_column(column)
    for row in rows:
        verdict = "-" if row.met is None else "met" if row.met else "NOT MET"
        table.add_row(row.id, row.signature, row.paper, row.measured, row.rule, verdict, row.aim, row.detail)
    console.print(table)
