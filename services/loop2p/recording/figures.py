"""The report's figures, as SVG text. Colours are Okabe and Ito's, which colour-blind readers tell apart."""

import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from loop2p.protocol import DISTAL, PROXIMAL, Done, Lick, Output, Phase, Shown, Traces
from loop2p.recording.days import Day
from loop2p.recording.latency import LOOPS, Latencies
from loop2p.recording.run import Run
from loop2p.recording.summary import trial_table

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6B7280"
OUTCOMES = {"hit": (GREEN, "o"), "miss": (RED, "X"), "void": (GREY, "s"), "unfinished": (GREY, "D")}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9CA3AF",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.6,
    "xtick.color": "#6B7280",
    "ytick.color": "#6B7280",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "loop2p",
}
WIDTH_IN = 9.6
MOST_POINTS = 1500
ZOOM_S = 12.0


def all_figures(run: Run, latencies: Latencies) -> dict[str, str]:
    """Name -> SVG of each figure; empty where the journal has no data for it."""
    drawn: dict[str, Figure | None] = {}
    with rc_context(STYLE):  # this figure's looks only; no backend, no global state
        drawn["trials"] = _trials(run)
        drawn["control"] = _control(run, None)
        span = _zoom(run)
        drawn["zoom"] = _control(run, span) if span is not None else None
        drawn["loops"] = _loops(latencies)
        drawn["hops"] = _hops(latencies)
        drawn["motion"] = _motion(run)
        drawn["licks"] = _licks(run)
        return {name: _svg(figure) if figure is not None else "" for name, figure in drawn.items()}


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _trials(run: Run) -> Figure | None:
    """Each trial as a bar as long as the trial; colour and mark tell the outcome."""
    trials = trial_table(run)
    if not trials:
        return None
    figure = Figure(figsize=(WIDTH_IN, 2.1))
    axes = figure.add_subplot()
    for outcome, (colour, mark) in OUTCOMES.items():
        rows = [row for row in trials if row["outcome"] == outcome]
        if rows:
            numbers = [row["trial"] for row in rows]
            lengths = [row["stop_s"] - row["start_s"] for row in rows]
            axes.bar(numbers, lengths, width=0.75, color=colour, alpha=0.35)
            axes.plot(numbers, lengths, mark, color=colour, markersize=6, label=f"{outcome} ({len(rows)})")
    axes.set(xlabel="trial", ylabel="length (s)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, n=4)
    return figure


def learning_figure(days: Sequence[Day]) -> str:
    """SVG of an animal's accuracy and rewards a minute, day by day; the last of `days` is the run's own."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.1))
        per_min = [day.rewards_per_min for day in days]
        shown = (
            ("hits / (hits + misses)", BLUE, [day.accuracy for day in days], 1.05),
            ("rewards / min", ORANGE, per_min, 1.1 * float(np.nanmax([0.1, *per_min]))),
        )
        for axes, (name, colour, values, top) in zip(figure.subplots(1, 2), shown, strict=True):
            axes.plot([day.day for day in days], values, "o-", color=colour, markersize=4)
            axes.plot(days[-1].day, values[-1], "o", color=colour, markersize=9, markerfacecolor="white")
            axes.set(xlabel="day", ylabel=name, ylim=(0, top), xlim=(0.5, max(days[-1].day, 2) + 0.5))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def _zoom(run: Run) -> tuple[float, float] | None:
    """A few seconds around the first hit, or the first trial."""
    trials = trial_table(run)
    hits = [row["hit_s"] for row in trials if row["hit_s"] is not None]
    if not trials:
        return None
    middle = hits[0] + 1 if hits else trials[0]["start_s"] + ZOOM_S / 2
    return middle - ZOOM_S * 0.65, middle + ZOOM_S * 0.35


def _control(run: Run, span: tuple[float, float] | None) -> Figure | None:
    """Control value with its threshold above, what was on the screen below."""
    outputs = [(r.header.cause.time_s, m) for r, m in run.with_headers(Output) if r.header.cause is not None]
    if not outputs:
        return None
    times, values = np.array([t for t, _ in outputs]), np.array([m.value for _, m in outputs])
    usable = np.array([m.valid for _, m in outputs])
    values = np.where(usable & np.isfinite(values), values, np.nan)
    start, end = span or (float(times[0]), float(times[-1]))
    inside = (times >= start) & (times <= end)
    if not np.isfinite(values[inside]).any():
        return None
    figure = Figure(figsize=(WIDTH_IN, 3.4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(*_thinned(times[inside], values[inside]), color=BLUE, linewidth=0.8 if span is None else 1.4)
    calibration = run.calibration
    if calibration is not None:
        above.axhline(calibration.threshold, color=RED, linestyle="--", linewidth=1.2)
        above.annotate(
            "target", (1, calibration.threshold), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", color=RED, va="center", annotation_clip=False,
        )  # fmt: skip
    above.set(ylabel="control value (dF/F)")
    _picture(below, run, start, end)
    below.set(xlabel="frame time (s)", xlim=(start, end))
    trials = trial_table(run)
    for outcome, (colour, mark) in OUTCOMES.items():
        at = [row["stop_s"] for row in trials if row["outcome"] == outcome and start <= row["stop_s"] <= end]
        if at:
            above.plot(
                at, [1.04] * len(at), mark, color=colour, markersize=5, transform=above.get_xaxis_transform(),
                clip_on=False, label=outcome,
            )  # fmt: skip
    rewards = run.frame_time([m.open_ns for m in run.of(Done) if m.volume_ul > 0])
    rewards = rewards[(rewards >= start) & (rewards <= end)]
    if len(rewards):
        below.plot(
            rewards, [1.0] * len(rewards), "v", color=ORANGE, markersize=6, transform=below.get_xaxis_transform(),
            clip_on=False, label="reward",
        )  # fmt: skip
    _phases(above, run, start, end)
    handles = [*above.get_legend_handles_labels()[0], *below.get_legend_handles_labels()[0]]
    if handles:
        labels = [*above.get_legend_handles_labels()[1], *below.get_legend_handles_labels()[1]]
        figure.legend(handles, labels, loc="outside upper right", ncols=len(handles))
    return figure


def _picture(axes: Axes, run: Run, start: float, end: float) -> None:
    """Angle on the screen as steps; black and grey pictures as bands."""
    shown = sorted(zip(run.frame_time([m.flip_ns for m in run.of(Shown)]), run.of(Shown), strict=True), key=_first)
    if shown:
        edges = [float(t) for t, _ in shown] + [max(end, float(shown[-1][0]))]
        angles = [np.nan if m.angle_deg is None else m.angle_deg for _, m in shown]
        axes.stairs(angles, edges, baseline=None, color=BLUE, linewidth=1.2)
        for (left, picture), right in zip(shown, edges[1:], strict=True):
            if picture.what != "grating" and right >= start and left <= end:
                axes.axvspan(float(left), right, color="#111827" if picture.what == "black" else GREY, alpha=0.18, lw=0)
    axes.set(ylabel="angle (deg)", ylim=(-5, 98), yticks=(0, 45, 90))


def _phases(axes: Axes, run: Run, start: float, end: float) -> None:
    """Where the session stood, as words along the top."""
    for phase in run.of(Phase):
        if start < phase.t_s < end and phase.phase not in ("ended", "calibration"):
            axes.axvline(phase.t_s, color=GREY, linewidth=0.8, linestyle=":")
            axes.annotate(
                phase.phase.replace("_", " "), (phase.t_s, 1), xycoords=("data", "axes fraction"), xytext=(3, -10),
                textcoords="offset points", color=GREY, fontsize=8,
            )  # fmt: skip


def _loops(latencies: Latencies) -> Figure | None:
    """What share of events took longer than so many ms, from the frame's last byte on."""
    curves = {name: np.sort(latencies.loops[name][1]) for name in latencies.loops if len(latencies.loops[name][1])}
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH_IN / 2, 2.9))
    axes = figure.add_subplot()
    for (name, values), colour, line in zip(
        curves.items(), (BLUE, ORANGE, GREEN, GREY), ("-", "--", "-.", ":"), strict=False
    ):
        share = 1 - np.arange(len(values)) / len(values)
        label = f"{LOOPS[name]} (n {len(values)})"
        axes.step(np.maximum(values, 1e-3), share, where="post", color=colour, linestyle=line, label=label)
    axes.set(xscale="log", yscale="log", xlabel="ms since the frame's last byte", ylabel="share that took longer")
    _plain_ticks(axes)
    axes.legend(loc="lower left")
    return figure


