"""Talking to the controller: handshake, clock, commands repeated until answered, and nothing repeated after a loss."""

import time
from collections.abc import Callable, Iterable
from types import UnionType
from typing import Protocol

from msgspec import Struct

from loop2p.actuation.controller_clock import ControllerClock
from loop2p.actuation.link import (
    AGAIN,
    FROM_CONTROLLER,
    PROTOCOL,
    Ack,
    Code,
    Decoder,
    HelloQuery,
    HelloReply,
    Lease,
    Led,
    LickCount,
    Packet,
    PulseDone,
    Safe,
    Status,
    StatusQuery,
    Valve,
    WheelCount,
    encode,
)
from loop2p.actuation.serial_port import Closed, Event, Opened, Received

MS = 1_000_000
HELLO_NS = 100 * MS
STATUS_NS = 250 * MS
QUICK_STATUS_NS = 20 * MS
QUICK_STATUSES = 8
"""Exchanges close together after a handshake, so that the clock is known at once."""
SILENT_NS = 1000 * MS
"""A controller that answers no status query for this long is lost."""
RESEND_NS = 50 * MS
DONE_GRACE_NS = 100 * MS
"""A valve's report is asked for again this long after it should have come."""
DONE_TRIES = 3
ID_MASK = 0xFFFF_FFFF
"""Command ids travel modulo 2**32."""

REASONS = {
    Code.NO_LEASE: "the controller has no lease",
    Code.TOO_LONG: "longer than the controller allows",
    Code.RATION: "the controller's own ration of open time is used up",
    Code.BUSY: "the valve is open",
    Code.LATE: "it came to the controller too late, or to another boot",
}


class Port(Protocol):
    """What carries the bytes: `SerialPort`, or a test's own."""

    url: str

    def start(self) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def take(self) -> Iterable[Event]: ...
    def wait(self, timeout_s: float) -> None: ...
    def write(self, data: bytes) -> bool: ...
    def reopen(self, reason: str) -> None: ...


class Up(Struct, frozen=True):
    """Greeted: commands may be sent."""

    hello: HelloReply


class Down(Struct, frozen=True):
    """Not to be reached, and why. Comes once for a loss; whatever was under way is answered before it."""

    reason: str


class Answered(Struct, frozen=True):
    """A command was obeyed at `t_ns` (perf_counter)."""

    id: int
    t_ns: int


class Failed(Struct, frozen=True):
    """A command was refused by the controller, or never answered."""

    id: int
    reason: str


class Delivered(Struct, frozen=True):
    """The valve was open from `open_ns` to `close_ns` (perf_counter); `open_us` by the controller's clock."""

    id: int
    open_ns: int
    close_ns: int
    open_us: int


class Licked(Struct, frozen=True):
    count: int
    t_ns: int


class Wheeled(Struct, frozen=True):
    count: int
    t_us: int
    """Controller time, for speeds; `t_ns` (perf_counter) for everything else."""
    t_ns: int


News = Up | Down | Answered | Failed | Delivered | Licked | Wheeled | Status


class _Pending(Struct):
    """A command on its way."""

    id: int
    packet: Packet
    next_ns: int
    until_ns: int
    sent: int = 1
    answered: bool = False


