"""The loop beside companions that hear everything and decode it, as a gateway or a display does."""

import json
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from loop2p.cli.benchmarks.latency import Commands, measure_commands
from loop2p.cli.benchmarks.machine import quantiles
from loop2p.protocol import RigFile
from loop2p.runtime.monitor import Monitor
from loop2p.runtime.sequence import Sequences

RATE_HZ, N_ROIS = 200.0, 10


class ObserverOptions(Struct, frozen=True, forbid_unknown_fields=True):
    told: str
    """File for what was heard, written at the end."""


class Observer:
    """A companion: takes every small message of every service, decodes it, counts what it missed."""

    Options = ObserverOptions

    def __init__(self, options: ObserverOptions, rig_file: RigFile) -> None:
        self.rig, self.told = rig_file.rig, Path(options.told)

    @classmethod
    def from_rig(cls, options: ObserverOptions, rig_file: RigFile) -> Self:
        return cls(options, rig_file)

    def run(self, stop: threading.Event) -> None:
        sequences, heard, missed = Sequences(), 0, 0
        with Monitor(self.rig) as monitor:
            while not stop.is_set():
                for envelope in monitor.wait(0.1):
                    heard += 1
                    missed += sequences.check(envelope.topic, envelope.header) or 0
        self.told.write_text(json.dumps({"heard": heard, "missed": missed}), encoding="utf-8")


def table(k: int, told: Path) -> str:
    """Observer k in the rig file."""
    return f'[companions.observer{k}]\nrun = "{__name__}:Observer"\noptions = {{told = {json.dumps(str(told))}}}'


def bench_observers(
    counts: Sequence[int], n_commands: int, rounds: int, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """`n_commands` a round and number of observers, at 200 Hz with one plane; the rig is started anew each time. ms.

    `ratio_p50`: over the first count's, a round each. `lost`: what the loop lost; `missed`: what observers did.
    """
    runs: dict[int, list[Commands]] = {count: [] for count in counts}
    heard, missed = dict.fromkeys(counts, 0), dict.fromkeys(counts, 0)
    for k in range(rounds):
        for count in list(counts) if k % 2 == 0 else list(counts)[::-1]:
            say(f"round {k + 1} of {rounds}: {n_commands} commands beside {count} observers, seed {seed} ...")
            with tempfile.TemporaryDirectory(prefix="loop2p-observers-") as folder:
                files = [Path(folder) / f"{one}.json" for one in range(count)]
                tables = "\n".join(table(one, file) for one, file in enumerate(files))
                runs[count].append(measure_commands(RATE_HZ, n_commands, 1, N_ROIS, seed, companions=tables))
                for file in files:
                    told = json.loads(file.read_text(encoding="utf-8"))
                    heard[count] += told["heard"]
                    missed[count] += told["missed"]
    p50 = {count: [quantiles(run.took_ms)["p50"] for run in each] for count, each in runs.items()}
    return {
        "command_ms": {str(n): quantiles([x for run in each for x in run.took_ms]) for n, each in runs.items()},
        "rounds_p50_ms": {str(n): each for n, each in p50.items()},
        "ratio_p50": {
            str(n): [a / b for a, b in zip(p50[n], p50[counts[0]], strict=True)] for n in counts if n != counts[0]
        },
        "lost": {str(n): sum(run.lost for run in each) for n, each in runs.items()},
        "heard": {str(n): count for n, count in heard.items()},
        "missed": {str(n): count for n, count in missed.items()},
        "rate_hz": RATE_HZ,
    }
