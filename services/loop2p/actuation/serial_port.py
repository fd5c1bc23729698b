"""The port to the controller, opened, read and opened again by a thread of its own."""

import contextlib
import select
import socket
import threading
import time
from collections import deque
from typing import Any

import serial

try:
    from termios import error as TermiosError
except ImportError:  # Windows
    TermiosError = OSError  # type: ignore[misc, assignment]

PORT_ERRORS = (OSError, ValueError, TermiosError)
"""What a port throws that is not there, or was pulled out (SerialException is an OSError)."""
BAUD = 115_200
RETRY_S = 0.25
READ_TIMEOUT_S = 0.1
WRITE_TIMEOUT_S = 0.05
"""A healthy controller empties its buffer far sooner; then the link counts as lost."""


class Opened:
    """The port is open; nothing is known yet of who is at its other end."""


class Closed:
    """The port is gone, or could not be opened."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Received:
    """Bytes, and a time (perf_counter) at which they were all in."""

    def __init__(self, data: bytes, at_ns: int) -> None:
        self.data, self.at_ns = data, at_ns


Event = Opened | Closed | Received


class SerialPort:
    """Keeps a port open and hands what it says to another thread, through `events` and a socket to wait on.

    url: "/dev/ttyACM0", "COM3" or "socket://127.0.0.1:5600". Writing is done by the caller's own thread, so that
    a thread which hangs is heard to have stopped.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.events: deque[Event] = deque()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._lock = threading.Lock()
        self._port: Any = None
        self._drop = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serial", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def fileno(self) -> int:
        return self._wake_read.fileno()

    def take(self) -> list[Event]:
        """What has happened since the last time, in order."""
        try:
            while self._wake_read.recv(4096):
                pass
        except OSError:  # empty (BlockingIOError), or closed
            pass
        events = []
        while self.events:
            events.append(self.events.popleft())
        return events

    def wait(self, timeout_s: float) -> None:
        """Wait until something has happened, at most this long."""
        select.select([self._wake_read], [], [], max(timeout_s, 0))

    def write(self, data: bytes) -> bool:
        """Send bytes now; False where there is no port or it doesn't take them, and then it is opened anew."""
        with self._lock:
            if self._port is None or self._drop:
                return False
            try:
                self._port.write(data)
            except PORT_ERRORS as error:
                self._drop = f"{self.url}: {error}"
                return False
            return True

    def reopen(self, reason: str) -> None:
        """Close and open again. A Closed event with the reason follows."""
        with self._lock:
            self._drop = self._drop or reason

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        self._wake_read.close()
        self._wake_write.close()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            reason = self._converse()
            self._tell(Closed(reason))
            self._stop.wait(RETRY_S)

    def _converse(self) -> str:
        """Open, read until the port goes; returns why it went."""
        try:
            port = serial.serial_for_url(
                self.url, baudrate=BAUD, timeout=READ_TIMEOUT_S, write_timeout=WRITE_TIMEOUT_S, exclusive=True
            )
        except PORT_ERRORS as error:
            return f"{self.url}: {error}"
        raw: socket.socket | None = getattr(port, "_socket", None)
        if raw is not None:  # pyserial leaves Nagle on: a command then waits up to 20 ms for the next wheel report
            with contextlib.suppress(OSError):  # gone already: the first read says so
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._port, self._drop = port, ""
        self._tell(Opened())
        try:
            while not (self._stop.is_set() or self._drop):
                data = bytes(port.read(1))
                while data and len(data) < 4096 and (waiting := port.in_waiting):
                    data += bytes(port.read(waiting))
                if data:
                    self._tell(Received(data, time.perf_counter_ns()))
            return self._drop or "closed"
        except PORT_ERRORS as error:
            return f"{self.url}: {error}"
        finally:
            with self._lock:
                self._port = None
            with contextlib.suppress(*PORT_ERRORS):  # gone already
                port.close()
            if raw is not None:  # pyserial leaves a socket open whose peer has gone
                raw.close()

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        with contextlib.suppress(OSError):  # full: the reader is awake anyway; or closed: nobody listens any more
            self._wake_write.send(b"e")
