"""Commands for day 1: which ROIs are there, and the draw of P+ and P-."""

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from loop2p.cli.main import Json, err, fail, out, print_json
from loop2p.cli.records import RunFolder, folder_of

USUAL = (8, 10)
"""How many ROIs the paper chooses (Methods 2.1)."""


def register(app: typer.Typer) -> None:
    for command in (candidates, draw):
        app.command()(command)


def candidates(run: RunFolder, json: Json = False) -> None:
    """Rank the ROIs of a recorded passive baseline by event rate, signal-to-noise and steadiness; the best first."""
    from loop2p.task.selection import ranked

    rows = ranked(_candidates(folder_of(run)))
    if json:
        print_json([{"roi": c.roi, "rate_hz": c.rate_hz, "snr": c.snr, "drift": c.drift} for c in rows])
        return
    table = Table("ROI", "events, Hz", "largest event, noise SD", "drift, noise SD")
    for c in rows:
        table.add_row(str(c.roi), f"{c.rate_hz:.3f}", f"{c.snr:.1f}", f"{c.drift:.2f}")
    out.print(table)


def draw(
    run: RunFolder,
    task: Annotated[Path, typer.Argument(help="task file (TOML)", metavar="TASK")],
    rois: Annotated[str, typer.Option(help="the ROIs you confirm, such as 3,5,8,13,21,34,55,60")],
    by: Annotated[str, typer.Option(help="who confirms them")],
    seed: Annotated[int, typer.Option(help="of the draw; -1: a new one")] = -1,
) -> None:
    """Print a task file for day 1: this one, with the confirmed ROIs and the seed that splits them into P+ and P-."""
    from loop2p.protocol import parse_toml
    from loop2p.task.experiment import Experiment
    from loop2p.task.selection import split, with_selection

    known = {c.roi for c in _candidates(folder_of(run))}
    try:
        if not all(word.strip().isdecimal() for word in rois.split(",")):
            raise ValueError(f"--rois {rois!r}, expected their numbers with commas between, such as 3,5,8,13")
        chosen = [int(word) for word in rois.split(",")]
        unknown = sorted(set(chosen) - known)
        if unknown:
            raise ValueError(f"ROI {unknown[0]} is not in {run}, expected some of 0 to {max(known)}")
        number = seed if seed >= 0 else secrets.randbelow(2**31)
        text = with_selection(task.read_text(encoding="utf-8"), chosen, number, by)
        parse_toml(text, Experiment, f"{task} and its selection")
    except (OSError, ValueError) as error:
        fail(str(error))
    if len(chosen) not in USUAL:
        err.print(f"note: {len(chosen)} ROIs; the paper has 8 or 10", markup=False)
    plus, minus = split(chosen, number)
    err.print(f"P+ {plus}, P- {minus}, seed {number}, confirmed by {by}", markup=False, soft_wrap=True)
    typer.echo(text, nl=False)


def _candidates(folder: Path) -> list[Any]:
    """The ROIs of a run's passive blocks, all together. Leaves with the reason where there are none.

    By dF/F; by raw fluorescence, and saying so, where the decoder recorded none: the numbers are in units of noise, so
    that only the drift differs, which then holds what F0 would have followed.
    """
    import numpy as np

    from loop2p.protocol import PROXIMAL, Envelope, Output, Phase, Traces, from_f32
    from loop2p.recording.run import Run
    from loop2p.task.selection import candidates as look

    run = Run(folder)
    phases = run.of(Phase)
    times_s = [*(m.t_s for m in phases), np.inf]
    spans = [(m.t_s, end) for m, end in zip(phases, times_s[1:], strict=True) if m.phase == "baseline"]

    def time_s(record: Envelope) -> float:
        """Frame time within a passive block, else not a number."""
        t_s = record.header.cause.time_s if record.header.cause else np.nan
        return t_s if any(begin <= t_s < end for begin, end in spans) else np.nan

    rows = [(time_s(record), m.dff) for record, m in run.with_headers(Output) if m.valid and m.dff]
    raw = not rows
    if raw:
        traces = run.with_headers(Traces)
        rows = [(time_s(record), m.f) for record, m in traces if m.valid and m.plane == PROXIMAL]
    rows = [(t_s, values) for t_s, values in rows if np.isfinite(t_s)]
    if len(rows) < 2:
        fail(f"{folder}: {len(rows)} valid frames in passive blocks, expected a run with a baseline")
    if raw:
        err.print("note: no dF/F was recorded; this is raw fluorescence, its drift not corrected by F0", soft_wrap=True)
    period_s = float(np.median(np.diff([t_s for t_s, _ in rows])))
    return look(np.array([from_f32(values) for _, values in rows]), 1 / period_s)
