"""How long a simulated cohort takes, and how that grows with neurons and mice."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from loop2p.cli.benchmarks.machine import machine
from loop2p.cli.benchmarks.memory import Memory

NEURONS, MICE = (200, 400, 800), (2, 4, 6)
"""For the slopes; one day each, 2 mice for the neurons, 300 neurons for the mice."""


def bench_cohort(mice: int = 6, days: int = 14, seed: int = 1, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Seconds for a cohort at both levels, the largest memory of all processes together, slopes. Needs 3 GB of disk."""
    from loop2p.cli.cluster import cluster_of

    info = machine()
    with tempfile.TemporaryDirectory() as folder, cluster_of(0, "") as client, Memory() as memory:
        place = Path(folder)
        say("a first day, so that what is compiled is compiled ...")
        timed(place / "warm", client, mice=2, days=1, seed=seed)
        took: dict[str, float] = {}
        for level in ("events", "traces"):
            say(f"{mice} mice, {days} days, level {level}, seed {seed} ...")
            took[level] = timed(place / level, client, mice=mice, days=days, level=level, seed=seed)
        say("slopes ...")
        by_neurons = {n: timed(place / f"n{n}", client, mice=2, days=1, n_cells=n, seed=seed) for n in NEURONS}
        by_mice = {m: timed(place / f"m{m}", client, mice=m, days=1, seed=seed) for m in MICE}
    return {
        "took_s": took,
        "mouse_days": mice * days,
        "by_neurons_s": by_neurons,
        "by_mice_s": by_mice,
        "ms_per_neuron_and_day": 1e3 * _slope(by_neurons) / 2,
        "s_per_mouse": _slope(by_mice),
        "memory_gib": memory.most / 2**30,
        "machine": info,
    }


def _slope(seconds: dict[int, float]) -> float:
    return float(np.polyfit(list(seconds), list(seconds.values()), 1)[0])


def timed(folder: Path, client: Any, **asked: Any) -> float:
    """Seconds that a cohort of the main arm takes."""
    from loop2p.cli.cohort import simulate
    from loop2p.simulation.cohort import CohortParams, prepare

    params = CohortParams(arm="main", **asked)
    prepare(folder, params)
    started = time.perf_counter()
    simulate(folder, params, client, quiet=True)
    return time.perf_counter() - started
