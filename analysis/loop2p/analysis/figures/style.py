"""How the figures look, and the few ways in which they draw.

Colours are Okabe and Ito's, which colour-blind readers tell apart. A marker and a line style go with each, so that
nothing is told by colour alone and a page printed in grey still reads.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from msgspec import Struct

from loop2p.analysis.statistics import Floats

INK, SOFT = "#1F2937", "#6B7280"
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9CA3AF",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.6,
    "xtick.color": "#4B5563",
    "ytick.color": "#4B5563",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "loop2p",
}
"""For `matplotlib.rc_context`, while a figure is made and while it is saved."""
WIDTH_IN = 9.6
MOST_NAMES, MOST_LEVEL = 7, 4
"""That a row of a legend, and the axis of a panel, hold side by side."""


class Look(Struct, frozen=True):
    """What stands for one arm, or one group of neurons, in every figure."""

    label: str
    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


ROLES = {
    "plus": Look("P+", BLUE, "o", "-"),
    "minus": Look("P-", RED, "s", "--"),
    "other": Look("P0", SOFT, "^", ":"),
}
ARMS = {
    "main": Look("main", BLACK, "o", "-"),
    "led": Look("LED only", ORANGE, "s", "--"),
    "ndnf": Look("NDNF", GREEN, "^", "-."),
    "anaesthesia": Look("anaesthesia", PURPLE, "p", "--"),
    "no-apical": Look("no apical role", BLUE, "v", "--"),
    "scalar": Look("scalar", PURPLE, "D", ":"),
    "permuted": Look("permuted", RED, "P", "-."),
    "yoked": Look("yoked", SKY, "X", (0, (6, 2, 1, 2, 1, 2))),
    "swap": Look("swap", SOFT, "*", "-"),
}


class Plate(Struct, frozen=True):
    """A figure with what must stand below it: what is plotted, n and level."""

    figure: Figure
    title: str
    caption: str


def look(arm: str) -> Look:
    """Of an arm; of one that the experiment does not know, grey."""
    return ARMS.get(arm) or Look(arm, SOFT, "o", "-")


def panels(titles: Sequence[str], n_columns: int, row_in: float, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title, row by row, lettered where there are several."""
    n_rows = -(-len(titles) // n_columns)
    figure = Figure(figsize=(WIDTH_IN, row_in * n_rows))
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **grid).ravel().tolist()
    for spare in axes[len(titles) :]:
        spare.remove()
    for letter, title, one in zip("abcdefghijkl", titles, axes, strict=False):
        one.set_title(f"{letter}  {title}" if len(titles) > 1 else title)
    return figure, axes[: len(titles)]


def mean_sem(values: Floats) -> tuple[Floats, Floats, Any]:
    """Mean, standard error and n over the first axis, without NaN; the error of fewer than two is NaN."""
    there = np.isfinite(values)
    n = there.sum(axis=0)
    mean = np.where(n > 0, np.where(there, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)
    squares = np.where(there, (values - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1)), np.nan), n


def curve(axes: Axes, x: Any, values: Floats, as_: Look, offset: float = 0.0, thin: bool = True) -> None:
    """Mean +- s.e.m. over the rows of `values` (n_mice, n_x), each mouse a thin line where there are several."""
    mean, sem, _ = mean_sem(values)
    place = np.asarray(x, float) + offset
    if thin and len(values) > 1:
        axes.plot(place, values.T, linestyle=as_.line, color=as_.colour, linewidth=0.6, alpha=0.35)
    axes.plot(
        place, mean, linestyle=as_.line, color=as_.colour, linewidth=1.8, marker=as_.marker, markersize=5,
        label=as_.label,
    )  # fmt: skip
    if np.isfinite(sem).any():
        axes.errorbar(place, mean, np.nan_to_num(sem), fmt="none", ecolor=as_.colour, elinewidth=1.1, capsize=2.5)


