"""report.html: the whole analysis on one page, for whoever must believe it or not. Self-contained, no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec import Struct

from loop2p.analysis.figures import all_figures, svg_of
from loop2p.analysis.figures.arms_used import Arms, leading, n_mice, ordered
from loop2p.analysis.figures.power import N_MICE, WANTED, DesignPower, design_power
from loop2p.analysis.figures.style import Plate, look, many
from loop2p.analysis.row import Row
from loop2p.analysis.rows_controls import TWINS
from loop2p.analysis.statistics import Test
from loop2p.runtime.atomic import write_atomically

VERDICTS = {True: "met", False: "NOT MET", None: "not there"}
FEWEST_MICE = 6
"""Of the paper; fewer than these see less than it did."""


class ArmLine(Struct, frozen=True):
    """What an arm brought to the analysis."""

    name: str
    mice: int
    sessions: int
    days: str
    trials: int
    events: int
    """Somatic events in all phases."""
    measured: str
    """Which of the slow measurements are there."""


def write_report(
    folder: Path,
    arms: Arms,
    rows: Sequence[Row],
    tests: Sequence[Test],
    meta: Mapping[str, Any],
    figures: Mapping[str, Plate] | None = None,
) -> Path:
    """Make report.html in `folder`, at once or not at all; its path. `figures`: drawn from the arms unless given.

    meta: "seed" must be there; "folder" (what was analysed), "params" and "versions" (name -> value), "refused"
    (sessions that could not be read, with the reason) and "simulated" may be; whatever else it holds is listed. Raises
    OSError, KeyError without a seed.
    """
    target = folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(target, report_of(arms, rows, tests, meta, figures))
    return target


def report_of(
    arms: Arms,
    rows: Sequence[Row],
    tests: Sequence[Test],
    meta: Mapping[str, Any],
    figures: Mapping[str, Plate] | None = None,
) -> str:
    """The page's HTML; the same from the same data."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "p": p_text, "n": lambda n: " + ".join(map(str, n)), "flat": flat}
    plates = all_figures(arms, meta["seed"]) if figures is None else figures
    lines = [line_of(arms[arm.name]) for arm in ordered(arms)]
    power = design_power(arms, meta["seed"])
    return environment.get_template("report.html.j2").render(
        about=meta.get("folder", ""),
        lines=lines,
        rows=rows,
        verdicts=VERDICTS,
        counts={word: sum(VERDICTS[row.met] == word for row in rows) for word in VERDICTS.values()},
        tests=tests,
        figures=[(name, plate, Markup(svg_of(plate, name))) for name, plate in plates.items()],
        power=power,
        designs=_designs(power),
        wanted=WANTED,
        limits=limits(arms, rows, tests, power),
        refused=list(meta.get("refused", [])),
        simulated=meta.get("simulated"),
        setup=[(name, value) for name, value in meta.items() if name not in ("folder", "refused", "simulated")],
    )


def line_of(arm: Any) -> ArmLine:
    """An arm in one line."""
    days = sorted({s.day for s in arm.sessions})
    there = {
        "dF/F variant": arm.dff, "pairs": arm.pairs, "P0 like P+ or P-": arm.like,
        "network decoder": arm.network is not None, "outcome decoders": arm.outcomes is not None,
    }  # fmt: skip
    return ArmLine(
        look(arm.name).label,
        n_mice(arm.sessions),
        len(arm.sessions),
        "-" if not days else str(days[0]) if len(days) == 1 else f"{days[0]}-{days[-1]}",
        int(sum(np.isin(s.outcome, ("hit", "miss")).sum() for s in arm.sessions)),
        sum(len(s.events[0].t_s) for s in arm.sessions if 0 in s.events),
        ", ".join(name for name, found in there.items() if found) or "none",
    )


def limits(arms: Arms, rows: Sequence[Row], tests: Sequence[Test], power: DesignPower | None) -> list[str]:
    """What must not be concluded from this analysis, most general first."""
    found = []
    arm = leading(arms)
    mice = n_mice(arm.sessions) if arm else 0
    if not arm:
        found.append("No arm has events in a closed loop: nothing is said of dendrites here.")
    elif mice < 2:
        found.append("One mouse: nothing can be said of mice in general, there is no test over mice and no error bar.")
    elif mice < FEWEST_MICE:
        found.append(f"{mice} mice, the paper had {FEWEST_MICE}: what is not significant over mice may still be there.")
    if power is not None and power.spread.n_mice in N_MICE:
        least = power.detectable[N_MICE.index(power.spread.n_mice)]
        found.append(
            f"With {many(power.spread.n_mice, 'mouse')} and {many(power.spread.n_sessions, 'session')} each, a "
            f"difference of differences below {least:.2f} SD is missed in more than {1 - WANTED:.0%} of experiments."
        )
    missing = [look(name).label for name in TWINS if name not in arms]
    if missing:
        found.append(
            f"Without the twins {', '.join(missing)} the error signal is not told from what noise in somatic sizes and "
            "the closed loop bring by themselves: a difference of differences above 0 is then no proof of a vector."
        )
    for headline, chosen in (
        ("NOT MET, so not shown here", [f"{row.id} {row.signature}" for row in rows if row.met is False]),
        ("Not judged", [f"{row.id} {row.detail}" for row in rows if row.met is None]),
        ("No evidence in a simulated mouse", [f"{row.id} ({row.imposed})" for row in rows if row.imposed]),
    ):
        if chosen:
            found.append(f"{headline}: {'; '.join(chosen)}.")
    if any(test.level == "neuron-session" for test in tests):
        found.append(
            "A p over neuron-sessions takes each neuron of each day as independent, as the paper does. A neuron comes "
            "on many days and mice differ, so it is too small wherever mice differ in the effect: the p over mice is "
            "the one to believe."
        )
    alone = sum(np.isfinite(test.p) and not np.isfinite(test.p_adjusted) for test in tests)
    if alone:
        found.append(
            f"{alone} of {len(tests)} p are not adjusted for others: about {0.05 * alone:.0f} of so many would be "
            "below .05 by chance if nothing were there and they were independent."
        )
    return found


def _designs(power: DesignPower | None) -> list[tuple[int, list[tuple[float, float]], float]]:
    """Mice, (by formula, simulated) power of each effect, effect seen; a line for each number of mice."""
    if power is None:
        return []
    curves = list(power.curves.values())
    return [
        (n, [(float(c.noncentral[k]), float(c.simulated[k])) for c in curves], power.detectable[k])
        for k, n in enumerate(curves[0].n_mice.tolist())
    ]


def number(value: float) -> str:
    """With a sign, three digits; a dash for none."""
    return f"{value:+.3g}" if np.isfinite(value) else "–"


def p_text(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "–"


def flat(value: Any) -> str:
    """A setting in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {flat(of)}" for name, of in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(flat, value)) or "none"
    return str(value)