class ControllerClient:
    """One controller at one port. All calls from one thread; nothing blocks but `settle`.

    A loss of the port, of its answers or of its boot ends every command under way: none is sent again after it.
    """

    def __init__(self, port: Port, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.port, self.now_ns = port, now_ns
        self.clock = ControllerClock()
        self.decoder = Decoder(FROM_CONTROLLER)
        self.hello: HelloReply | None = None
        """Of the controller that may be commanded now, its clock known; None while there is none."""
        self._greeting: HelloReply | None = None
        self.why_down = f"{port.url}: not opened yet"
        self.unexpected = 0
        """Valid packets that answer nothing that was asked."""
        self._open = False
        self._pending: dict[int, _Pending] = {}
        self._given_up: list[Failed] = []
        """Not told yet."""
        self._asked: dict[int, int] = {}
        self._safe_id: int | None = None
        """Of the SAFE that is not answered yet."""
        self._next_safe_ns = 0
        self._next_id = now_ns() & ID_MASK
        self._next_ask_ns = 0
        self._statuses = 0
        self._heard_ns = 0

    def start(self) -> None:
        self.port.start()

    def close(self) -> None:
        self.port.close()

    # ------------------------------------------------------------ what the service asks for

    def lease(self, until_ns: int) -> bool:
        """Renew the controller's lease, for as long as the chain is vouched for (perf_counter).

        False if nothing was sent: there is nobody, or it has not said yet that it is safe as it was told.
        """
        if self.hello is None or self._safe_id is not None:
            return False
        self._send(Lease(self._fresh_id(), *self._good(until_ns)))
        return True

    def valve(self, command_id: int, open_us: int, until_ns: int) -> None:
        """Open the valve; repeated until answered or `until_ns`. Answered or Failed follows, then Delivered."""
        self._command(command_id, Valve(command_id & ID_MASK, *self._good(until_ns), open_us), until_ns)

    def led(self, command_id: int, armed: bool, pulse_us: int, until_ns: int) -> None:
        """Arm or disarm the LED; repeated until answered or `until_ns`. Answered or Failed follows.

        An older one that is unanswered is given up: repeated behind the newer one it would undo it.
        """
        self._give_up("a newer command for the LED came", Led)
        self._command(command_id, Led(command_id & ID_MASK, *self._good(until_ns), int(armed), pulse_us), until_ns)

    def safe(self) -> None:
        """Valve closed, LED off and disarmed, now. Sent whoever is at the other end, and again until answered.

        What is unanswered is given up: repeated behind it, under the next lease, it would undo it.
        """
        self._give_up("made safe meanwhile", Valve | Led)
        if self._open:
            self._safe_id = self._fresh_id()
            self._say_safe(self._safe_id)

    def settle(self, timeout_ms: float) -> list[News]:
        """Wait until the last `safe` is answered, at most this long; what happened meanwhile."""
        news: list[News] = []
        end_ns = self.now_ns() + int(timeout_ms * MS)
        while self._safe_id is not None and self._open and self.now_ns() < end_ns:
            self.port.wait((end_ns - self.now_ns()) / 1e9)
            news += self.take()
        return news

    # ------------------------------------------------------------ what happened

    def fileno(self) -> int:
        return self.port.fileno()

    def due_ns(self) -> int | None:
        """When something must be sent or given up although nothing arrives (perf_counter)."""
        if self._given_up:
            return 0
        if not self._open:
            return None
        due = [self._next_ask_ns, *(p.next_ns for p in self._pending.values())]
        return min(due) if self._safe_id is None else min(*due, self._next_safe_ns)

    def take(self) -> list[News]:
        """What has happened; also sends what is due. Called when readable or due."""
        news: list[News] = [*self._given_up]
        self._given_up.clear()
        for event in self.port.take():
            if isinstance(event, Opened):
                self._opened()
            elif isinstance(event, Closed):
                news += self._lost(event.reason)
                self._open = False
            elif isinstance(event, Received) and self._open:
                for packet in self.decoder.feed(event.data):
                    news += self._received(packet, event.at_ns)
        news += self._due(self.now_ns())
        return news

    def _opened(self) -> None:
        self._open = True
        self.clock = ControllerClock()
        self.decoder.restart()
        self._asked.clear()
        self.port.write(b"\0")  # ends whatever piece the line was left with
        self.safe()  # what is still armed there was armed by somebody who is gone
        self._next_ask_ns = self._heard_ns = self.now_ns()
        self.why_down = f"{self.port.url}: open, but no controller answers yet"

    def _lost(self, reason: str) -> list[News]:
        """Nobody to command any more: everything under way is answered, nothing will be sent again."""
        self.why_down = reason
        self._safe_id = None
        news: list[News] = [
            Failed(p.id, f"{reason}; {'its report is missing' if p.answered else 'unanswered'}, counts as given")
            for p in self._pending.values()
        ]
        self._pending.clear()
        self._greeting = None
        if self.hello is not None:
            self.hello = None
            news.append(Down(reason))
        return news

    def _received(self, packet: Packet, at_ns: int) -> list[News]:
        if isinstance(packet, HelloReply):
            return self._greeted(packet)
        if isinstance(packet, Status):
            return self._status(packet, at_ns)
        if isinstance(packet, Ack):
            return self._ack(packet)
        if self.hello is None:
            self.unexpected += 1
            return []
        if isinstance(packet, PulseDone):
            pending = self._pending.pop(packet.id, None)
            if pending is None:
                self.unexpected += 1
                return []
            return self._delivered(pending, packet)
        if isinstance(packet, LickCount):
            return [Licked(packet.count, self.clock.to_host_ns(packet.t_us))]
        if isinstance(packet, WheelCount):
            return [Wheeled(packet.count, packet.t_us, self.clock.to_host_ns(packet.t_us))]
        return []

    def _greeted(self, hello: HelloReply) -> list[News]:
        if self._asked.pop(hello.id, None) is None:
            self.unexpected += 1
        elif self._greeting is not None:
            pass  # the answer to a query that was repeated
        elif hello.protocol != PROTOCOL:
            self.why_down = (
                f"{self.port.url}: the controller speaks protocol {hello.protocol}, expected {PROTOCOL}; flash firmware"
            )
        else:
            self._greeting = hello
            self._statuses = 0
            self._heard_ns = self._next_ask_ns = self.now_ns()
        return []

    def _status(self, status: Status, at_ns: int) -> list[News]:
        asked_ns = self._asked.pop(status.id, None)
        if asked_ns is None or self._greeting is None:
            self.unexpected += 1
            return []
        if status.boot_id != self._greeting.boot_id:
            news = self._lost(f"{self.port.url}: the controller has restarted")
            self._opened()
            return news
        self.clock.add(asked_ns, status.t_us, at_ns)
        self._heard_ns = at_ns
        if self.hello is not None:
            return [status]
        if self._safe_id is not None:
            return []  # what it was armed with before is not ended yet
        self.hello = self._greeting
        self.why_down = ""
        return [Up(self.hello), status]

    def _ack(self, ack: Ack) -> list[News]:
        if ack.id == self._safe_id:
            self._safe_id = None
            return []
        pending = self._pending.get(ack.id)
        if pending is None or pending.answered:
            if pending is None:
                self.unexpected += 1
            return []
        again, code = ack.code & AGAIN, ack.code & ~AGAIN
        if again and pending.sent == 1:  # not an echo of our own repeat: it was given before our time
            del self._pending[ack.id]
            return [Failed(pending.id, "the controller knows this id from before; it is done at most once")]
        if code != Code.OK:
            del self._pending[ack.id]
            reason = REASONS.get(Code(code)) if code in set(Code) else None
            return [Failed(pending.id, reason or f"the controller refused with unknown code {code}")]
        pending.answered = True
        if isinstance(pending.packet, Valve):
            pending.sent = 1
            pending.next_ns = self.now_ns() + pending.packet.open_us * 1000 + DONE_GRACE_NS
        else:
            del self._pending[ack.id]
        return [Answered(pending.id, self.clock.to_host_ns(ack.t_us))]

    def _delivered(self, pending: _Pending, done: PulseDone) -> list[News]:
        open_us = (done.close_us - done.open_us) & ID_MASK
        open_ns, close_ns = self.clock.to_host_ns(done.open_us), self.clock.to_host_ns(done.close_us)
        return [Delivered(pending.id, open_ns, close_ns, open_us)]

    # ------------------------------------------------------------ what is due

    def _due(self, now_ns: int) -> list[News]:
        if not self._open:
            return []
        news: list[News] = []
        if self._safe_id is not None and now_ns >= self._next_safe_ns:
            self._say_safe(self._safe_id)
        for pending in [p for p in self._pending.values() if now_ns >= p.next_ns]:
            news += self._again(pending, now_ns)
        if self._greeting is not None and now_ns - self._heard_ns > SILENT_NS:
            reason = f"{self.port.url}: no answer for {SILENT_NS / 1e9:g} s"
            news += self._lost(reason)
            self._open = False
            self.port.reopen(reason)
        elif now_ns >= self._next_ask_ns:
            self._ask(now_ns)
        return news

    def _again(self, pending: _Pending, now_ns: int) -> list[News]:
        if pending.answered:
            if pending.sent > DONE_TRIES:
                del self._pending[pending.packet.id]
                return [Failed(pending.id, "opened, but the controller's report never came; counts as given")]
            pending.next_ns = now_ns + DONE_GRACE_NS
        elif now_ns >= pending.until_ns:
            del self._pending[pending.packet.id]
            return [Failed(pending.id, "the controller did not answer in time; counts as given")]
        else:
            pending.next_ns = min(now_ns + RESEND_NS, pending.until_ns)
        pending.sent += 1
        self._send(pending.packet)
        return []

    def _give_up(self, why: str, kind: type[Packet] | UnionType) -> None:
        for packet_id, p in [*self._pending.items()]:
            if isinstance(p.packet, kind) and not p.answered:
                del self._pending[packet_id]
                self._given_up.append(Failed(p.id, f"{why}, before the controller answered; counts as given"))

    def _say_safe(self, packet_id: int) -> None:
        self._next_safe_ns = self.now_ns() + RESEND_NS
        self._send(Safe(packet_id))

    def _ask(self, now_ns: int) -> None:
        """The next hello or status query."""
        packet_id = self._fresh_id()
        self._asked[packet_id] = self.now_ns()
        if self._greeting is None:
            self._next_ask_ns = now_ns + HELLO_NS
            self._send(HelloQuery(packet_id))
        else:
            self._statuses += 1
            self._next_ask_ns = now_ns + (QUICK_STATUS_NS if self._statuses < QUICK_STATUSES else STATUS_NS)
            self._send(StatusQuery(packet_id))
        while len(self._asked) > 16:  # lost ones
            del self._asked[next(iter(self._asked))]

    def _good(self, until_ns: int) -> tuple[int, int]:
        """Boot id, and until when in the controller's time; with nobody there neither is worth anything."""
        return (self.hello.boot_id, self.clock.at_latest_us(until_ns)) if self.hello is not None else (0, 0)

    def _command(self, command_id: int, packet: Packet, until_ns: int) -> None:
        now_ns = self.now_ns()
        self._pending[packet.id] = _Pending(command_id, packet, min(now_ns + RESEND_NS, until_ns), until_ns)
        self._send(packet)

    def _send(self, packet: Packet) -> None:
        self.port.write(encode(packet))

    def _fresh_id(self) -> int:
        self._next_id = (self._next_id + 1) & ID_MASK
        return self._next_id
