"""report.html: one page about a run, for the person who ran it. Self-contained.

Made from the journal alone, but for the animal's earlier days, which are read from the run folders beside it.
"""

import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loop2p.recording.days import days_of
from loop2p.recording.figures import all_figures, learning_figure, missing_frames
from loop2p.recording.latency import HOPS, LOOPS, Latencies
from loop2p.recording.run import Run
from loop2p.recording.summary import summary_of


def write_report(run_folder: Path, run: Run | None = None) -> Path:
    """Make report.html, at once or not at all; returns its path. `run`: the folder's, if it was read already.

    Raises FileNotFoundError without a journal, OSError.
    """
    target, temporary = run_folder / "report.html", run_folder / ".report.html.partial"
    temporary.write_text(report_of(run or Run(run_folder)), encoding="utf-8")
    os.replace(temporary, target)
    return target


def report_of(run: Run) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["ms"] = lambda value: "–" if value is None else f"{value:.2f}"
    summary = summary_of(run)
    session, days = run.session, days_of(run.folder, summary)
    return environment.get_template("report.html.j2").render(
        s=summary,
        warnings=_warnings(summary),
        figures={name: Markup(svg) for name, svg in all_figures(run, Latencies(run)).items()},
        days=days,
        learning=Markup(learning_figure(days)) if len(days) > 1 else "",
        loop_names=LOOPS,
        hop_names=HOPS,
        subject=str(run.animal.get("id", run.animal.get("subject_id", run.animal.get("name", "")))),
        missing=len(missing_frames(run)),
        texts={"rig file": session.rig, "task file": session.task, "animal file": session.animal},
        files=[path.name for path in run.segments],
    )


def _warnings(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What must be seen before any number: (kind, headline, detail)."""
    found = []
    if summary["simulated"]:
        found.append(("note", "Simulated", "Stand-ins took the place of hardware or animal."))
    if summary["no_display"]:
        found.append(("note", "No display", "Pictures were drawn but not shown on a screen: flip times are no light."))
    for fault in summary["faults"]:
        found.append(("bad", f"Fault in {fault['service']}", f"{fault['error']}: {fault['detail']}"))
    if not summary["audit"]["complete"]:
        found.append(("bad", "The record is not complete", "See the audit at the end of this page."))
    if summary["overrides"]:
        found.append(("warn", "Start conditions overridden", ", ".join(summary["overrides"])))
    lost = [f"{name} ({row['lost']}x)" for name, row in summary["services"].items() if row["lost"]]
    if lost:
        found.append(("warn", "Services were lost", f"{', '.join(lost)}; see the audit at the end of this page."))
    return found
