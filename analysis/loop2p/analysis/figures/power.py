"""Figure of what this many mice can show."""

from collections.abc import Sequence

from msgspec import Struct

from loop2p.analysis.contrast import contrast
from loop2p.analysis.figures.arms_used import Arms, leading, with_events
from loop2p.analysis.figures.curves import Spread, dd_of_sessions, spread
from loop2p.analysis.figures.style import BLUE, GREEN, INK, RED, Plate, legend_above, look, panels, reference
from loop2p.analysis.statistics import Power, detectable, power_curve

N_MICE = tuple(range(2, 13))
WANTED = 0.8
PAPER_DD = 0.23
"""Mean of six mice (docs/experiment.md 4.4)."""
PARTS = {"measured": 1.0, "half of it": 0.5, "a quarter": 0.25}
"""Effects of the curves, in measured ones."""


class DesignPower(Struct, frozen=True):
    """What designs like the leading arm's would see of the difference of differences."""

    arm: str
    spread: Spread
    curves: dict[str, Power]
    """By the names of PARTS."""
    detectable: list[float]
    """dd seen with WANTED power, for each of N_MICE."""


def design_power(arms: Arms, seed: int, n_mice: Sequence[int] = N_MICE) -> DesignPower | None:
    """None where there are not two mice with two sessions, or where nothing varies."""
    arm = leading(arms)
    if arm is None:
        return None
    mouse, _, dd = dd_of_sessions(contrast(with_events(arm.sessions)))
    found = spread(mouse, dd)
    if found is None or not found.sd_within:
        return None
    sds = found.sd_between_mice, found.sd_within
    return DesignPower(
        arm.name,
        found,
        {
            name: power_curve(part * found.effect, *sds, n_mice, found.n_sessions, seed=seed)
            for name, part in PARTS.items()
        },
        [detectable(*sds, n, found.n_sessions, wanted=WANTED) for n in n_mice],
    )


def power_figure(found: DesignPower | None) -> Plate | None:
    """Power by number of mice, and the least effect that is seen."""
    if found is None:
        return None
    figure, axes = panels(["power", f"effect seen with a power of {WANTED:g}"], 2, 3.0)
    looks = zip((BLUE, GREEN, RED), "os^", ("-", "--", ":"), strict=True)
    for (name, curve), (colour, marker, line) in zip(found.curves.items(), looks, strict=True):
        label = f"{name} (dd {PARTS[name] * found.spread.effect:+.2f})"
        axes[0].plot(curve.n_mice, curve.noncentral, line, color=colour, linewidth=1.5)
        axes[0].plot(curve.n_mice, curve.simulated, marker, color=colour, markersize=5, markerfacecolor="white")
        axes[0].plot([], [], line, marker=marker, color=colour, markersize=5, markerfacecolor="white", label=label)
    axes[0].set(xlabel="mice", ylabel="part of experiments with p < .05", ylim=(0, 1.04))
    reference(axes[0], WANTED, "")
    n_mice = found.curves["measured"].n_mice
    axes[1].plot(n_mice, found.detectable, "-o", color=INK, linewidth=1.5, markersize=5, markerfacecolor="white")
    axes[1].set(xlabel="mice", ylabel="dd (SD)", yscale="log")
    axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[1].yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    reference(axes[1], abs(found.spread.effect), "measured here")
    reference(axes[1], PAPER_DD, "paper")
    for one in axes:
        one.set_xticks(n_mice)
    legend_above(figure, axes[:1])
    s = found.spread
    at = n_mice.tolist().index(s.n_mice) if s.n_mice in n_mice else None
    seen = "" if at is None else f" With {s.n_mice} mice a dd of {found.detectable[at]:.2f} is seen in {WANTED:.0%}."
    return Plate(
        figure, "Power",
        f"t test of mouse means of dd against 0, level mouse, alpha .05, {s.n_sessions} sessions a mouse. From the "
        f"{look(found.arm).label} arm's sessions ({s.n_mice} mice): dd {s.effect:+.3f}, SD between mice "
        f"{s.sd_between_mice:.3f}, SD of a session within its mouse {s.sd_within:.3f} (what days do to dd is part of "
        "it). Lines: non-central t; marks: simulated experiments. A power of the effect that was measured says no more "
        f"than its p did; the curves are for the next design.{seen}",
    )  # fmt: skip
