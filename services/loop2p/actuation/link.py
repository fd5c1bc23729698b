"""The serial protocol between the actuation service and the microcontroller (docs/protocol-serial.md).

A packet is `kind u8, id u32, payload, crc u16`, little-endian, COBS-encoded and ended by one 0x00. It is whole or it
is worth nothing: after damage the next 0x00 starts afresh, and whatever was lost is counted.
"""

import binascii
import struct
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar

from cobs import cobs
from msgspec import Struct, structs

PROTOCOL = 2
"""Number of this protocol; the hello reply carries it."""
MAX_PACKET = 64
"""Bytes between two 0x00 that a receiver must be able to hold; anything longer is damage."""
MICROS_WRAP = 1 << 32
"""Controller time is microseconds in 32 bits: it wraps every 71.6 minutes."""
AHEAD_US = 1_000_000
"""What says that it is good for longer than this is from before the last wrap: to the controller it is past."""


class Code(IntEnum):
    """The controller's answer to a command."""

    OK = 0
    NO_LEASE = 1
    """The lease has run out, or was for another boot: only SAFE and disarming are obeyed."""
    TOO_LONG = 2
    """The valve's largest open time, or the largest LED pulse."""
    RATION = 3
    """The controller's own ration of open time is used up."""
    BUSY = 4
    """The valve is open."""
    LATE = 5
    """`until_us` is past, or it was for another boot. Such an id is not kept."""


AGAIN = 0x80
"""Added to a code: this id was answered before, with that code; nothing was done this time."""


class Flag(IntEnum):
    """Bits of Status.flags."""

    LEASE = 1
    VALVE_OPEN = 2
    LED_ARMED = 4
    LED_ON = 8


class Packet(Struct, frozen=True):
    """Base of every packet. `id` names a request and comes back in its answer; in events it counts them."""

    KIND: ClassVar[int] = 0
    LAYOUT: ClassVar[str] = "<"
    """struct layout of the payload: the fields after `id`, in order."""

    id: int


# ---------------------------------------------------------------- host -> controller


class HelloQuery(Packet, frozen=True):
    """Who are you? The only handshake: a banner at boot is never waited for. Answered by HelloReply."""

    KIND: ClassVar[int] = 0x01


class Timely(Packet, frozen=True):
    """Base of what moves something: good until a time, in one boot. Held up on its way or said again it is nothing."""

    LAYOUT: ClassVar[str] = "<II"
    boot_id: int
    """A controller that has restarted since obeys nothing until it has been greeted again."""
    until_us: int
    """In the controller's own time; at most `AHEAD_US` from now."""


class Lease(Timely, frozen=True):
    """The host vouches for the whole chain until then. Not answered."""

    KIND: ClassVar[int] = 0x02


class Valve(Timely, frozen=True):
    """Open the valve for `open_us`; 0 goes the same way and moves nothing. Answered by Ack, then PulseDone."""

    KIND: ClassVar[int] = 0x03
    LAYOUT: ClassVar[str] = "<III"
    open_us: int


class Led(Timely, frozen=True):
    """Arm or disarm: while armed, each frame trigger fires a pulse of `pulse_us`. Answered by Ack.

    Disarming is obeyed at any time and in any boot.
    """

    KIND: ClassVar[int] = 0x04
    LAYOUT: ClassVar[str] = "<IIBI"
    armed: int
    pulse_us: int


class Safe(Packet, frozen=True):
    """Valve closed, LED off and disarmed, lease ended, now. Answered by Ack, always OK."""

    KIND: ClassVar[int] = 0x05


class StatusQuery(Packet, frozen=True):
    """How are you, and what time is it? Answered by Status at once: this is also the clock exchange."""

    KIND: ClassVar[int] = 0x06


# ---------------------------------------------------------------- controller -> host


class HelloReply(Packet, frozen=True):
    """Who I am and what I enforce whatever the host says."""

    KIND: ClassVar[int] = 0x81
    LAYOUT: ClassVar[str] = "<BIBBHHIHH12s"
    protocol: int
    boot_id: int
    """Differs from boot to boot."""
    major: int
    minor: int
    """Firmware version."""
    lease_ms: int
    """Longest lease it grants."""
    max_open_ms: int
    ration_open_ms: int
    """Open time it allows in 12 hours."""
    led_duty_permille: int
    led_window_ms: int
    """The LED may borrow at most duty x window of on time; also its longest pulse."""
    name: bytes
    """Firmware name, ASCII, at most 12 bytes."""


