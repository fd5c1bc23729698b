"""ezmsg: its own publisher and subscriber, in its own event loop. PLACE: the graph server's address, "host:port"."""

import asyncio
import contextlib
import importlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from loop2p.cli.benchmarks.rig import free_ports
from loop2p.cli.benchmarks.transport.ends import HEAD, PATIENCE_S, Note, burst, stamp

TOPIC = "bench"


def missing() -> str:
    return ""


@contextmanager
def server() -> Iterator[str]:
    """A graph server of our own; its address."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "ezmsg.core", "serve", "--address", address]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ezmsg's graph server does not answer at {address} (exit code {process.poll()})")
            time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def graph(place: str) -> Any:
    """A context of ezmsg, which has no types that a checker knows."""
    context, address = (importlib.import_module(f"ezmsg.core.{name}") for name in ("graphcontext", "netprotocol"))
    return context.GraphContext(address.Address.from_string(place), auto_start=False)


def send(place: str, up: Callable[[], None]) -> None:
    async def publish() -> None:
        async with graph(place) as context:
            publisher = await context.publisher(TOPIC)
            up()
            while order := await asyncio.to_thread(sys.stdin.readline):
                for wait_s, payload, number in burst(order):
                    await asyncio.sleep(wait_s)
                    await publisher.broadcast(np.frombuffer(stamp(payload, number), np.uint8))
                print("done", flush=True)

    asyncio.run(publish())


def receive(place: str, up: Callable[[], None], note: Note) -> None:
    async def listen() -> None:
        async with graph(place) as context:
            subscriber = await context.subscriber(TOPIC)
            up()
            while True:
                async with subscriber.recv_zero_copy() as payload:
                    note(*HEAD.unpack_from(payload))

    asyncio.run(listen())
