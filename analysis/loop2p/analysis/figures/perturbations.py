"""Figure of the LED and of anaesthesia: dendrites, somas, learning."""

import numpy as np

from loop2p.analysis.figures.arms_used import Arms
from loop2p.analysis.figures.by_day import CHANCE
from loop2p.analysis.figures.curves import by_day
from loop2p.analysis.figures.style import (
    Plate,
    arm_axis,
    curve,
    day_axis,
    legend_above,
    look,
    mean_mark,
    panels,
    points,
    reference,
    signed,
    zero,
)
from loop2p.analysis.learning import accuracy
from loop2p.analysis.perturbation import ANAESTHESIA, LED, Perturbed, perturbed
from loop2p.analysis.row import told
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, t_one_sample

BLOCKS = {"ndnf": LED, "led": LED, "anaesthesia": ANAESTHESIA}
"""Control and perturbed passive block of each arm that has them."""


def opto_and_anaesthesia(arms: Arms) -> Plate | None:
    """Residual and event rate of each mouse against its control block, and learning under the LED."""
    sessions = {name: _with_blocks(arms[name].sessions, pair) for name, pair in BLOCKS.items() if name in arms}
    found = {name: perturbed(own, BLOCKS[name]) for name, own in sessions.items() if own}
    if not found:
        return None
    curves = {name: by_day(arms[name].loops, accuracy) for name in ("ndnf", "led") if name in found}
    curves = {name: table for name, table in curves.items() if len(table.days)}
    titles = ["residual", "somatic event rate"] + (["accuracy under the LED"] if curves else [])
    figure, axes = panels(titles, len(titles), 3.0)
    texts = []
    for place, (name, one) in enumerate(found.items()):
        values = one.by("mouse", one.residual), one.by("mouse", one.rate_change_hz)
        for panel, by_mouse in zip(axes, values, strict=False):
            points(panel, place, by_mouse, look(name))
            mean_mark(panel, place, by_mouse, look(name))
        texts.append(f"{look(name).label}: {_shifts(one, *values)}")
    for panel, label in zip(axes, ("residual (SD of control)", "change of rate (events / s)"), strict=False):
        zero(panel)
        panel.set_ylabel(label)
        panel.margins(y=0.12)
        arm_axis(panel, list(found))
    for name, table in curves.items():
        curve(axes[-1], table.days, table.values, look(name))
    if curves:
        axes[-1].set(ylabel="accuracy", ylim=(0, 1))
        reference(axes[-1], CHANCE, "chance")
        day_axis(axes[-1])
    legend_above(figure, axes[2:])
    return Plate(
        figure, "LED and anaesthesia",
        "Against the day's own control block (LED off, awake): mean distance of events from each neuron's control "
        "line, and change of somatic event rate. Marks mice, means over a mouse's neuron-sessions; thick bars mean +- "
        f"s.e.m. over mice. Level: mouse. {'; '.join(texts)}.",
    )  # fmt: skip


def _shifts(found: Perturbed, residual: Floats, change_hz: Floats) -> str:
    tests = [t_one_sample(values, 0.0, what="", level="mouse") for values in (residual, change_hz)]
    units = ("SD", "Hz")
    texts = [f"{signed(t.estimate)} {unit}, {told([t])}" for t, unit in zip(tests, units, strict=True)]
    n = int(np.isfinite(found.residual).sum())
    return ", ".join(texts) + f" ({n} neuron-sessions with a residual)"


def _with_blocks(sessions: list[SessionData], blocks: tuple[str, str]) -> list[SessionData]:
    """Those that have events and both blocks."""
    both = [s for s in sessions if {0, 1} <= s.events.keys()]
    return [s for s in both if set(blocks) <= {name for phase, name, *_ in s.phases if phase == "baseline"}]
