"""One publisher of this project's bus, and as many subscribers as there may be, each a process."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from loop2p.cli.benchmarks.machine import quantiles
from loop2p.cli.benchmarks.rig import free_ports
from loop2p.cli.benchmarks.transport.ends import Ends, Heard


def bench_fanout(
    n_bytes: int, rate_hz: float, n: int, rounds: int, counts: Sequence[int], say: Callable[[str], None]
) -> dict[str, Any]:
    """`took_us` of all subscribers together, by their number; `lost`: messages that a subscriber missed, summed."""
    with ExitStack() as stack:
        groups = {}
        for count in counts:
            ports = free_ports(3 + 3 * count)
            publisher, own = ports[:3], [ports[k : k + 3] for k in range(3, len(ports), 3)]
            places = [" ".join(map(str, (*publisher, *one))) for one in own]
            groups[count] = stack.enter_context(Ends("ours", places[0], n_bytes, places))
        heard: dict[int, list[Heard]] = {count: [] for count in counts}
        for k in range(rounds):
            say(f"round {k + 1} of {rounds}: {n} times {n_bytes} B at {rate_hz:g} Hz to {list(counts)} subscribers ...")
            for count in list(counts) if k % 2 == 0 else list(counts)[::-1]:
                heard[count] += groups[count].measure(n, rate_hz)
    return {
        "took_us": {
            str(count): quantiles([ns / 1e3 for one in heard[count] for ns in one.took_ns]) for count in counts
        },
        "lost": {str(count): sum(one.lost for one in heard[count]) for count in counts},
        "bytes": n_bytes,
        "rate_hz": rate_hz,
    }
