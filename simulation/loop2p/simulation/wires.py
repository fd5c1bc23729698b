"""The wires between the animal and the controller's pins, as lines of text by TCP. Nothing here ever blocks for long.

To the controller: `frame` (frame trigger), `lick`, `wheel <counts>`. From it, whenever a pin moves:
`<pin> <0|1> <t_us>`, such as `valve 1 81234567` (the controller's microseconds, 32 bit).
"""

import contextlib
import socket
import time

from msgspec import Struct

RETRY_NS = 500_000_000
LONGEST_LINE = 200
MOST_WAITING = 65536
"""Bytes kept for a controller that does not read; it is hung up on beyond that."""


class Edge(Struct, frozen=True):
    """A pin went high or low."""

    pin: str
    level: bool
    t_us: int
    """Controller's clock, wraps at 2^32."""


class Wires:
    """Keeps one connection to the stand-in controller, and connects again when it has gone."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self._sock: socket.socket | None = None
        self._next_try_ns = 0
        self._in = b""
        self._out = b""
        self.connections = 0
        self.rejected = 0
        """Lines that mean nothing."""

    def fileno(self) -> int:
        """-1 while there is no controller."""
        return self._sock.fileno() if self._sock else -1

    def send(self, lines: str) -> None:
        """Put whole lines on the wires; lost if no controller is there."""
        if self._sock is None:
            return
        self._out += lines.encode("ascii")
        try:
            self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            if len(self._out) > MOST_WAITING:
                self.close()
        except OSError:
            self.close()

    def edges(self) -> list[Edge]:
        """What the pins did since the last call; also the place where it connects."""
        if self._sock is None:
            self._connect()
        if self._sock is None:
            return []
        try:
            while data := self._sock.recv(4096):
                self._in += data
            self.close()  # it hung up: whatever came before it did still counts
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        *lines, self._in = self._in.split(b"\n")
        if len(self._in) > LONGEST_LINE:
            self._in = b""
            self.rejected += 1
        return [edge for line in lines if line.strip() and (edge := self._edge(line))]

    def close(self) -> None:
        """Hang up; `edges` connects again later."""
        if self._sock:
            self._sock.close()
        self._sock = None
        self._out = b""
        self._next_try_ns = time.perf_counter_ns() + RETRY_NS

    def _edge(self, line: bytes) -> Edge | None:
        with contextlib.suppress(ValueError):
            pin, level, t_us = line.decode("ascii").split()
            if level in ("0", "1"):
                return Edge(pin, level == "1", int(t_us))
        self.rejected += 1
        return None

    def _connect(self) -> None:
        now_ns = time.perf_counter_ns()
        if now_ns < self._next_try_ns:
            return
        self._next_try_ns = now_ns + RETRY_NS
        try:
            sock = socket.create_connection(self._where, timeout=0.02)
        except OSError:
            return
        if sock.getsockname() == sock.getpeername():  # a port nobody listens on may connect to itself
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock, self._in = sock, b""
        self.connections += 1
