"""`loop2p run`: a session, then its files."""

import logging
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from loop2p.cli.main import (
    EXIT_MISTAKE,
    EXIT_REFUSED,
    HostName,
    Json,
    RigPath,
    err,
    fail,
    open_rig,
    out,
    print_json,
    read_text,
)
from loop2p.cli.progress import Progress
from loop2p.cli.session import Conductor, new_run_id, point_latest
from loop2p.protocol import ROLES, FileError, RigFile
from loop2p.runtime.launcher import RigBusyError


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    rig: RigPath,
    task: Annotated[Path, typer.Argument(help="task file (TOML)", metavar="TASK")],
    animal: Annotated[Path | None, typer.Option(help="animal file (TOML)")] = None,
    override: Annotated[list[str] | None, typer.Option(help="a start condition to override, by its code")] = None,
    host: HostName = "local",
    up: Annotated[bool, typer.Option("--up/--no-up", help="start this machine's services first")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="no live display")] = False,
    json: Json = False,
) -> None:
    """Run a session on a rig and make its recording, NWB file, summary and report."""
    logging.getLogger("loop2p").addHandler(logging.NullHandler())  # what the launcher logs is told by other means
    rig_file = open_rig(rig)
    task_text = read_text(task, "task file (TOML)")
    animal_text = read_text(animal, "animal file (TOML)") if animal is not None else ""
    _see_plan(rig_file, task_text, animal_text, str(task), str(animal or "animal file"))
    run_id = new_run_id(rig_file.rig.name)
    live = Live(Progress(), console=err, refresh_per_second=4, transient=False) if not (quiet or json) else None

    def show(progress: Progress) -> None:
        if live is not None:
            live.start()  # only now: what is refused at once needs no display
            live.update(progress)

    conductor = Conductor(rig_file, host, show)
    handlers = {n: signal.signal(n, conductor.ask_stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        outcome = conductor.run(task_text, str(task), animal_text, override or [], run_id, up)
    except RigBusyError as error:
        fail(f"{error}. If `loop2p up` runs it: add --no-up", EXIT_REFUSED)
    except (FileError, OSError) as error:
        fail(str(error), EXIT_REFUSED)
    finally:
        if live is not None and live.is_started:
            live.stop()
            if not err.is_terminal:
                err.line()  # rich ends the last line in a terminal only
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if quiet or json:
        for line in conductor.progress.faults:
            err.print(f"FAULT {line}", style="red", markup=False)
    try:
        summary = make_files(outcome.folder, quiet=quiet or json)
        if summary is not None:
            point_latest(outcome.folder)
    except OSError as error:
        fail("\n".join(filter(None, (outcome.problem, not_made(outcome.folder, error)))), EXIT_REFUSED)
    if summary is not None:
        if json:
            print_json(summary | {"folder": str(outcome.folder), "problem": outcome.problem})
        else:
            print_summary(summary, outcome.folder)
    if outcome.problem:
        fail(outcome.problem, EXIT_MISTAKE if conductor.mistake else EXIT_REFUSED)
    if summary is None or not outcome.ended or not summary["audit"]["complete"]:
        fail("the record is not complete; see the audit in summary.json", EXIT_REFUSED)


def _see_plan(rig_file: RigFile, task: str, animal: str, task_path: str, animal_path: str) -> None:
    """Leave with what is wrong in the files before anything starts, where our own task will read them."""
    if rig_file.rig.services["task"].class_ not in ("", ROLES["task"]):
        return
    from loop2p.task.experiment import make_plan

    try:
        make_plan(task, animal, task_path, animal_path)
    except FileError as error:
        fail(str(error))


def not_made(folder: Path, error: OSError) -> str:
    """Why the files of a run are not there, and what to do."""
    why = error.strerror or error
    return (
        f"{folder}: summary, NWB and report can't be written: {why}. The journal is kept; then `loop2p export {folder}`"
    )


def make_files(folder: Path, quiet: bool = False) -> dict[str, Any] | None:
    """summary.json, session.nwb and report.html from the journal; None if nothing was recorded. Raises OSError."""
    from loop2p.recording.nwb import export_nwb
    from loop2p.recording.report import write_report
    from loop2p.recording.run import Run
    from loop2p.recording.summary import write_summary

    if not any(folder.glob("journal*.mcap")):
        return None
    if not quiet:
        err.print("writing summary, NWB and report ...")
    recorded = Run(folder)
    summary: dict[str, Any] = write_summary(folder, recorded)
    export_nwb(folder, recorded)
    write_report(folder, recorded)
    return summary


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Latency table, counts and paths."""
    table = Table(title="latency from the frame's last byte, ms", title_justify="left")
    rows = [*summary["latency_ms"].items(), *((f"  hop {k}", v) for k, v in summary.get("hops_ms", {}).items())]
    bounds = any(q["n"] and q.get("bound") != 0 for _, q in rows)  # what two machines' clocks may be off by
    for column in ("to", "n", "p50", "p99", "p99.9", "max", *(["±"] if bounds else [])):
        table.add_column(column, justify="left" if column == "to" else "right")
    for name, q in rows:
        values = [q["n"], *(q[k] for k in ("p50", "p99", "p999", "max")), *([q.get("bound")] if bounds else [])]
        table.add_row(name, str(values[0]), *("-" if v is None else f"{v:.2f}" for v in values[1:]))
    out.print(table)
    frames, audit = summary["frames"], summary["audit"]
    expected = sum(t["expected"] for t in audit["topics"].values())
    written = sum(t["written"] for t in audit["topics"].values())
    counts = f"{summary['trials']} trials, {summary['hits']} hits, {summary['rewards']} rewards"
    out.print(f"{counts}, {summary['reward_ul']:.1f} ul")
    out.print(f"frames: {frames['received']} received, {frames['processed']} processed, {frames['dropped']} dropped")
    out.print(f"audit: {'complete' if audit['complete'] else 'NOT COMPLETE'}, {written} of {expected} messages")
    if summary["simulated"]:
        out.print("simulated: stand-ins took the place of hardware or animal")
    for note in summary.get("notes", []):
        out.print(f"note: {note}", markup=False)
    for name in sorted(p.name for p in folder.glob("journal*.mcap")):
        out.print(f"journal  {folder / name}", markup=False, soft_wrap=True)
    for label, name in (("NWB", "session.nwb"), ("summary", "summary.json"), ("report", "report.html")):
        if (folder / name).exists():
            out.print(f"{label:8} {folder / name}", markup=False, soft_wrap=True)