def _hops(latencies: Latencies) -> Figure | None:
    """Each hop: all values as a strip, median, 99 % and the longest marked."""
    rows = [(name, values) for name, (_, values) in latencies.hops.items() if len(values)]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH_IN / 2, 2.9))
    axes = figure.add_subplot()
    rng = np.random.default_rng(0)
    for k, (_, values) in enumerate(reversed(rows)):
        positive = np.maximum(values, 1e-3)
        some = positive if len(positive) <= MOST_POINTS // 3 else rng.choice(positive, MOST_POINTS // 3, replace=False)
        axes.plot(
            some, k + rng.uniform(-0.28, 0.28, len(some)), ".", color=BLUE, alpha=0.15, markersize=3, rasterized=True
        )
        p50, p99 = np.quantile(positive, [0.5, 0.99], method="inverted_cdf")
        axes.plot([p50], [k], "o", color=BLUE, markersize=7, label="median" if k == 0 else None)
        axes.plot([p99], [k], "|", color=ORANGE, markersize=13, mew=2.2, label="99 %" if k == 0 else None)
        axes.plot([positive.max()], [k], "x", color=RED, markersize=6, mew=1.6, label="longest" if k == 0 else None)
    axes.set(xscale="log", xlabel="ms", yticks=range(len(rows)), yticklabels=[name for name, _ in reversed(rows)])
    _plain_ticks(axes)
    _legend(axes, n=3)
    return figure


