"""`loop2p cohort`: simulated mice through the whole experiment, faster than real time, on every core there is."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import convert

from loop2p.cli.main import EXIT_REFUSED, Json, err, fail, out, print_json
from loop2p.protocol import FileError

SPARE_GB = 1.0
"""Left free on the disk, whatever is asked."""
QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "10m",
}
"""A worker lives through one day after the other, and its event loop takes turns with that: by Dask's defaults it looks
at the stack 100 times a second and at the clock 50 times (measured: 4 to 9 % of its processor time)."""


def register(app: typer.Typer) -> None:
    app.command()(cohort)


def cohort(
    out_dir: Annotated[Path, typer.Option("--out", help="folder of this arm; a cohort that was stopped goes on there")],
    arm: Annotated[
        str, typer.Option(help="main, ndnf, led, anaesthesia, no-apical, scalar, permuted, yoked, swap")
    ] = "main",
    mice: Annotated[int, typer.Option()] = 6,
    days: Annotated[int, typer.Option()] = 14,
    level: Annotated[str, typer.Option(help="events, or traces: with every cell's fluorescence")] = "events",
    seed: Annotated[int, typer.Option(help="another seed, other mice; all arms of a seed have the same ones")] = 0,
    cells: Annotated[int, typer.Option(help="neurons a mouse")] = 300,
    task: Annotated[Path | None, typer.Option(help="task file whose tables stand in place of the arm's")] = None,
    workers: Annotated[int, typer.Option(help="processes on this machine; 0: one a core")] = 0,
    scheduler: Annotated[str, typer.Option(help="address of a Dask cluster that shares this disk")] = "",
    check: Annotated[bool, typer.Option("--check", help="print the acceptance rows of what is in --out")] = False,
    json: Json = False,
) -> None:
    """Simulate a cohort, one NWB file for each mouse and day; with --check, compare what is there with the paper."""
    if check:
        raise typer.Exit(check_folder(out_dir, json))
    try:
        from loop2p.simulation.cohort import CohortParams, hours, prepare

        text = task.read_text(encoding="utf-8") if task else ""
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


@contextmanager
def cluster_of(workers: int, scheduler: str) -> Iterator[Any]:
    """A Dask client: of a cluster by its address, else of processes on this machine with one thread each."""
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(QUIET):
        if scheduler:
            with Client(scheduler) as client:
                yield client
        else:
            local = {"threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
            with LocalCluster(n_workers=workers or None, **local) as cluster, Client(cluster) as client:
                yield client


def simulate(folder: Path, params: Any, client: Any, quiet: bool = False) -> list[Any]:
    """Run what is not done yet; a mouse's days one after the other. Returns the days that were done now.

    On Ctrl-C the days that are running are given up; whatever is finished stays.
    """
    from distributed import as_completed
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from loop2p.simulation.cohort import days_to_do, run_day

    futures = []
    for mouse in range(params.mice):
        before = None
        for day in days_to_do(folder, params, mouse):
            key = f"mouse-{mouse}-day-{day}"
            before = client.submit(after, before, run_day, folder.resolve(), mouse, day, key=key, pure=False)
            futures.append(before)
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err, disable=quiet)
    try:
        with bar:
            running = bar.add_task(f"{params.arm}, mouse-days", total=len(futures))
            for future in as_completed(futures):
                results.append(future.result())
                bar.advance(running)
    except KeyboardInterrupt:
        client.cancel(futures)
        err.print(f"stopped after {len(results)} mouse-days; the same command goes on from there", soft_wrap=True)
        raise typer.Exit(EXIT_REFUSED) from None
    return results


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
