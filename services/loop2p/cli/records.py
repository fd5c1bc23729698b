"""Commands for what was recorded: export, trace, replay, yoke, recover."""

from pathlib import Path
from typing import Annotated

import typer

from loop2p.cli.main import EXIT_REFUSED, Json, fail, out, print_json, read_text


def register(app: typer.Typer) -> None:
    for command in (export, trace, replay, yoke, recover):
        app.command()(command)


RunFolder = Annotated[Path, typer.Argument(help="a run's folder, such as runs/latest", metavar="RUN")]


def folder_of(run: Path) -> Path:
    """Where the run is, or leave with what was found instead."""
    folder = run
    if run.is_file() and run.name == "latest":  # where links are not allowed, a file with the run's name
        folder = run.parent / read_text(run, "run's name").strip()
    if folder.is_file():
        fail(f"{folder}: a file, expected a run's folder, such as runs/latest")
    if not any(folder.glob("journal*.mcap")):
        found = "no journal in this folder" if folder.is_dir() else "no such folder"
        fail(f"{folder}: {found}, expected a run's folder, such as runs/latest")
    return folder


def see_records(place: Path) -> None:
    """Leave where not even one record can be read: nothing can be made of that."""
    from loop2p.recording.journal import read_journal

    if next(read_journal(place), None) is None:
        fail(f"{place}: no record can be read, expected a journal (MCAP) that was at least begun")


def export(run: RunFolder, json: Json = False) -> None:
    """Make summary, NWB and report again from the journal alone."""
    from loop2p.cli.run import make_files, not_made, print_summary

    folder = folder_of(run)
    see_records(folder)
    try:
        summary = make_files(folder, quiet=json)
    except OSError as error:
        fail(not_made(folder, error), EXIT_REFUSED)
    assert summary is not None
    if json:
        print_json(summary)
    else:
        print_summary(summary, folder)


def trace(run: RunFolder, frame: Annotated[int, typer.Argument(help="frame index")], json: Json = False) -> None:
    """One frame's way through the rig, in ms since its last byte was in; +- where the stamps are two machines'."""
    from loop2p.recording.trace import trace_frame, waterfall

    steps = trace_frame(folder_of(run), frame)
    if not steps:
        fail(f"no message was caused by frame {frame}")
    if json:
        print_json(steps)
    else:
        for step, bar in zip(steps, waterfall([step["ms"] for step in steps]), strict=True):
            bound_ms = step["bound_ms"]
            within = "+- ?" if bound_ms is None else f"+- {bound_ms:.3f}" if bound_ms else ""
            out.print(
                f"{step['ms']:9.3f} ms {within:9} |{bar}| {step['source']:10} {step['topic']:20} {step['detail']}",
                markup=False,
                soft_wrap=True,
            )


def replay(
    run: RunFolder,
    view: Annotated[bool, typer.Option("--view", help="show it on the operator's page instead; Ctrl-C ends")] = False,
    port: Annotated[int, typer.Option(help="of the page; a free one unless given", min=0, max=65535)] = 0,
    json: Json = False,
) -> None:
    """Decide again from the recorded outputs: same threshold, angles, outcomes and rewards? Exit code 1 if not."""
    from loop2p.cli.replaying import replay_run

    if view:
        from loop2p.cli.viewing import view_run

        view_run(folder_of(run), port)
        return

    try:
        result = replay_run(folder_of(run))
    except ValueError as error:  # no session in it, or one of another version
        fail(str(error))
    if json:
        print_json(result)
    else:
        for what, row in result["compared"].items():
            same = "the same" if row["same"] else f"DIFFERENT from number {row['first_difference']}"
            out.print(f"{what:12} {row['recorded']:6} recorded, {row['replayed']:6} replayed: {same}", markup=False)
        if result["note"]:
            out.print(f"note: {result['note']}", markup=False)
    if not result["same"]:
        raise typer.Exit(EXIT_REFUSED)


def yoke(run: RunFolder, task: Annotated[Path, typer.Argument(help="task file (TOML)", metavar="TASK")]) -> None:
    """Print a task file: this one, but with what the animal of a recorded run saw and was given in place of control."""
    from loop2p.protocol import Output, RequestLog, Session, Stall, parse_toml
    from loop2p.recording.journal import read_journal
    from loop2p.task.experiment import Experiment
    from loop2p.task.replay import schedule_of
    from loop2p.task.yoked import as_toml

    kinds = Session | Output | Stall | RequestLog
    messages = [m for m in (record.message for record in read_journal(folder_of(run))) if isinstance(m, kinds)]
    session = next((m for m in messages if isinstance(m, Session)), None)
    if session is None:
        fail(f"{run}: no rig.session in the journal, so there is nothing to show again")
    ours = read_text(task, "task file (TOML)").rstrip()
    try:
        schedule = as_toml(schedule_of(session, messages))
        text = f"{ours}\n\n# What was seen and given in run {session.run_id}.\n{schedule}"
        parse_toml(text, Experiment, f"{task} and its schedule")
    except ValueError as error:
        fail(str(error))
    typer.echo(text, nl=False)


def recover(journal: Annotated[Path, typer.Argument(help="a journal that was cut")], json: Json = False) -> None:
    """Copy everything readable of a torn journal into a clean one beside it."""
    from loop2p.recording.journal import recover as recover_journal

    place = journal if journal.is_file() else folder_of(journal)
    see_records(place)
    recovered = recover_journal(place)
    if json:
        print_json({"journal": str(recovered)})
    else:
        out.print(str(recovered), markup=False, soft_wrap=True)
