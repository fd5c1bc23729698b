"""The stand-in microcontroller: the firmware model behind a real serial port, with wires to the other stand-ins.

Host side: a pseudo-terminal, or a TCP port for "socket://" (the only way on Windows). Wires: text lines over TCP.
Out: "valve 1 <t_us>", "valve 0 <t_us>", "led 1 <t_us>", "led 0 <t_us>" (controller time, 32 bits). In: "lick",
"wheel <counts>" (signed, since the last), "frame" (the microscope's frame trigger).
"""

import contextlib
import json
import logging
import os
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, TextIO

import msgspec
from msgspec import Struct

from loop2p.actuation.link import MICROS_WRAP
from loop2p.protocol import RigFile
from loop2p.simulation.controller_core import ControllerCore, FirmwareLimits, Pin

OUT_LIMIT = 4096
"""Bytes that wait for a host; what exceeds them is lost, as at a port that nobody reads."""
LINE_LIMIT = 200
LONGEST_WAIT_S = 0.02

log = logging.getLogger("loop2p.controller")


class PinEdge(Struct, frozen=True):
    """A line of the pin log."""

    ns: int
    """perf_counter when the pin was set."""
    pin: Pin
    level: int
    t_us: int
    """Controller time, unwrapped; widths are exact in it."""


def read_pin_log(path: Path | str) -> list[PinEdge]:
    """All edges in order. A torn last line (the stand-in was killed) is left out. Raises ValueError for any other."""
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    try:
        return [msgspec.json.decode(line, type=PinEdge) for line in lines]
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}, expected lines like {{ns, pin, level, t_us}}") from None


