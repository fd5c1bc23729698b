"""Figures of what residuals are told by (the network around) and what they tell (a trial's outcome)."""

import numpy as np
from matplotlib.axes import Axes

from loop2p.analysis.figures.arms_used import Arms, ordered
from loop2p.analysis.figures.style import (
    BLUE,
    INK,
    ROLES,
    SOFT,
    Look,
    Plate,
    arm_axis,
    legend_above,
    look,
    many,
    mean_sem,
    panels,
    reference,
)
from loop2p.analysis.network import ALPHA, Network
from loop2p.analysis.outcome import EPOCHS, Outcomes
from loop2p.analysis.row import told


def network_decoder(arms: Arms) -> Plate | None:
    """Sign of a neuron's residual from the activity of the others: accuracy, confidence, and how many neurons."""
    arm = next((a for a in ordered(arms) if a.network is not None and np.isfinite(a.network.r).any()), None)
    if arm is None or arm.network is None:
        return None
    found = arm.network
    figure, axes = panels(["accuracy", "confidence and residual", "accuracy and r", "neurons told"], 4, 2.9)
    data, shuffle = Look("neuron-sessions", BLUE, "o", "-"), Look("shuffles", SOFT, "^", ":")
    own = np.isfinite(found.r)
    for one, values, shuffled, x in (
        (axes[0], found.accuracy[own], found.accuracy_shuffled[own].ravel(), "share of events told"),
        (axes[1], found.r[own], found.r_shuffled[own].ravel(), "r, confidence with residual"),
    ):
        edges = np.linspace(min(values.min(), shuffled.min()), max(values.max(), shuffled.max()) + 1e-9, 16)
        for as_, v in ((shuffle, shuffled), (data, values)):
            share = np.histogram(v, edges)[0] / len(v)
            one.stairs(share, edges, color=as_.colour, linestyle=as_.line, linewidth=1.7, label=as_.label)
            one.plot([v.mean()], [0.0], as_.marker, color=as_.colour, markersize=7, clip_on=False, zorder=5)
        one.set(xlabel=x, ylabel="share", ylim=(0, None))
    passed = own & (found.p <= ALPHA)
    for chosen, filled, label in ((own & ~passed, "white", "not told"), (passed, BLUE, "told, p <= .05")):
        axes[2].plot(
            found.r[chosen], found.accuracy[chosen], "o", color=BLUE, markersize=4, markerfacecolor=filled, label=label
        )
    axes[2].set(xlabel="r, confidence with residual", ylabel="accuracy")
    text = _share(axes[3], found)
    legend_above(figure, axes)
    r_across = np.corrcoef(found.r[own], found.accuracy[own])[0, 1] if own.sum() > 2 else np.nan
    n_shuffles = found.r_shuffled.shape[1]
    return Plate(
        figure, "The network tells the sign of the residual",
        f"Arm: {look(arm.name).label}. A linear classifier takes each coincident event's sign from the activity of all "
        f"other somas in the 2 s before, leave-one-out; {n_shuffles} shuffles of the labels for each neuron. Level: "
        f"neuron-session, n = {int(own.sum())} of {many(len(set(found.mouse[own].tolist())), 'mouse')}. Marks on the "
        f"axis: means. Across neurons, accuracy and r correlate with {r_across:.2f}. A neuron counts as told where no "
        f"more than {ALPHA:.0%} of its r and those of its shuffles are as large"
        + ("" if ALPHA * (n_shuffles + 1) >= 1 else f": with {n_shuffles} shuffles none can be")
        + f". {text} To choose neurons by r and then quote their accuracy is circular.",
    )  # fmt: skip


def _share(axes: Axes, found: Network) -> str:
    """Part of neurons that pass, honest and as the paper counts."""
    parts = []
    for place, (role, as_) in enumerate(ROLES.items()):
        summary = found.summary([role])
        n = summary.everyone.n
        if not n:
            continue
        paper, chance = summary.as_paper.n / n, summary.as_paper_by_chance.n / n
        axes.bar(place - 0.2, summary.significant.n / n, 0.36, color=as_.colour, alpha=0.55, edgecolor=INK)
        axes.bar(place + 0.2, paper, 0.36, color="white", edgecolor=as_.colour, hatch="///", linewidth=1)
        axes.plot([place + 0.04, place + 0.36], [chance, chance], color=INK, linewidth=2)
        parts.append(f"{as_.label} {summary.significant.n} of {n} by rank, {summary.as_paper.n} as the paper counts "
                     f"({summary.as_paper_by_chance.n} in shuffles)")  # fmt: skip
    axes.set(xticks=range(3), xticklabels=[as_.label for as_ in ROLES.values()], ylim=(0, None))
    axes.set_ylabel("share of neuron-sessions")
    reference(axes, ALPHA, "5 %")
    axes.bar([np.nan], [np.nan], color=SOFT, alpha=0.55, edgecolor=INK, label="by rank")
    axes.bar([np.nan], [np.nan], color="white", edgecolor=SOFT, hatch="///", label="as the paper counts")
    return (
        "Told: " + "; ".join(parts) + ". Filled bars: by rank among shuffles; hatched: by the ordinary p of r, which "
        "is too small, and the short line is what shuffles reach in that count."
    )


def outcome_decoders(arms: Arms) -> Plate | None:
    """Hit or miss by the residuals after and before a trial's end, each session beside its shuffles."""
    there = [(arm.name, arm.outcomes) for arm in ordered(arms) if arm.outcomes is not None]
    there = [(name, found) for name, found in there if np.isfinite(found.accuracy - found.shuffled).any()]
    if not there:
        return None
    figure, axes = panels([f"2 s {epoch} the end of the trial" for epoch in EPOCHS], 2, 3.2, sharey=True)
    texts = []
    for column, (one, epoch) in enumerate(zip(axes, EPOCHS, strict=True)):
        for place, (name, found) in enumerate(there):
            _pairs(one, place, found, column, look(name))
            texts.append(f"{look(name).label}, {epoch}: {told(found.tests(epoch)[:2])}")
        arm_axis(one, [name for name, _ in there])
    axes[0].set_ylabel("accuracy")
    for label, filled in (("shuffled labels", "white"), ("data", INK)):
        axes[0].plot([], [], "o", color=INK, markerfacecolor=filled, markersize=8, markeredgewidth=1.6, label=label)
    legend_above(figure, axes[:1])
    return Plate(
        figure, "Dendrites tell the outcome",
        "Accuracy of a linear classifier, leave-one-out, that takes hit or miss from the residuals of all neurons of a "
        "session. Of each arm: left the mean of shuffled labels, right the data, a line for each session; thick marks "
        "mean +- s.e.m. over sessions. Shuffles, not 0.5, are what to compare with: classes are unequal. "
        + "; ".join(texts) + ".",
    )  # fmt: skip


def _pairs(axes: Axes, place: int, found: Outcomes, column: int, as_: Look) -> None:
    own = np.isfinite(found.accuracy[:, column] - found.shuffled[:, column])
    chance, data = found.shuffled[own, column], found.accuracy[own, column]
    x = np.array([place - 0.22, place + 0.22])
    axes.plot(x, np.stack([chance, data]), color=as_.colour, linewidth=0.7, alpha=0.35)
    for at, values, filled in ((x[0], chance, "white"), (x[1], data, as_.colour)):
        mean, sem, _ = mean_sem(values)
        axes.errorbar(
            at, mean, np.nan_to_num(sem), fmt=as_.marker, color=as_.colour, markerfacecolor=filled, markersize=8,
            capsize=4, elinewidth=1.8, markeredgewidth=1.6, zorder=5,
        )  # fmt: skip
