"""Figures of the error signal: its sign flip, what it survives, and the controls in which it must vanish."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.arm import Arm
from loop2p.analysis.columns import where
from loop2p.analysis.contrast import EPOCHS, Contrast, contrast
from loop2p.analysis.figures.arms_used import Arms, compared, leading, sample, with_events
from loop2p.analysis.figures.curves import by_error_level
from loop2p.analysis.figures.style import (
    ROLES,
    SOFT,
    Plate,
    arm_axis,
    bar,
    legend_above,
    look,
    many,
    mean_mark,
    mean_sem,
    panels,
    points,
    reference,
    signed,
    zero,
)
from loop2p.analysis.learning import GROUPS
from loop2p.analysis.neurons import soma_matched, soma_sizes
from loop2p.analysis.partial import EDGE_DEG, ErrorEvents, Partial, by_level, error_events, partial_regression
from loop2p.analysis.row import MissingError, told
from loop2p.analysis.rows_controls import AIM, TWINS, Twin, twin_of
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats

PAIR = ("plus", "minus")
SLOPES = ("role x change", "role x level")
"""Coefficients of the regression, in the order of `partial.TERMS`."""


def sign_flip(arms: Arms) -> Plate | None:
    """Residuals of P+, P- and P0 while the error falls and while it grows, and each mouse's difference of the two."""
    shown = [(arm, contrast(with_events(arm.sessions))) for arm in compared(arms)]
    shown = [(arm, found) for arm, found in shown if np.isfinite(found.residual[np.isin(found.role, PAIR)]).any()]
    if not shown:
        return None
    titles = [title for arm, _ in shown for title in (look(arm.name).label, f"{look(arm.name).label}: each mouse")]
    figure, axes = panels(titles, 2, 2.8, sharey="col", width_ratios=(3, 2))
    texts = []
    for row, (arm, found) in enumerate(shown):
        _bars(axes[2 * row], {group: found.by_mouse(group) for group in GROUPS}, [f"error {name}" for name in EPOCHS])
        axes[2 * row].set_ylabel("residual (SD)")
        tests = [f"{epoch} {_tests(found, epoch)}" for epoch in EPOCHS]
        name = f"{look(arm.name).label} ({sample(with_events(arm.sessions))})"
        texts.append(f"{name}, P+ less P-: {'; '.join(tests)}; dd {_dd(found)}")
        _each_mouse(axes[2 * row + 1], found)
    legend_above(figure, axes[:1])
    return Plate(
        figure, "The error signal has two signs",
        "Left: mean z residual in 2 s bins in which the error falls, and in which it grows; bars mean +- s.e.m. over "
        "mice of the mean of a mouse's neuron-sessions, marks mice. Right: reduction minus increase, a line for each "
        "mouse; dd is that of P+ less that of P-. " + ". ".join(texts) + ".",
    )  # fmt: skip


def _bars(axes: Axes, values: dict[str, Floats], names: Sequence[str]) -> None:
    """Group -> (n_mice, n_names)."""
    step = 0.28
    for k, (group, of) in enumerate(values.items()):
        for place in range(len(names)):
            at = place + (k - (len(values) - 1) / 2) * step
            bar(axes, at, of[:, place], ROLES[group], label=ROLES[group].label if place == 0 else None)
    zero(axes)
    axes.set(xticks=range(len(names)), xticklabels=names, xlim=(-0.6, len(names) - 0.4))
    axes.grid(visible=False, axis="x")


def _each_mouse(axes: Axes, found: Contrast) -> None:
    change = np.stack([found.change_by_mouse(role) for role in PAIR])
    axes.plot([0, 1], change, color=SOFT, linewidth=0.9)
    for place, (role, values) in enumerate(zip(PAIR, change, strict=True)):
        points(axes, place, values, ROLES[role], width=0.0)
        mean_mark(axes, place + 0.22, values, ROLES[role], half=0.1)
    zero(axes)
    axes.set(xticks=(0, 1), xticklabels=[ROLES[r].label for r in PAIR], xlim=(-0.5, 1.6))
    axes.set_ylabel("reduction - increase (SD)")
    axes.grid(visible=False, axis="x")


class Bars(Struct, frozen=True):
    """One panel of P+ and P- under two conditions."""

    title: str
    text: str
    values: dict[str, Floats]
    """Group -> (n_mice, 2)."""
    names: Sequence[str] = tuple(f"error {name}" for name in EPOCHS)


def survives(arms: Arms) -> Plate | None:
    """The sign flip with somas matched, with events sized on dF/F, in P0 like P+ and P-, and by the error's level."""
    arm = leading(arms)
    if arm is None:
        return None
    sessions = with_events(arm.sessions)
    events = error_events(sessions)
    flips = _flips(arm, sessions)
    drawn = [*flips, *_by_level(events)]
    slopes = _slopes(events)
    titles = [one.title for one in drawn] + (["change and level at once"] if slopes else [])
    if not titles:
        return None
    figure, axes = panels(titles, min(3, len(titles)), 2.9)
    for one in axes[1 : len(flips)]:
        one.sharey(axes[0])  # so that P0 can be seen to follow less
    for one, bars in zip(axes, drawn, strict=False):
        _bars(one, bars.values, bars.names)
        one.set_ylabel("residual (SD)")
    notes = [one.text for one in drawn]
    if slopes:
        for place in range(2):
            bar(axes[-1], place, slopes.by_mouse[:, place], look(arm.name), width=0.4)
        zero(axes[-1])
        axes[-1].set(xticks=(0, 1), xticklabels=SLOPES, ylabel="coefficient (SD for an SD)", xlim=(-0.6, 1.6))
        axes[-1].grid(visible=False, axis="x")
        tests = zip(SLOPES, slopes.over_mice, strict=True)
        notes.append("a regression for each mouse; " + ", ".join(f"{name} {told([test])}" for name, test in tests))
    legend_above(figure, axes[:1])
    lettered = zip("abcde", titles, notes, strict=False)
    return Plate(
        figure, "What the sign flip survives",
        f"Arm: {look(arm.name).label}, {sample(sessions)}. Bars: mean +- s.e.m. over mice of the mean of a mouse's "
        "neuron-sessions, marks mice. " + " ".join(f"{letter}, {title}: {text}." for letter, title, text in lettered),
    )  # fmt: skip


