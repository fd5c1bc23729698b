"""Redis streams: XADD, one blocking XREAD a message, over a Unix socket. PLACE: the socket's path."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loop2p.cli.benchmarks.transport.ends import HEAD, PATIENCE_S, Note, obey

STREAM = b"bench"
KEPT_BYTES = 64_000_000
"""The stream holds so much for a reader that lags."""


def missing() -> str:
    return "" if shutil.which("redis-server") else "no redis-server (Debian package redis-server)"


@contextmanager
def server() -> Iterator[str]:
    """A server of our own that writes nothing to disk; its socket."""
    with tempfile.TemporaryDirectory(prefix="loop2p-redis-") as folder:
        path = Path(folder) / "socket"
        options = {"port": 0, "unixsocket": path, "save": "", "appendonly": "no", "dir": folder, "loglevel": "warning"}
        command = ["redis-server", *(str(x) for name, value in options.items() for x in (f"--{name}", value))]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not path.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"redis-server does not open its socket (exit code {process.poll()})")
                time.sleep(0.01)
            yield str(path)
        finally:
            process.terminate()
            process.wait(10)


def send(place: str, up: Callable[[], None]) -> None:
    import redis

    client = redis.Redis(unix_socket_path=place, socket_timeout=None)

    def add(payload: bytearray) -> None:
        client.xadd(STREAM, {b"p": memoryview(payload)}, maxlen=KEPT_BYTES // len(payload))

    with client:
        obey(up, add)


def receive(place: str, up: Callable[[], None], note: Note) -> None:
    import redis

    client: Any = redis.Redis(unix_socket_path=place, socket_timeout=None)
    client.ping()
    last: str | bytes = "$"
    up()
    while True:
        for _stream, entries in client.xread({STREAM: last}, count=1, block=0):
            for entry, fields in entries:
                last = entry
                note(*HEAD.unpack_from(fields[b"p"]))
