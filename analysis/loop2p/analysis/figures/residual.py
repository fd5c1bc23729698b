"""Figures of the residual itself: how it is made, and how it goes about a trial's end."""

import numpy as np

from loop2p.analysis.figures.arms_used import Arms, leading, sample, with_events
from loop2p.analysis.figures.curves import COURSE_S, example_neuron, residual_course
from loop2p.analysis.figures.style import INK, ROLES, SOFT, Plate, band, legend_above, look, panels, zero
from loop2p.analysis.learning import GROUPS
from loop2p.analysis.outcome import EPOCH_S

REWARD_S = 1.0
"""After the hit (docs/experiment.md 2.6)."""
LIMIT_SD = 2.5
"""Where the colours of residuals end."""


def example(arms: Arms) -> Plate | None:
    """One neuron's events in both compartments, its line, and what is left of them."""
    arm = leading(arms)
    found = example_neuron(with_events(arm.sessions)) if arm else None
    if arm is None or found is None:
        return None
    figure, axes = panels(["dendrite against soma", "residual against soma"], 2, 3.5)
    for one, y in ((axes[0], found.dendrite), (axes[1], found.z)):
        for label, marker, chosen in (("amplified", "^", found.z > 0), ("attenuated", "v", found.z <= 0)):
            drawn = one.scatter(
                found.soma[chosen], y[chosen], c=found.z[chosen], cmap="RdBu_r", vmin=-LIMIT_SD, vmax=LIMIT_SD,
                marker=marker, s=30, edgecolors=INK, linewidths=0.5, label=label, zorder=3,
            )  # fmt: skip
        one.set_xlabel("somatic event, height x width (dF/F)")
    reach = np.array([found.soma.min(), found.soma.max()])
    axes[0].plot(reach, found.intercept + found.slope * reach, color=INK, linewidth=1.6, label="least squares")
    axes[0].set_ylabel("dendritic event (dF/F)")
    axes[1].set_ylabel("residual (SD)")
    zero(axes[1])
    figure.colorbar(drawn, ax=axes, label="residual (SD)", extend="both", shrink=0.85)
    legend_above(figure, axes[:1])
    r = np.corrcoef(found.soma, found.z)[0, 1]
    return Plate(
        figure, "An example neuron",
        f"Arm: {look(arm.name).label}. Mouse {found.mouse}, day {found.day}, P+ neuron {found.roi}: of all P+ of "
        f"all sessions the one with the most coincident events in closed loop (n = {len(found.z)} events). Triangles "
        f"up lie above the neuron's line (dendrite amplified), triangles down below. Residual and somatic size have "
        f"r = {r:+.3f}: 0 by construction of least squares, so no evidence. No statistics: one neuron.",
    )  # fmt: skip


def courses(arms: Arms) -> Plate | None:
    """Mean residual of P+, P- and P0 in the seconds about a hit, and about the end of a miss."""
    arm = leading(arms)
    if arm is None:
        return None
    sessions = with_events(arm.sessions)
    found = residual_course(sessions)
    if not any(np.isfinite(values).any() for values in found.values()):
        return None
    figure, axes = panels(["hits", "misses"], 2, 3.0, sharey=True)
    middle = (COURSE_S[1:] + COURSE_S[:-1]) / 2
    for one, outcome, what in zip(axes, ("hit", "miss"), ("the target", "the timeout"), strict=True):
        one.axvspan(-EPOCH_S, 0, color=SOFT, alpha=0.10, linewidth=0)
        one.axvspan(0, EPOCH_S, color=SOFT, alpha=0.20, linewidth=0)
        for group in GROUPS:
            band(one, middle, found[outcome, group], ROLES[group])
        zero(one)
        one.axvline(0, color=INK, linewidth=0.9)
        for text, at in (("before", -EPOCH_S / 2), ("after", EPOCH_S / 2)):
            one.annotate(text, (at, 0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                         ha="center", fontsize=8, color=INK)  # fmt: skip
        one.set(xlabel=f"s from {what}", xlim=(COURSE_S[0], COURSE_S[-1]))
    axes[0].axvline(REWARD_S, ymin=0.1, color=INK, linewidth=0.9, linestyle=":")
    axes[0].annotate("drop", (REWARD_S, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
                     textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    axes[0].set_ylabel("mean residual (SD)")
    legend_above(figure, axes[:1])
    return Plate(
        figure, "Residual about the end of a trial",
        f"Arm: {look(arm.name).label}. Mean z residual of coincident events in bins of "
        f"{COURSE_S[1] - COURSE_S[0]:g} s: mean over mice of each mouse's events, bands +- s.e.m. over mice. Level: "
        f"mouse, n = {sample(sessions)}. Grey: the 2 s that the "
        "outcome decoders take, before and after.",
    )  # fmt: skip
