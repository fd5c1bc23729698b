"""How long an analysis takes: one session on one core, a cohort on all; memory; how time grows with sessions."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loop2p.cli.benchmarks.cohort import timed
from loop2p.cli.benchmarks.machine import machine
from loop2p.cli.benchmarks.memory import Memory

ONE_CORE = 3
"""Sessions that are measured one after the other on one core; the slowest counts."""


def bench_analysis(mice: int = 6, days: int = 14, seed: int = 1, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Seconds for a session on one core and for a cohort with its report on all. Needs 5 GB of disk for 84 sessions."""
    from loop2p.analysis.arm import arms_in
    from loop2p.analysis.measure import MeasureParams
    from loop2p.analysis.results import results_of, write_results
    from loop2p.cli.analyse import measured
    from loop2p.cli.cluster import cluster_of

    info = machine()
    params = MeasureParams()
    with tempfile.TemporaryDirectory() as name:
        folder, place = Path(name) / "main", Path(name) / "results"
        say(f"{mice} mice, {days} days with fluorescence, seed {seed}, to be analysed ...")
        with cluster_of(0, "") as client:
            timed(folder, client, mice=mice, days=days, level="traces", seed=seed)
        paths = arms_in(folder)["main"]
        say("single sessions, one core ...")
        with cluster_of(1, "") as client:
            one_s = [_on(client, path, params, place / f"one-{k}") for k, path in enumerate(paths[: ONE_CORE + 1])][1:]
        took: dict[int, float] = {}
        with cluster_of(0, "") as client, Memory() as memory:
            for n in sorted({max(1, len(paths) // 4), len(paths)}):
                say(f"{n} sessions, all cores ...")
                started = time.perf_counter()
                arms, _ = measured(folder, place / f"of-{n}", {"main": paths[:n]}, params, client, quiet=True)
                took[n] = time.perf_counter() - started
            started = time.perf_counter()
            write_results(place, arms, results_of(arms, seed), {"seed": seed, "folder": "bench"})
            report_s = time.perf_counter() - started
    first = min(took)
    return {
        "session_s": one_s,
        "by_sessions_s": took,
        "report_s": report_s,
        "cohort_s": took[len(paths)] + report_s,
        "sessions": len(paths),
        "growth": (took[len(paths)] / len(paths)) / (took[first] / first),
        "worker_gib": memory.most_of_one / 2**30,
        "machine": info,
    }


def _on(client: Any, path: Path, params: Any, to: Path) -> float:
    from loop2p.analysis.measure import measure

    started = time.perf_counter()
    told = client.submit(measure, path, "main", params, to, pure=False).result()
    if told != "done":
        raise RuntimeError(told)
    return time.perf_counter() - started
