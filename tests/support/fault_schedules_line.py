"""The serial line between actuation and the controller, with its port, and what a schedule does to it."""

from collections import deque
from typing import TYPE_CHECKING

from fault_schedules import MS

from loop2p.actuation.link import encode
from loop2p.actuation.serial_port import Closed, Event, Opened, Received

if TYPE_CHECKING:
    from fault_schedules_rig import VirtualRig

BYTE_US = 87
LINE_US = 1000
"""USB polls once a millisecond."""
REOPEN_US = 250 * MS


class Line:
    """The serial line with its port, and what goes wrong on it."""

    url = "line"

    def __init__(self, rig: "VirtualRig") -> None:
        self.rig = rig
        self.is_open = False
        self.reopen_us = 0
        self.thawed_us = 0
        self.sent: list[bytes] = []
        """All that went over it to the controller, packet by packet."""
        self._events: list[tuple[int, Event | bytes]] = []
        self._out: deque[tuple[int, bytes]] = deque()
        self._in: deque[tuple[int, bytes]] = deque()
        self._kept = b""
        self._heard = 0

    # ------------------------------------------------------------ what ControllerClient asks for

    def start(self) -> None:
        self._events.clear()
        self.is_open, self.reopen_us = False, self.rig.now_us

    def close(self) -> None:
        self._events.clear()
        self.is_open, self.reopen_us = False, 1 << 62

    def fileno(self) -> int:
        return -1

    def wait(self, timeout_s: float) -> None:
        self.rig.pass_ms()

    def take(self) -> list[Event]:
        events: list[Event] = []
        for at_us, event in self._events:
            if isinstance(event, bytes):
                event = Received(event, self.rig.host_ns(max(at_us, self.thawed_us)))
            events.append(event)
        self._events.clear()
        return events

    @property
    def readable(self) -> bool:
        return bool(self._events)

    @property
    def is_quiet(self) -> bool:
        """What was to be said to the controller, floods included, is nearly all said."""
        return len(self._out) < 5

    def write(self, data: bytes) -> bool:
        if not self.is_open:
            return False
        if self.rig.on("cut", "line") or self.rig.on("mute", "line"):
            return True
        if len(data) > 1:
            self.sent.append(data)
        data *= 2 if self.rig.on("double", "line") else 1
        if self.rig.on("reorder", "line") and not self._kept:
            self._kept = data
            return True
        self.put(data + self._kept)
        self._kept = b""
        return True

    def reopen(self, reason: str) -> None:
        self.unplug(reason)
        self.reopen_us = self.rig.now_us + REOPEN_US

    # ------------------------------------------------------------ what happens on it

    def put(self, data: bytes) -> None:
        """Bytes on their way to the controller, behind those that are on their way already."""
        last_us = self._out[-1][0] if self._out else 0
        self._out.append((max(last_us, self.rig.now_us + LINE_US) + len(data) * BYTE_US, self._hurt(data)))

    def unplug(self, reason: str) -> None:
        if self.is_open:
            self._events.append((self.rig.now_us, Closed(reason)))
        self.is_open = False

    def flow(self) -> None:
        now_us, rig = self.rig.now_us, self.rig
        if not self.is_open and now_us >= self.reopen_us and not rig.on("unplug", "line"):
            self.is_open = True
            self._events.append((now_us, Opened()))
            if rig.schedule.opening_resets:
                rig.reset()
        if rig.on("unplug", "line"):
            self._out.clear()
            self._in.clear()
        said = b"".join(encode(p) for p in rig.bench.packets[self._heard :])
        self._heard = len(rig.bench.packets)
        if said and not any(rig.on(what, "line") for what in ("cut", "deaf", "unplug")):
            self._in.append((now_us + LINE_US, self._hurt(said)))
        if rig.on("hold", "line"):
            return
        while self._out and self._out[0][0] <= now_us:
            rig.bench.write(self._out.popleft()[1])
        while self._in and self._in[0][0] <= now_us:
            data = self._in.popleft()[1]
            if self.is_open:
                self._events.append((now_us, data))

    def _hurt(self, data: bytes) -> bytes:
        if not self.rig.on("damage", "line"):
            return data
        rng, hurt = self.rig.random, bytearray()
        for byte in data:
            match rng.randrange(40):
                case 0:
                    hurt.append(byte ^ 1 << rng.randrange(8))
                case 1:
                    pass
                case 2:
                    hurt += bytes((byte, rng.randrange(256)))
                case _:
                    hurt.append(byte)
        return bytes(hurt)