class Controller:
    """A microcontroller that can be plugged in, starved, killed and started again."""

    class Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        tcp: str = "127.0.0.1:5600" if os.name == "nt" else ""
        """host:port for the host's side; empty for a pseudo-terminal."""
        link: str = "runs/controller"
        """Where the pseudo-terminal is found: a symbolic link, the same after each start."""
        wires: str = "127.0.0.1:5601"
        """host:port for the other stand-ins; empty for none."""
        pin_log: str = ""
        """Each edge of valve and LED is appended to this file at once; empty for none."""
        limits: FirmwareLimits = FirmwareLimits()
        first_us: int = 0
        """Controller time at start: near 2**32 to see it wrap."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.core = ControllerCore(random.SystemRandom().getrandbits(32), options.limits)
        self.serial_url = ""
        """What a host opens; known after `open`."""
        self.wires_address = ""
        """host:port of the wires; known after `open`."""
        self.bad_lines = 0
        self._selector = selectors.SelectSelector()  # microseconds; epoll rounds up to milliseconds
        self._cleanup = contextlib.ExitStack()
        self._host: _HostSide | None = None
        self._wires: dict[socket.socket, bytearray] = {}
        self._pins: TextIO | None = None
        self._start_ns = 0

    @classmethod
    def from_rig(cls, options: Any, rig_file: RigFile) -> Self:
        return cls(options)

    def open(self) -> None:
        """Make port, wires and pin log; both pins low. Raises OSError: where."""
        options = self.options
        if options.pin_log:
            Path(options.pin_log).parent.mkdir(parents=True, exist_ok=True)
            self._pins = Path(options.pin_log).open("a", encoding="utf-8")  # noqa: SIM115 (closed by the stack)
            self._cleanup.callback(self._pins.close)
        if options.tcp:
            self._host = _TcpSide(options.tcp, self._selector, self._from_host)
        else:
            self._host = _PtySide(options.link, self._selector, self._from_host)
        self._cleanup.callback(self._host.close)
        self.serial_url = self._host.url
        if options.wires:
            listener = self._cleanup.enter_context(_listen(options.wires))
            self.wires_address = "{}:{}".format(*listener.getsockname()[:2])
            self._selector.register(listener, selectors.EVENT_READ, lambda: self._connect_wire(listener))
        self._start_ns = time.perf_counter_ns()
        for pin in ("valve", "led"):  # what a pull-down does at power-up
            self._log_pin(pin, 0, options.first_us)
        log.info("controller %08x: serial port %s, wires %s", self.core.boot_id, self.serial_url, self.wires_address)

    def run(self, stop: threading.Event) -> None:
        """Run until `stop`; then the pins fall, as when the supply is cut."""
        if self._host is None:
            self.open()
        try:
            while not stop.is_set():
                self.core.advance(self._now_us())
                self._flush()
                due_us = self.core.next_due_us()
                wait_s = LONGEST_WAIT_S if due_us is None else max(0.0, (due_us - self._now_us()) / 1e6)
                for key, _ in self._selector.select(min(wait_s, LONGEST_WAIT_S)):
                    key.data()
                self._flush()
        finally:
            self.core.power_off(self._now_us())
            self._flush()
            for wire in list(self._wires):
                self._drop_wire(wire)
            self._cleanup.close()
            self._selector.close()

    # ------------------------------------------------------------ edges and bytes

    def _now_us(self) -> int:
        return (time.perf_counter_ns() - self._start_ns) // 1000 + self.options.first_us

    def _from_host(self, data: bytes) -> None:
        self.core.receive(data, self._now_us())
        self._flush()

    def _flush(self) -> None:
        """Pins first, then what is said about them."""
        for edge in self.core.take_edges():
            self._log_pin(edge.pin, edge.level, edge.t_us)
            line = f"{edge.pin} {edge.level} {edge.t_us % MICROS_WRAP}\n".encode()
            for wire in list(self._wires):
                try:
                    wire.sendall(line)
                except OSError:  # full or gone: a stand-in that doesn't listen is let go
                    self._drop_wire(wire)
        output = self.core.take_output()
        if output and self._host is not None:
            self._host.write(output)

    def _log_pin(self, pin: Pin, level: int, t_us: int) -> None:
        if self._pins is not None:
            line = {"ns": time.perf_counter_ns(), "pin": pin, "level": level, "t_us": t_us}
            self._pins.write(json.dumps(line) + "\n")
            self._pins.flush()

    # ------------------------------------------------------------ wires

    def _connect_wire(self, listener: socket.socket) -> None:
        wire, _ = listener.accept()
        wire.setblocking(False)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wires[wire] = bytearray()
        self._selector.register(wire, selectors.EVENT_READ, lambda: self._read_wire(wire))

    def _read_wire(self, wire: socket.socket) -> None:
        try:
            data = wire.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop_wire(wire)
            return
        waiting = self._wires[wire]
        waiting += data
        *lines, rest = bytes(waiting).split(b"\n")
        waiting[:] = rest
        if len(rest) > LINE_LIMIT:
            self.bad_lines += 1
            waiting.clear()
        for line in lines:
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        match line.split():
            case [b"lick"]:
                self.core.lick(self._now_us())
            case [b"frame"]:
                self.core.frame(self._now_us())
            case [b"wheel", counts] if counts.lstrip(b"-").isdigit() and len(counts) < 8:
                self.core.wheel(int(counts), self._now_us())
            case _:
                self.bad_lines += 1
                if self.bad_lines & (self.bad_lines - 1) == 0:
                    log.warning(
                        "wires: %r (%d bad so far), expected lick, frame or wheel <counts>", line, self.bad_lines
                    )

    def _drop_wire(self, wire: socket.socket) -> None:
        if self._wires.pop(wire, None) is not None:
            self._selector.unregister(wire)
            wire.close()


def _listen(address: str) -> socket.socket:
    """A listening socket at host:port; port 0 for any. Raises OSError naming the address."""
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)))
    except (OSError, ValueError) as error:
        raise OSError(f"stand-in controller: can't listen on {address!r}: {error}; expected a free host:port") from None


class _HostSide(Protocol):
    """The serial port as the controller sees it."""

    url: str

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class _PtySide:
    """A pseudo-terminal. Its own slave end stays open, so that a host may come and go, as with a real port."""

    def __init__(self, link: str, selector: selectors.BaseSelector, take: Callable[[bytes], None]) -> None:
        import tty  # not on Windows

        self._take, self._selector, self.url = take, selector, link
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)  # else what is said before a host has come is echoed
        os.set_blocking(self._master, False)
        self._waiting = bytearray()
        path = Path(link)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.symlink_to(os.ttyname(self._slave))
        os.replace(fresh, path)
        selector.register(self._master, selectors.EVENT_READ, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._take(os.read(self._master, 4096))

    def write(self, data: bytes) -> None:
        if len(self._waiting) + len(data) <= OUT_LIMIT:
            self._waiting += data
        with contextlib.suppress(BlockingIOError):
            while self._waiting:
                del self._waiting[: os.write(self._master, self._waiting)]

    def close(self) -> None:
        self._selector.unregister(self._master)
        path = Path(self.url)
        if path.is_symlink() and os.readlink(path) == os.ttyname(self._slave):
            path.unlink()
        os.close(self._slave)
        os.close(self._master)


class _TcpSide:
    """A TCP port for one host at a time; another one is turned away, as at a port that is in use."""

    def __init__(self, address: str, selector: selectors.BaseSelector, take: Callable[[bytes], None]) -> None:
        self._take, self._selector = take, selector
        self._listener = _listen(address)
        self.url = "socket://{}:{}".format(*self._listener.getsockname()[:2])
        self._client: socket.socket | None = None
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._client is not None:
            client.close()
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._selector.register(client, selectors.EVENT_READ, self._read)

    def _read(self) -> None:
        if self._client is None:
            return
        try:
            data = self._client.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self._hang_up()

    def write(self, data: bytes) -> None:
        if self._client is not None:
            try:
                self._client.sendall(data)
            except OSError:  # full or gone
                self._hang_up()

    def _hang_up(self) -> None:
        if self._client is not None:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None

    def close(self) -> None:
        self._hang_up()
        self._selector.unregister(self._listener)
        self._listener.close()
