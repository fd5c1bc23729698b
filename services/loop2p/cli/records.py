"""Commands for what was recorded: export, trace, replay, recover."""

from pathlib import Path
from typing import Annotated

import typer

from loop2p.cli.main import EXIT_REFUSED, Json, fail, out, print_json


def register(app: typer.Typer) -> None:
    for command in (export, trace, replay, recover):
        app.command()(command)


RunFolder = Annotated[Path, typer.Argument(help="a run's folder, such as runs/latest", metavar="RUN")]


def _folder(run: Path) -> Path:
    folder = run
    if run.is_file():  # `latest` where links are not allowed
        folder = run.parent / run.read_text(encoding="utf-8").strip()
    if not any(folder.glob("journal*.mcap")):
        fail(f"{folder}: no journal here, expected journal.mcap")
    return folder


def export(run: RunFolder, json: Json = False) -> None:
    """Make summary, NWB and report again from the journal alone."""
    from loop2p.cli.run import make_files, print_summary

    folder = _folder(run)
    summary = make_files(folder, quiet=json)
    assert summary is not None
    if json:
        print_json(summary)
    else:
        print_summary(summary, folder)


def trace(run: RunFolder, frame: Annotated[int, typer.Argument(help="frame index")], json: Json = False) -> None:
    """One frame's way through the rig, in ms since its last byte was in."""
    from loop2p.recording.trace import trace_frame

    steps = trace_frame(_folder(run), frame)
    if not steps:
        fail(f"no message was caused by frame {frame}")
    if json:
        print_json(steps)
    else:
        for step in steps:
            out.print(
                f"{step['ms']:9.3f} ms  {step['source']:10} {step['topic']:20} {step['detail']}",
                markup=False,
                soft_wrap=True,
            )


def replay(run: RunFolder, json: Json = False) -> None:
    """Decide again from the recorded outputs: same threshold, angles, outcomes and rewards? Exit code 1 if not."""
    from loop2p.cli.replaying import replay_run

    result = replay_run(_folder(run))
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


def recover(journal: Annotated[Path, typer.Argument(help="a journal that was cut")]) -> None:
    """Copy everything readable of a torn journal into a clean one beside it."""
    from loop2p.recording.journal import recover as recover_journal

    out.print(str(recover_journal(journal)), markup=False)