def band(axes: Axes, x: Any, values: Floats, as_: Look) -> None:
    """As `curve`, with the s.e.m. as a band: for many points."""
    mean, sem, _ = mean_sem(values)
    axes.plot(
        x, mean, linestyle=as_.line, color=as_.colour, linewidth=1.6, marker=as_.marker, markersize=3.5,
        label=as_.label,
    )  # fmt: skip
    axes.fill_between(x, mean - sem, mean + sem, color=as_.colour, alpha=0.16, linewidth=0)


def bar(axes: Axes, at: float, values: Floats, as_: Look, width: float = 0.24, label: str | None = None) -> None:
    """Mean of (n_mice,) as a bar with its s.e.m., each mouse a point."""
    mean, sem, _ = mean_sem(values)
    axes.bar(at, mean, width, color=as_.colour, alpha=0.3, edgecolor=as_.colour, linewidth=1.2, label=None)
    points(axes, at, values, as_, width=width, label=label, size=4)
    if np.isfinite(sem):
        axes.errorbar(at, mean, sem, fmt="none", ecolor=INK, elinewidth=1.4, capsize=4, zorder=4)


def points(
    axes: Axes, at: float, values: Floats, as_: Look, width: float = 0.3, label: str | None = None, size: float = 5
) -> None:
    """(n,) values side by side about a place, in their order."""
    place = at + np.linspace(-0.5, 0.5, len(values)) * width * 0.6 if len(values) > 1 else np.array([at])
    axes.plot(
        place, values, as_.marker, color=as_.colour, markersize=size, markerfacecolor="white", markeredgewidth=1.1,
        label=label, zorder=3,
    )  # fmt: skip


def mean_mark(axes: Axes, at: float, values: Floats, as_: Look, half: float = 0.16) -> None:
    """Mean of (n,) values as a short bar, with its s.e.m."""
    mean, sem, _ = mean_sem(values)
    axes.plot([at - half, at + half], [mean, mean], color=as_.colour, linewidth=2.6, solid_capstyle="butt", zorder=5)
    if np.isfinite(sem):
        axes.errorbar(at, mean, sem, fmt="none", ecolor=as_.colour, elinewidth=1.6, capsize=4, zorder=5)


def zero(axes: Axes) -> None:
    axes.axhline(0, color=INK, linewidth=0.9)


def reference(axes: Axes, y: float, text: str) -> None:
    """A dashed line at a value that means something, named beside its right end, where no data are."""
    axes.axhline(y, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        text, (1, y), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", color=INK,
        fontsize=8, va="center", annotation_clip=False,
    )  # fmt: skip


def day_axis(axes: Axes) -> None:
    """After the data are drawn."""
    low, high = axes.dataLim.intervalx
    axes.set(xlabel="day", xlim=(round(low) - 0.5, round(high) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def arm_axis(axes: Axes, names: Sequence[str]) -> None:
    """Arms side by side, at 0, 1, 2, ...; names slanted where they would touch."""
    axes.set(xticks=range(len(names)), xticklabels=[look(name).label for name in names], xlim=(-0.6, len(names) - 0.4))
    axes.grid(visible=False, axis="x")
    if len(names) > MOST_LEVEL:
        for text in axes.get_xticklabels():
            text.set(rotation=25, ha="right", rotation_mode="anchor")


def legend_above(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend over all panels, each name once; in two rows where there are many."""
    named = {name: handle for one in axes for handle, name in zip(*one.get_legend_handles_labels(), strict=True)}
    if named:
        columns = len(named) if len(named) <= MOST_NAMES else -(-len(named) // 2)
        figure.legend(
            named.values(), named.keys(), loc="outside upper right", ncols=columns, handlelength=3.2, columnspacing=1.4
        )


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, a dash for none."""
    return f"{value:+.{digits}f}" if np.isfinite(value) else "-"


def many(n: int, what: str) -> str:
    """1 mouse, 2 mice."""
    plural = {"mouse": "mice"}.get(what, what + "s")
    return f"{n} {what if n == 1 else plural}"