def _flips(arm: Arm, sessions: Sequence[SessionData]) -> list[Bars]:
    """Panels by kind of epoch, of what is there."""
    found = contrast(sessions)
    matched = soma_matched(soma_sizes(sessions), found.role, found.mouse)
    drawn = []
    if matched.any():
        n = f"{int(matched.sum()) // 2} pairs of neuron-sessions; "
        drawn.append(_flip("somatic sizes matched", where(found, matched), n))
    if sized := with_events(arm.dff):
        drawn.append(_flip("events sized on dF/F", contrast(sized)))
    if like := with_events(arm.alike):
        note = "the former stand as P+, the latter as P-; "
        drawn.append(_flip("P0 that go with or against D", contrast(like), note))
    return drawn


def _flip(title: str, found: Contrast, note: str = "") -> Bars:
    tests = "; ".join(f"{epoch} {_tests(found, epoch)}" for epoch in EPOCHS)
    return Bars(title, f"{note}P+ less P-: {tests}", {role: found.by_mouse(role) for role in PAIR})


def _by_level(events: ErrorEvents) -> list[Bars]:
    """P+ and P- at small and at large error of a bin; nothing without events of P+."""
    levels = {role: by_error_level(events, role) for role in PAIR}
    if not np.isfinite(levels["plus"]).any():
        return []
    tests = by_level(events, "bin_error_deg")
    small, large = tests[:2], tests[2:]
    text = (
        "mean error of the 2 s bin; P+ and P- should not differ if the change is what is told. P+ less P-: small "
        f"{signed(small[0].estimate)}, {told(small)}; large {signed(large[0].estimate)}, {told(large)}"
    )
    names = (f"error < {EDGE_DEG:.0f} deg", f"error >= {EDGE_DEG:.0f} deg")
    return [Bars("by the level of the error", text, levels, names)]


def _slopes(events: ErrorEvents) -> Partial | None:
    """None where a mouse has too few events for a regression."""
    try:
        return partial_regression(events, "rotation_deg_s", "bin_error_deg")
    except ValueError:
        return None


def negative_controls(arms: Arms) -> Plate | None:
    """dd of each mouse in the main arm and in its twins, and what P+ and P- do there."""
    twins = {name: twin for name in TWINS if (twin := _twin(arms, name)) is not None}
    if not twins:
        return None
    found = {"main": next(iter(twins.values())).main} | {name: twin.twin for name, twin in twins.items()}
    figure, axes = panels(["difference of differences", "reduction - increase"], 2, 3.2)
    mice = sorted({mouse for one in found.values() for mouse in one.mice})
    by_mouse = [dict(zip(one.mice, one.precise_dd.tolist(), strict=True)) for one in found.values()]
    dd = np.array([[one.get(mouse, np.nan) for one in by_mouse] for mouse in mice])
    axes[0].axhspan(-AIM, AIM, color=SOFT, alpha=0.15, linewidth=0)
    reference(axes[0], float(mean_sem(dd[:, 0])[0]) / 2, "half of\nmain")
    axes[0].plot(range(len(found)), dd.T, color=SOFT, linewidth=0.9)
    for place, (name, one) in enumerate(found.items()):
        points(axes[0], place, dd[:, place], look(name), width=0.0)
        mean_mark(axes[0], place + 0.2, dd[:, place], look(name), half=0.09)
        for role, at in zip(PAIR, (-0.16, 0.16), strict=True):
            label = ROLES[role].label if place == 0 else None
            bar(axes[1], place + at, one.precise_change_by_mouse(role), ROLES[role], width=0.3, label=label)
    for panel, label in zip(axes, ("dd (SD)", "reduction - increase (SD)"), strict=True):
        zero(panel)
        panel.set_ylabel(label)
        arm_axis(panel, list(found))
    legend_above(figure, axes[1:])
    texts = [f"main - {look(n).label} {signed(t.test.estimate)}, {told([t.test])}" for n, t in twins.items()]
    return Plate(
        figure, "Negative controls",
        f"Twins of the main arm: the same mice and days under another signal; residuals less what events nearby "
        f"make of them, each neuron-session weighted by its events. a: dd, a line for each mouse, thick bars mean +- "
        f"s.e.m. over mice; grey: +-{AIM:g}, the aim for a twin. b: its two parts, bars mean +- s.e.m. over mice, "
        f"marks mice; a scalar gives P+ and P- the same sign. Level: mouse. {'; '.join(texts)}.",
    )  # fmt: skip


def _twin(arms: Arms, name: str) -> Twin | None:
    try:
        return twin_of(arms, name)
    except MissingError:
        return None


def _tests(found: Contrast, epoch: str) -> str:
    """P+ less P-, as the paper tests it and over mice."""
    tests = found.tests(epoch)[:2]
    return f"{signed(tests[0].estimate)}, {told(tests)}"


def _dd(found: Contrast) -> str:
    dd: NDArray[np.float64] = np.array(list(found.dd.values()))
    mean, sem, n = mean_sem(dd)
    error = f" +- {float(sem):.3f}" if np.isfinite(sem) else ""
    return f"{float(mean):+.3f}{error}, above 0 in {int(np.sum(dd > 0))} of {many(int(n), 'mouse')}"
