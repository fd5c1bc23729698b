"""`loop2p cohort`: simulated mice through the whole experiment, faster than real time, on every core there is."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import convert

from loop2p.cli.cluster import cluster_of, watched
from loop2p.cli.main import EXIT_REFUSED, Json, fail, out, print_json, read_text
from loop2p.protocol import FileError

SPARE_GB = 1.0
"""Left free on the disk, whatever is asked."""


def register(app: typer.Typer) -> None:
    app.command()(cohort)


def cohort(
    out_dir: Annotated[Path, typer.Option("--out", help="folder of this arm; a cohort that was stopped goes on there")],
    arm: Annotated[
        str, typer.Option(help="main, ndnf, led, anaesthesia, no-apical, scalar, permuted, yoked, swap")
    ] = "main",
    mice: Annotated[int, typer.Option(min=1)] = 6,
    days: Annotated[int, typer.Option(min=1)] = 14,
    level: Annotated[
        Literal["events", "traces"], typer.Option(help="events, or traces: with every cell's fluorescence")
    ] = "events",
    seed: Annotated[
        int, typer.Option(min=0, help="another seed, other mice; all arms of a seed have the same ones")
    ] = 0,
    cells: Annotated[int, typer.Option(min=40, help="neurons a mouse")] = 300,
    task: Annotated[Path | None, typer.Option(help="task file whose tables stand in place of the arm's")] = None,
    workers: Annotated[int, typer.Option(min=0, help="processes on this machine; 0: one a core")] = 0,
    scheduler: Annotated[str, typer.Option(help="address of a Dask cluster that shares this disk")] = "",
    check: Annotated[bool, typer.Option("--check", help="print the acceptance rows of what is in --out")] = False,
    json: Json = False,
) -> None:
    """Simulate a cohort, one NWB file for each mouse and day; with --check, compare what is there with the paper."""
    if check:
        raise typer.Exit(check_folder(out_dir, json))
    try:
        from loop2p.simulation.cohort import CohortParams, hours, prepare

        text = read_text(task, "task file (TOML)") if task else ""
        asked = {"arm": arm, "mice": mice, "days": days, "level": level, "seed": seed}
        params = convert({**asked, "n_cells": cells, "task": text}, CohortParams)
        see_space(out_dir, params.megabytes)
        prepare(out_dir, params)
    except ImportError as error:
        fail(f"{error}; install loop2p[cohort]")
    except (FileError, ValueError, OSError) as error:
        fail(str(error))
    started = time.perf_counter()
    with cluster_of(workers, scheduler) as client:
        results = simulate(out_dir, params, client, quiet=json)
    took_s = time.perf_counter() - started
    summary = {
        "arm": arm, "mice": mice, "days": days, "level": level, "seed": seed, "simulated_h": round(hours(params), 2),
        "took_s": round(took_s, 1), "days_done_now": len(results), "folder": str(out_dir),
    }  # fmt: skip
    if json:
        print_json(summary)
    else:
        out.print(
            f"{len(results)} mouse-days in {took_s:.0f} s; {summary['simulated_h']:g} h of experiment in {out_dir} "
            f"(seed {seed})",
            soft_wrap=True,
        )


def see_space(folder: Path, megabytes: float) -> None:
    """Raises OSError where the disk would not hold the cohort."""
    there_mb = sum(path.stat().st_size for path in folder.rglob("*.nwb")) / 1e6
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    needed_gb = max(0.0, megabytes - there_mb) / 1e3 + SPARE_GB
    if free_gb < needed_gb:
        raise OSError(
            f"{folder}: {free_gb:.1f} GB free, expected {needed_gb:.1f} GB for this cohort: make room, or ask for "
            "fewer mice, days or cells, or --level events"
        )


def simulate(folder: Path, params: Any, client: Any, quiet: bool = False) -> list[Any]:
    """Run what is not done yet; a mouse's days one after the other. Returns the days that were done now."""
    from loop2p.simulation.cohort import days_to_do, run_day

    futures = {}
    for mouse in range(params.mice):
        before = None
        for day in days_to_do(folder, params, mouse):
            key = f"mouse-{mouse}-day-{day}"
            before = client.submit(after, before, run_day, folder.resolve(), mouse, day, key=key, pure=False)
            futures[before] = key
    return [result for _, result in watched(client, futures, f"mouse-days of {params.arm}", quiet)]


def after(_before: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run when what stands first is done."""
    return function(*arguments)


def check_folder(folder: Path, json: bool) -> int:
    """Print the acceptance rows; 0 if all of them are met."""
    try:
        from loop2p.analysis.acceptance import check, print_rows
    except ImportError as error:
        fail(f"{error}; install loop2p[analysis]")
    try:
        rows = check(folder)
    except (OSError, ValueError) as error:
        fail(str(error))
    if json:
        print_json([row.as_dict() for row in rows])
    else:
        print_rows(rows, out)
    return 0 if all(row.met for row in rows if row.met is not None) else EXIT_REFUSED
