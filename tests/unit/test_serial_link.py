"""The serial protocol under damage: whatever comes in, nothing crashes, and whole packets are found again."""

import itertools
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.actuation.link import (
    FROM_CONTROLLER,
    FROM_HOST,
    MAX_PACKET,
    Ack,
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

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
i32 = st.integers(-(2**31), 2**31 - 1)
name = st.binary(max_size=12).map(lambda b: b.rstrip(b"\0"))
from_host: st.SearchStrategy[Packet] = st.one_of(
    st.builds(HelloQuery, u32),
    st.builds(Lease, u32, u32, u32),
    st.builds(Valve, u32, u32, u32, u32),
    st.builds(Led, u32, u32, u32, u8, u32),
    st.builds(Safe, u32),
    st.builds(StatusQuery, u32),
)
from_controller: st.SearchStrategy[Packet] = st.one_of(
    st.builds(HelloReply, u32, u8, u32, u8, u8, u16, u16, u32, u16, u16, name),
    st.builds(Ack, u32, u8, u32),
    st.builds(PulseDone, u32, u32, u32),
    st.builds(LickCount, u32, u32, u32),
    st.builds(WheelCount, u32, i32, u32),
    st.builds(Status, u32, u32, u32, u8, u32, u32, u32, u16, u16, u32),
)
BOTH = FROM_HOST | FROM_CONTROLLER
any_packet = from_host | from_controller


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(any_packet, max_size=8), st.lists(st.integers(0, 500), max_size=8))
def test_packets_come_back_whatever_the_pieces(packets: list[Packet], cuts: list[int]) -> None:
    decoder = Decoder(BOTH)
    data = b"".join(encode(p) for p in packets)
    assert [p for piece in in_pieces(data, cuts) for p in decoder.feed(piece)] == packets
    assert not decoder.rejected


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_never_crashes(pieces: list[bytes]) -> None:
    decoder = Decoder(BOTH)
    for piece in pieces:
        decoder.feed(piece)
    assert decoder.rejected.total() <= b"".join(pieces).count(0)


@given(st.binary(max_size=300), st.lists(any_packet, min_size=1, max_size=4), st.lists(st.integers(0, 500), max_size=6))
def test_packets_after_garbage_are_found(garbage: bytes, packets: list[Packet], cuts: list[int]) -> None:
    decoder = Decoder(BOTH)
    data = garbage + b"\0" + b"".join(encode(p) for p in packets)
    found = [p for piece in in_pieces(data, cuts) for p in decoder.feed(piece)]
    assert found[-len(packets) :] == packets


def flip(data: bytes, at: int, with_: int) -> bytes:
    return data[:at] + bytes([data[at] ^ with_]) + data[at + 1 :]


def drop(data: bytes, at: int, _: int) -> bytes:
    return data[:at] + data[at + 1 :]


def insert(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at:]


@given(
    any_packet,
    any_packet,
    any_packet,
    st.sampled_from((flip, drop, insert)),
    st.integers(0, 500),
    st.integers(1, 255),
)
def test_one_damaged_byte_loses_at_most_two_packets_and_forges_none(
    hurt: Packet, neighbour: Packet, after: Packet, damage: Callable[[bytes, int, int], bytes], at: int, value: int
) -> None:
    decoder = Decoder(BOTH)
    encoded = encode(hurt)
    found = decoder.feed(damage(encoded, at % len(encoded), value) + encode(neighbour) + encode(after))
    assert found[-1] == after
    assert all(p in (hurt, neighbour, after) for p in found)
    if len(found) < 3:
        assert decoder.rejected.total() >= 1


class LongValve(Valve, frozen=True):
    """A valve packet of some other protocol."""

    LAYOUT: ClassVar[str] = "<IIIB"
    more: int


def test_every_kind_of_damage_is_counted_by_name() -> None:
    decoder = Decoder(FROM_HOST)
    good = encode(Valve(1, 2, 3, 50_000))
    decoder.feed(b"\x05\x01\0")  # says 4 more bytes, has 1
    decoder.feed(b"\x03\x01\x02\0")
    decoder.feed(flip(good, 6, 1))
    decoder.feed(encode(Ack(1, 0, 0)))  # the other direction
    decoder.feed(b"\x01" * (MAX_PACKET + 1) + b"\0")
    decoder.feed(encode(LongValve(1, 2, 3, 50_000, 7)))
    assert decoder.rejected == {"cobs": 1, "short": 1, "crc": 1, "kind": 1, "overlong": 1, "length": 1}
    assert decoder.feed(good) == [Valve(1, 2, 3, 50_000)]


def test_an_endless_stream_without_zero_keeps_no_memory_and_counts_once() -> None:
    decoder = Decoder(FROM_HOST)
    for _ in range(1000):
        decoder.feed(b"\x55" * 100)
    assert len(decoder._waiting) <= MAX_PACKET
    assert decoder.feed(b"\0" + encode(Safe(3))) == [Safe(3)]
    assert decoder.rejected == {"overlong": 1}


def test_zeros_between_packets_are_no_mistake() -> None:
    decoder = Decoder(FROM_HOST)
    assert decoder.feed(b"\0\0\0" + encode(Safe(1)) + b"\0") == [Safe(1)]
    assert not decoder.rejected


def test_value_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"Valve\(id=1, boot_id=2, until_us=3, open_us=-1\): a field doesn't fit"):
        encode(Valve(1, 2, 3, -1))
