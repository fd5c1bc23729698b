"""Work for many processes, here or on a Dask cluster that shares this disk; with a bar that says how far it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from loop2p.cli.main import EXIT_REFUSED, err

K = TypeVar("K")
QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "10m",
}
"""A worker lives through one day after the other, and its event loop takes turns with that: by Dask's defaults it looks
at the stack 100 times a second and at the clock 50 times (measured: 4 to 9 % of its processor time)."""


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


def watched(client: Any, futures: Mapping[Any, K], what: str, quiet: bool = False) -> Iterator[tuple[K, Any]]:
    """(value of the mapping, result) of each future as it comes, under a progress bar.

    On Ctrl-C what is running is given up; whatever is finished stays.
    """
    from distributed import as_completed
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done = 0
    try:
        with Progress(*columns, console=err, disable=quiet) as bar:
            running = bar.add_task(what, total=len(futures))
            for future in as_completed(list(futures)):
                yield futures[future], future.result()
                done += 1
                bar.advance(running)
    except KeyboardInterrupt:
        client.cancel(list(futures))
        err.print(f"stopped after {done} of {len(futures)} {what}; the same command goes on from there", soft_wrap=True)
        raise typer.Exit(EXIT_REFUSED) from None
