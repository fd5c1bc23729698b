"""What the three hops from imaging to actuation take by ZeroMQ alone: the floor that a machine sets.

python -m loop2p.cli.benchmarks.bare FROM_PORT TO_PORT: passes messages on until it is ended.
"""

import contextlib
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import zmq

from loop2p.cli.benchmarks.machine import quantiles
from loop2p.cli.benchmarks.rig import free_ports

HOPS = 3
PARTS = [b"imaging.traces", bytes(130), bytes(150)]
"""As many parts and bytes as the traces of 10 ROIs have."""
WAIT_MS = 10_000


def bench_bare(rate_hz: float, n: int) -> dict[str, Any]:
    """Sent to in hand, ms, through two processes that only pass messages on. Raises RuntimeError if they don't."""
    ports = free_ports(HOPS)
    command = [sys.executable, "-m", "loop2p.cli.benchmarks.bare"]
    pairs = pairwise(ports)
    passing = [subprocess.Popen([*command, str(a), str(b)], stdin=subprocess.DEVNULL) for a, b in pairs]
    context = zmq.Context()
    try:
        first, last = context.socket(zmq.PUB), context.socket(zmq.SUB)
        first.bind(f"tcp://127.0.0.1:{ports[0]}")
        last.subscribe("")
        last.connect(f"tcp://127.0.0.1:{ports[-1]}")
        deadline = time.monotonic() + WAIT_MS / 1000
        while not last.poll(20):  # until all are connected
            first.send_multipart(PARTS)
            if time.monotonic() > deadline:
                raise RuntimeError(f"no message came through {ports} within {WAIT_MS / 1000:g} s")
        while last.poll(100):
            last.recv_multipart()
        took_ms = []
        for _ in range(n):
            time.sleep(1 / rate_hz)
            began_ns = time.perf_counter_ns()
            first.send_multipart(PARTS)
            if not last.poll(WAIT_MS):
                raise RuntimeError(f"a message got lost between {ports}")
            last.recv_multipart()
            took_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        return quantiles(took_ms)
    finally:
        context.destroy(linger=0)
        for process in passing:
            process.terminate()
            process.wait(10)


def main(from_port: int, to_port: int) -> None:
    context = zmq.Context()
    incoming, outgoing = context.socket(zmq.SUB), context.socket(zmq.PUB)
    outgoing.bind(f"tcp://127.0.0.1:{to_port}")
    incoming.subscribe("")
    incoming.connect(f"tcp://127.0.0.1:{from_port}")
    while True:
        outgoing.send_multipart(incoming.recv_multipart())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches the whole group; the benchmark ends us
        main(int(sys.argv[1]), int(sys.argv[2]))
