"""What the microcontroller's firmware does, as a pure model: bytes and pin events in, bytes and pin edges out.

It obeys docs/protocol-serial.md and trusts the host in nothing: lease, largest open time, ration and LED duty are
its own. Time is microseconds since boot and is passed in; deadlines are met at their own time, as a timer would.
"""

from collections import OrderedDict
from typing import Literal

from msgspec import Struct

from loop2p.actuation.link import (
    AGAIN,
    AHEAD_US,
    FROM_HOST,
    MICROS_WRAP,
    PROTOCOL,
    Ack,
    Code,
    Decoder,
    Flag,
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
    Timely,
    Valve,
    WheelCount,
    encode,
)

NAME, MAJOR, MINOR = b"loop2p-sim", 2, 0
KEPT_IDS = 64
WHEEL_EVERY_US = 20_000
"""50 Hz."""
RATION_OVER_US = 12 * 3600 * 1_000_000
"""A used-up ration of open time is whole again after 12 hours: every day starts with a full one."""
FULL_U16 = 0xFFFF

Pin = Literal["valve", "led"]


class FirmwareLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the firmware enforces whatever the host says; compiled in on real hardware."""

    lease_ms: int = 200
    max_open_ms: int = 250
    ration_open_ms: int = 30_000
    """In 12 hours."""
    led_duty_permille: int = 200
    led_window_ms: int = 100
    lick_debounce_ms: int = 50


class Edge(Struct, frozen=True):
    """A pin changed."""

    pin: Pin
    level: int
    t_us: int
    """Controller time, unwrapped."""


class ControllerCore:
    """One boot of the controller. Times must not go back."""

    def __init__(self, boot_id: int, limits: FirmwareLimits | None = None) -> None:
        self.boot_id, self.limits = boot_id, limits or FirmwareLimits()
        self.edges: list[Edge] = []
        """Pin edges since `take_edges`."""
        self.decoder = Decoder(FROM_HOST)
        self._out = bytearray()
        self._booted_us: int | None = None
        self._lease_until_us: int | None = None
        self._codes: OrderedDict[int, Code] = OrderedDict()
        self._last_done: PulseDone | None = None
        # valve
        self._valve_id = 0
        self._opened_us: int | None = None
        self._close_us = 0
        self._open_total_us = 0
        self._spent_us = 0.0
        self._spent_at_us = 0
        # LED
        self._pulse_us = 0
        """0 while disarmed."""
        self._lit_us: int | None = None
        self._led_off_us = 0
        self._lit_total_us = 0
        self._pulses = self._skipped = 0
        self._credit_ns = self._credit_cap_us * 1000
        self._credit_at_us = 0
        # animal
        self._licks = 0
        self._last_lick_us: int | None = None
        self._wheel = 0
        self._event_id = 0
        self._next_wheel_us: int | None = None

    # ------------------------------------------------------------ in

    def receive(self, data: bytes, now_us: int) -> None:
        """Bytes from the host."""
        self.advance(now_us)
        for packet in self.decoder.feed(data):
            self._obey(packet, now_us)

    def lick(self, now_us: int) -> None:
        """The lick pin rose. Rises within the debounce time of the last counted one are contact noise."""
        self.advance(now_us)
        if self._last_lick_us is None or now_us - self._last_lick_us >= self.limits.lick_debounce_ms * 1000:
            self._last_lick_us = now_us
            self._licks += 1
            self._send(LickCount(self._count(), self._licks, now_us % MICROS_WRAP))

    def wheel(self, counts: int, now_us: int) -> None:
        """The encoder moved by this many counts, signed."""
        self.advance(now_us)
        self._wheel = (self._wheel + counts + 2**31) % 2**32 - 2**31

    def frame(self, now_us: int) -> None:
        """The microscope's frame trigger rose: while armed, this and nothing else lights the LED."""
        self.advance(now_us)
        if not self._pulse_us:
            return
        refilled_ns = self._credit_ns + (now_us - self._credit_at_us) * self.limits.led_duty_permille
        self._credit_ns = min(self._credit_cap_us * 1000, refilled_ns)
        self._credit_at_us = now_us
        if self._lit_us is not None or self._credit_ns < self._pulse_us * 1000:
            self._skipped += 1
            return
        self._credit_ns -= self._pulse_us * 1000
        self._lit_us, self._led_off_us = now_us, now_us + self._pulse_us
        self._pulses += 1
        self.edges.append(Edge("led", 1, now_us))

    def advance(self, now_us: int) -> None:
        """Meet every deadline up to now, in order."""
        if self._booted_us is None:
            self._booted_us = self._spent_at_us = self._credit_at_us = now_us
            self._next_wheel_us = now_us + WHEEL_EVERY_US
        while (due_us := self.next_due_us()) is not None and due_us <= now_us:
            if self._opened_us is not None and due_us == self._close_us:
                self._close_valve(due_us)
            elif self._lit_us is not None and due_us == self._led_off_us:
                self._led_off(due_us)
            elif due_us == self._lease_until_us:
                self._make_safe(due_us)
            else:
                self._report_wheel(due_us, now_us)

    # ------------------------------------------------------------ out

    def next_due_us(self) -> int | None:
        """When `advance` must be called; None before the first call."""
        due = [
            self._next_wheel_us,
            self._lease_until_us,
            self._close_us if self._opened_us is not None else None,
            self._led_off_us if self._lit_us is not None else None,
        ]
        return min((d for d in due if d is not None), default=None)

    def take_edges(self) -> list[Edge]:
        edges, self.edges = self.edges, []
        return edges

    def take_output(self) -> bytes:
        """Bytes for the host."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def power_off(self, now_us: int) -> None:
        """The supply goes: pins fall."""
        self.advance(now_us)
        self._make_safe(now_us)

    # ------------------------------------------------------------ what packets do

    def _obey(self, packet: Packet, now_us: int) -> None:
        if isinstance(packet, Lease):
            good_us = self._good_for_us(packet, now_us)
            if good_us > 0:
                self._lease_until_us = now_us + min(good_us, self.limits.lease_ms * 1000)
        elif isinstance(packet, Valve | Led):
            self._command(packet, now_us)
        elif isinstance(packet, Safe):
            self._make_safe(now_us)
            self._ack(packet.id, Code.OK, now_us)
        elif isinstance(packet, HelloQuery):
            self._hello(packet.id)
        elif isinstance(packet, StatusQuery):
            self._status(packet.id, now_us)

    def _good_for_us(self, packet: Timely, now_us: int) -> int:
        """0 if it is too late for it, or if it was for another boot."""
        left_us = (packet.until_us - now_us) % MICROS_WRAP
        return left_us if packet.boot_id == self.boot_id and left_us <= AHEAD_US else 0

    def _command(self, packet: Valve | Led, now_us: int) -> None:
        known = self._codes.get(packet.id)
        if known is not None:
            self._ack(packet.id, known | AGAIN, now_us)
            if self._last_done is not None and self._last_done.id == packet.id:
                self._send(self._last_done)
            return
        code = self._judge(packet, now_us)
        if code != Code.LATE:  # old ones, said again, must not push out the newest
            self._codes[packet.id] = code
            if len(self._codes) > KEPT_IDS:
                self._codes.popitem(last=False)
        self._ack(packet.id, code, now_us)
        if code == Code.OK:
            if isinstance(packet, Valve):
                self._open_valve(packet, now_us)
            else:
                self._arm(packet, now_us)

    def _judge(self, packet: Valve | Led, now_us: int) -> Code:
        if isinstance(packet, Led) and packet.armed != 1:
            return Code.OK
        if not self._good_for_us(packet, now_us):
            return Code.LATE
        if self._lease_until_us is None:
            return Code.NO_LEASE
        if isinstance(packet, Led):
            return Code.OK if 0 < packet.pulse_us <= self._credit_cap_us else Code.TOO_LONG
        if packet.open_us > self.limits.max_open_ms * 1000:
            return Code.TOO_LONG
        if self._opened_us is not None:
            return Code.BUSY
        refill = self.limits.ration_open_ms * 1000 / RATION_OVER_US
        self._spent_us = max(0.0, self._spent_us - (now_us - self._spent_at_us) * refill)
        self._spent_at_us = now_us
        return Code.OK if self._spent_us + packet.open_us <= self.limits.ration_open_ms * 1000 else Code.RATION

    # ------------------------------------------------------------ pins

    def _open_valve(self, packet: Valve, now_us: int) -> None:
        if packet.open_us == 0:
            self._report_pulse(packet.id, now_us, now_us)
            return
        self._valve_id, self._opened_us, self._close_us = packet.id, now_us, now_us + packet.open_us
        self._spent_us += packet.open_us
        self.edges.append(Edge("valve", 1, now_us))

    def _close_valve(self, now_us: int) -> None:
        opened_us = self._opened_us
        if opened_us is not None:
            self._opened_us = None
            self._open_total_us += now_us - opened_us
            self.edges.append(Edge("valve", 0, now_us))
            self._report_pulse(self._valve_id, opened_us, now_us)

    def _arm(self, packet: Led, now_us: int) -> None:
        self._pulse_us = packet.pulse_us if packet.armed == 1 else 0
        if not self._pulse_us:
            self._led_off(now_us)

    def _led_off(self, now_us: int) -> None:
        lit_us = self._lit_us
        if lit_us is not None:
            self._lit_us = None
            self._lit_total_us += now_us - lit_us
            self.edges.append(Edge("led", 0, now_us))

    def _make_safe(self, now_us: int) -> None:
        self._lease_until_us = None
        self._pulse_us = 0
        self._close_valve(now_us)
        self._led_off(now_us)

    @property
    def _credit_cap_us(self) -> int:
        """On time the LED may borrow: its largest duty over the window."""
        return self.limits.led_duty_permille * self.limits.led_window_ms

    # ------------------------------------------------------------ packets

    def _hello(self, packet_id: int) -> None:
        limits = self.limits
        self._send(
            HelloReply(
                packet_id,
                PROTOCOL,
                self.boot_id,
                MAJOR,
                MINOR,
                limits.lease_ms,
                limits.max_open_ms,
                limits.ration_open_ms,
                limits.led_duty_permille,
                limits.led_window_ms,
                NAME,
            )
        )

    def _status(self, packet_id: int, now_us: int) -> None:
        flags = (
            Flag.LEASE * (self._lease_until_us is not None)
            | Flag.VALVE_OPEN * (self._opened_us is not None)
            | Flag.LED_ARMED * bool(self._pulse_us)
            | Flag.LED_ON * (self._lit_us is not None)
        )
        self._send(
            Status(
                packet_id,
                now_us % MICROS_WRAP,
                self.boot_id,
                flags,
                self._open_total_us // 1000,
                self._lit_total_us // 1000,
                self._pulses,
                min(self._skipped, FULL_U16),
                min(self.decoder.rejected.total(), FULL_U16),
                (now_us - (self._booted_us or 0)) // 1_000_000,
            )
        )

    def _ack(self, packet_id: int, code: int, now_us: int) -> None:
        self._send(Ack(packet_id, code, now_us % MICROS_WRAP))

    def _report_pulse(self, packet_id: int, open_us: int, close_us: int) -> None:
        self._last_done = PulseDone(packet_id, open_us % MICROS_WRAP, close_us % MICROS_WRAP)
        self._send(self._last_done)

    def _report_wheel(self, due_us: int, now_us: int) -> None:
        """The newest of the reports that are due: a loop that fell behind does not make up for the others."""
        due_us += (now_us - due_us) // WHEEL_EVERY_US * WHEEL_EVERY_US
        self._next_wheel_us = due_us + WHEEL_EVERY_US
        self._send(WheelCount(self._count(), self._wheel, due_us % MICROS_WRAP))

    def _count(self) -> int:
        self._event_id = (self._event_id + 1) & 0xFFFF_FFFF
        return self._event_id

    def _send(self, packet: Packet) -> None:
        self._out += encode(packet)
