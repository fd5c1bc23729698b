"""The loop beside processes that take every processor: ordinary against real-time scheduling, round by round."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loop2p.cli.benchmarks.latency import Commands, measure_commands
from loop2p.cli.benchmarks.machine import machine, quantiles

PRIORITY = 10
WAYS = {"ordinary": 0, "real-time": PRIORITY}
RATE_HZ, N_ROIS = 200.0, 10


@contextmanager
def hogs(n: int) -> Iterator[list[int]]:
    """n processes of ordinary priority that never pause, until the block ends; their ids."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"], stdin=subprocess.DEVNULL) for _ in range(n)]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait(10)


def bench_hogs(
    n_hogs: int, n_commands: int, rounds: int, seed: int = 1, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """`n_commands` a round and way of scheduling, at 200 Hz with one plane. Times in ms.

    The rig is started anew each time, and the hogs once it runs. `ratio_p99`: real-time over ordinary, a round each.
    """
    info = machine()
    runs: dict[str, list[Commands]] = {way: [] for way in WAYS}
    for k in range(rounds):
        for way in list(WAYS) if k % 2 == 0 else list(WAYS)[::-1]:  # neither is always first
            say(f"round {k + 1} of {rounds}, {way}: {n_commands} commands beside {n_hogs} hogs, seed {seed} ...")
            run = measure_commands(RATE_HZ, n_commands, 1, N_ROIS, seed, WAYS[way], busy=lambda: hogs(n_hogs))
            runs[way].append(run)
    return {
        "command_ms": {way: quantiles([x for run in runs[way] for x in run.took_ms]) for way in WAYS},
        "hops_ms": {
            way: {hop: quantiles([x for run in runs[way] for x in run.hops_ms[hop]]) for hop in runs[way][0].hops_ms}
            for way in WAYS
        },
        "rounds_ms": {way: [quantiles(run.took_ms) for run in runs[way]] for way in WAYS},
        "ratio_p99": [
            quantiles(fast.took_ms)["p99"] / quantiles(slow.took_ms)["p99"]
            for slow, fast in zip(runs["ordinary"], runs["real-time"], strict=True)
        ],
        "lost": {way: sum(run.lost for run in runs[way]) for way in WAYS},
        "ordinary_after_all": sorted(
            {name for run in runs["real-time"] for name, realtime in run.realtime.items() if not realtime}
        ),
        "hogs": n_hogs,
        "rate_hz": RATE_HZ,
        "seed": seed,
        "machine": info,
    }