class Ack(Packet, frozen=True):
    """The command with this id was obeyed or not; `t_us` is when it was."""

    KIND: ClassVar[int] = 0x82
    LAYOUT: ClassVar[str] = "<BI"
    code: int
    t_us: int


class PulseDone(Packet, frozen=True):
    """The valve was open from `open_us` to `close_us`; shorter than asked if it was made safe in between."""

    KIND: ClassVar[int] = 0x83
    LAYOUT: ClassVar[str] = "<II"
    open_us: int
    close_us: int


class LickCount(Packet, frozen=True):
    """A lick: all licks since boot, and when this one began."""

    KIND: ClassVar[int] = 0x84
    LAYOUT: ClassVar[str] = "<II"
    count: int
    t_us: int


class WheelCount(Packet, frozen=True):
    """Encoder counts since boot, signed. 50 Hz."""

    KIND: ClassVar[int] = 0x85
    LAYOUT: ClassVar[str] = "<iI"
    count: int
    t_us: int


class Status(Packet, frozen=True):
    """State and totals since boot."""

    KIND: ClassVar[int] = 0x86
    LAYOUT: ClassVar[str] = "<IIBIIIHHI"
    t_us: int
    boot_id: int
    flags: int
    valve_open_ms: int
    led_on_ms: int
    led_pulses: int
    led_skipped: int
    """Frame triggers that fired nothing although armed: duty limit, or the LED was still on. Stays at 65535."""
    rejected: int
    """Damaged or unknown packets. Stays at 65535."""
    uptime_s: int


FROM_HOST: dict[int, type[Packet]] = {p.KIND: p for p in (HelloQuery, Lease, Valve, Led, Safe, StatusQuery)}
FROM_CONTROLLER: dict[int, type[Packet]] = {
    p.KIND: p for p in (HelloReply, Ack, PulseDone, LickCount, WheelCount, Status)
}
"""kind -> packet, by direction."""


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE: polynomial 0x1021, start 0xFFFF, not reflected."""
    return binascii.crc_hqx(data, 0xFFFF)


def encode(packet: Packet) -> bytes:
    """The bytes of a packet on the wire, its ending 0x00 included. Raises ValueError for a value that doesn't fit."""
    packet_id, *payload = structs.astuple(packet)
    try:
        raw = struct.pack("<BI", packet.KIND, packet_id) + struct.pack(packet.LAYOUT, *payload)
    except struct.error as error:
        raise ValueError(f"{packet}: a field doesn't fit its place on the wire: {error}") from None
    return bytes(cobs.encode(raw + struct.pack("<H", crc16(raw)))) + b"\0"


class Decoder:
    """Bytes in any pieces -> packets of one direction. Never raises; `rejected` counts what was bad, by reason."""

    def __init__(self, kinds: dict[int, type[Packet]]) -> None:
        self.kinds = kinds
        self.rejected: Counter[str] = Counter()
        self._waiting = bytearray()
        self._overlong = False

    def restart(self) -> None:
        """Forget an unfinished packet: a new connection begins."""
        self._waiting.clear()
        self._overlong = False

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes; the packets that they complete."""
        first, *rest = data.split(b"\0")
        self._collect(first)
        packets: list[Packet] = []
        for piece in rest:
            packets += self._end()
            self._collect(piece)
        return packets

    def _collect(self, piece: bytes) -> None:
        self._waiting += piece
        if len(self._waiting) > MAX_PACKET:
            self._overlong = True
            self._waiting.clear()

    def _end(self) -> Iterable[Packet]:
        encoded, overlong = bytes(self._waiting), self._overlong
        self.restart()
        if overlong:
            self.rejected["overlong"] += 1
        elif encoded:  # two 0x00 in a row are no packet and no mistake
            packet = self._decode(encoded)
            if isinstance(packet, Packet):
                return (packet,)
            self.rejected[packet] += 1
        return ()

    def _decode(self, encoded: bytes) -> Packet | str:
        """The packet, or what is wrong with it."""
        try:
            raw = bytes(cobs.decode(encoded))
        except cobs.DecodeError:
            return "cobs"
        if len(raw) < 7:
            return "short"
        body, (crc,) = raw[:-2], struct.unpack("<H", raw[-2:])
        if crc16(body) != crc:
            return "crc"
        kind, packet_id = struct.unpack("<BI", body[:5])
        packet = self.kinds.get(kind)
        if packet is None:
            return "kind"
        if len(body) - 5 != struct.calcsize(packet.LAYOUT):
            return "length"
        fields = struct.unpack(packet.LAYOUT, body[5:])
        return packet(packet_id, *(f.rstrip(b"\0") if isinstance(f, bytes) else f for f in fields))
