"""More than one who listens, and the same bytes by other ways: fan-out, the loop beside observers, rivals."""

from collections.abc import Callable, Sequence
from typing import Any

from loop2p.cli.benchmarks.machine import machine
from loop2p.cli.benchmarks.observers import bench_observers
from loop2p.cli.benchmarks.transport.compare import FRAME_BYTES, SMALL_BYTES, bench_rivals
from loop2p.cli.benchmarks.transport.fanout import bench_fanout

FRAME_HZ, SMALL_HZ = 30.92, 1000.0
"""To many: frames as fast as the microscope makes them."""
RIVAL_FRAME_HZ = 250.0
"""Against others: fast enough that a tail shows within a minute."""


def bench_fleet(
    rounds: int,
    seconds: float,
    seed: int,
    subscribers: Sequence[int] = (1, 2, 4, 8),
    observers: Sequence[int] = (0, 2, 4, 8),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """`seconds`: of each burst, a round and way each."""

    def n(rate_hz: float) -> int:
        return max(10, round(seconds * rate_hz))

    return {
        "machine": machine(),
        "seed": seed,
        "fanout": {
            "frames": bench_fanout(FRAME_BYTES, FRAME_HZ, n(FRAME_HZ), rounds, subscribers, say),
            "small": bench_fanout(SMALL_BYTES, SMALL_HZ, n(SMALL_HZ), rounds, subscribers, say),
        },
        "rivals": {
            "frames": bench_rivals(FRAME_BYTES, RIVAL_FRAME_HZ, n(RIVAL_FRAME_HZ), rounds, say),
            "small": bench_rivals(SMALL_BYTES, SMALL_HZ, n(SMALL_HZ), rounds, say),
        },
        "observers": bench_observers(observers, n(200.0), rounds, seed, say),
    }