def _motion(run: Run) -> Figure | None:
    """Image shift and registration quality of each plane; frames that never came are marked."""
    series = {
        plane: [(r.header.cause.time_s, m) for r, m in run.with_headers(Traces) if r.header.cause and m.plane == plane]
        for plane in (PROXIMAL, DISTAL)
    }
    if not series[PROXIMAL] and not series[DISTAL]:
        return None
    figure = Figure(figsize=(WIDTH_IN, 3.0))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    styles = {PROXIMAL: ("proximal", "-", 1.0), DISTAL: ("distal", ":", 1.6)}
    for plane, rows in series.items():
        if not rows:
            continue
        name, line, width = styles[plane]
        times = np.array([t for t, _ in rows])
        for label, colour, values in (
            ("down", BLUE, [m.shift_y_px for _, m in rows]),
            ("right", ORANGE, [m.shift_x_px for _, m in rows]),
        ):
            above.plot(
                *_thinned(times, np.array(values)), line, color=colour, linewidth=width, label=f"{label}, {name}"
            )
        quality = np.array([m.quality for _, m in rows])
        below.plot(*_thinned(times, quality), line, color=GREEN, linewidth=width, label=name)
    missing = missing_frames(run)
    for k, time_s in enumerate(missing[:MOST_POINTS]):
        below.axvline(time_s, ymax=0.25, color=RED, linewidth=1.5, label="frame missing" if k == 0 else None)
    above.set(ylabel="shift (px)")
    below.set(ylabel="quality", xlabel="frame time (s)", ylim=(0, 1.02))
    _legend(above, n=4)
    _legend(below, n=3)
    return figure


def missing_frames(run: Run) -> list[float]:
    """Frame times at which a frame index was skipped: the frame after the hole."""
    causes = sorted(
        {
            (r.header.cause.frame, r.header.cause.time_s)
            for r, _ in run.with_headers(Traces)
            if r.header.cause is not None
        }
    )
    return [time_s for (before, _), (frame, time_s) in pairwise(causes) if frame > before + 1]


def _licks(run: Run) -> Figure | None:
    """Licks around each reward, and around each miss for comparison."""
    licks = run.frame_time([m.t_ns for m in run.of(Lick)])
    rewards = run.frame_time([m.open_ns for m in run.of(Done) if m.volume_ul > 0])
    misses = np.array([row["stop_s"] for row in trial_table(run) if row["outcome"] == "miss"])
    if not len(licks) or not len(rewards):
        return None
    figure = Figure(figsize=(WIDTH_IN, 2.1))
    axes = figure.add_subplot()
    edges = np.arange(-2.0, 4.01, 0.25)
    for label, events, colour, line in (("reward", rewards, BLUE, "-"), ("end of a miss", misses, RED, "--")):
        if len(events):
            near = (licks[None, :] - events[:, None]).ravel()
            rate = np.histogram(near, edges)[0] / (0.25 * len(events))
            axes.stairs(rate, edges, color=colour, linestyle=line, linewidth=1.4, label=f"{label} (n {len(events)})")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(
        xlabel="s from the open valve, or from the end of the trial", ylabel="licks / s", xlim=(-2, 4), ylim=(0, None)
    )
    axes.legend(loc="upper left")
    return figure


# ---------------------------------------------------------------- small things


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of many points, the lowest and the highest of each of MOST_POINTS stretches: peaks stay, the file is small."""
    if len(x) <= 2 * MOST_POINTS:
        return x, y
    keep = []
    for part in np.array_split(np.arange(len(x)), MOST_POINTS):
        values = y[part]
        if np.isfinite(values).any():
            keep += sorted({part[np.nanargmin(values)], part[np.nanargmax(values)]})
        else:
            keep.append(part[0])
    return x[keep], y[keep]


def _plain_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _legend(axes: Axes, n: int) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=n, borderaxespad=0.2, handletextpad=0.4, columnspacing=1.2
    )


def _first(pair: tuple[float, Any]) -> float:
    return float(pair[0])
