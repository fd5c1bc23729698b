"""Golden bytes of the serial protocol: what a firmware in any language must say and understand."""

import re
from pathlib import Path

import pytest

from loop2p.actuation.link import (
    AGAIN,
    FROM_CONTROLLER,
    FROM_HOST,
    MAX_PACKET,
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
    Valve,
    WheelCount,
    crc16,
    encode,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol-serial.md"

VECTORS: dict[str, tuple[Packet, str]] = {
    "hello query": (HelloQuery(1), "030101010103e9cd00"),
    "lease": (Lease(2, 0x12345678, 900_000), "03020201010878563412a0bb0d0394ba00"),
    "valve, 50 ms": (Valve(3, 0x12345678, 900_000, 50_000), "03030301010878563412a0bb0d0350c30103d98f00"),
    "valve, nothing": (Valve(4, 0x12345678, 900_000, 0), "03030401010878563412a0bb0d0101010103daed00"),
    "led, arm 6 ms": (Led(5, 0x12345678, 900_000, 1, 6_000), "03040501010878563412a0bb0d040170170103633800"),
    "led, disarm": (Led(6, 0x12345678, 900_000, 0, 0), "03040601010878563412a0bb0d010101010103922700"),
    "safe": (Safe(7), "030507010103766300"),
    "status query": (StatusQuery(8), "0306080101034a5900"),
    "hello reply": (
        HelloReply(1, 2, 0x12345678, 2, 0, 200, 250, 30_000, 200, 100, b"loop2p-sim"),
        "03810101010702785634120202c802fa0330750102c802640b6c6f6f7032702d73696d0103828000",
    ),
    "ack, ok": (Ack(3, Code.OK, 1_000_000), "0382030101010440420f03acfb00"),
    "ack, no lease, again": (Ack(3, Code.NO_LEASE | AGAIN, 1_000_100), "03820301010581a4420f03363d00"),
    "pulse done": (PulseDone(3, 1_000_000, 1_050_000), "03830301010440420f049005100356f700"),
    "lick": (LickCount(9, 17, 2_000_000), "0384090101021101010480841e0365e000"),
    "wheel": (WheelCount(10, -250, 2_020_000), "03850a01010806ffffffa0d21e03742a00"),
    "status": (
        Status(8, 4_294_967_295, 0x12345678, Flag.LEASE | Flag.LED_ARMED, 6_400, 12_345, 2_057, 3, 1, 4_294),
        "03860801010affffffff785634120502190103393001030908010203020103c6100103fdeb00",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_packet_has_its_golden_bytes(name: str) -> None:
    packet, golden = VECTORS[name]
    assert encode(packet).hex() == golden


@pytest.mark.parametrize("name", VECTORS)
def test_golden_bytes_give_the_packet(name: str) -> None:
    packet, golden = VECTORS[name]
    decoder = Decoder(FROM_HOST if packet.KIND < 0x80 else FROM_CONTROLLER)
    assert decoder.feed(bytes.fromhex(golden)) == [packet]
    assert not decoder.rejected


def test_every_kind_has_a_vector() -> None:
    assert {packet.KIND for packet, _ in VECTORS.values()} == set(FROM_HOST) | set(FROM_CONTROLLER)


def test_checksum_is_ccitt_false() -> None:
    assert crc16(b"123456789") == 0x29B1  # the published check value


def test_packet_built_by_hand_is_understood() -> None:
    # safe, id 7: 05 | 07 00 00 00 | crc; zeros are replaced by the distance to the next, as COBS says
    raw = bytes([5, 7, 0, 0, 0])
    crc = 0xFFFF
    for byte in raw:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    low, high = crc & 0xFF, crc >> 8
    assert 0 not in (low, high)
    assert Decoder(FROM_HOST).feed(bytes([3, 5, 7, 1, 1, 3, low, high, 0])) == [Safe(7)]


def test_packets_are_small_enough_for_a_small_controller() -> None:
    assert max(len(bytes.fromhex(golden)) for _, golden in VECTORS.values()) <= MAX_PACKET


def test_document_shows_the_same_bytes() -> None:
    shown = dict(re.findall(r"^\| ([a-z0-9, ]+?) \|[^|]*\| `([0-9a-f]+)` \|$", DOCUMENT.read_text(), re.MULTILINE))
    assert shown == {name: golden for name, (_, golden) in VECTORS.items()}


def test_document_names_every_kind_and_code() -> None:
    text = DOCUMENT.read_text()
    for kind in set(FROM_HOST) | set(FROM_CONTROLLER):
        assert f"| 0x{kind:02X} |" in text
    for code in Code:
        assert f"| {code.value} | {code.name} |" in text
