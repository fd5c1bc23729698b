"""Whatever comes off the wire: it is a message, or a WireError that says why not. Nothing else, ever."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest

from loop2p.protocol import MESSAGES, WireError, control, generate, open_parts

MESSAGES_TRIED = 120_000
REQUESTS_TRIED = 30_000
MEMORY_MB = 150
"""How much the process may grow over all of it; one body alone may be 4 MB."""

VECTORS: dict[str, bytes] = {Path(n).name: d for n, d in generate.files().items() if n.endswith(".msgpack")}
HEADERS = [VECTORS["header.minimal.msgpack"], VECTORS["header.full.msgpack"]]
BODIES = [(t, VECTORS[f"{t}.{size}.msgpack"]) for t in MESSAGES for size in ("minimal", "full")]

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "\u00b5" * 50, "\0", "x" * 70_000, b"", b"\0", b"\xff" * 7, b"\0" * 70_000, [], [[]], [None] * 300, {},
    {"a": {}}, {1: 2}, {None: None}, msgpack.ExtType(1, b"abc"), msgpack.Timestamp(2**33, 5), [[[[[]]]]],
]  # fmt: skip
LYING_LENGTHS = [b"\xdb", b"\xc6", b"\xdd", b"\xdf", b"\xc9"]
"""MessagePack's str, bin, array, map and ext with a length of 32 bits."""


# Each mutation takes good bytes and gives bad ones (or, by chance, good ones again).


def flip_bits(r: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(r.randint(1, 4)):
        changed[r.randrange(len(changed))] ^= 1 << r.randrange(8)
    return bytes(changed)


def truncate(r: random.Random, data: bytes) -> bytes:
    return data[: r.randrange(len(data))]


def insert(r: random.Random, data: bytes) -> bytes:
    at = r.randrange(len(data) + 1)
    return data[:at] + r.randbytes(r.randint(1, 9)) + data[at:]


def splice(r: random.Random, data: bytes) -> bytes:
    other = r.choice(BODIES)[1]
    return data[: r.randrange(len(data))] + other[r.randrange(len(other)) :]


def swap_type(r: random.Random, data: bytes) -> bytes:
    """Put something odd in the place of one value, at any depth, or of a key."""
    content = msgpack.unpackb(data)
    place, key = content, r.choice(list(content))
    while isinstance(place[key], dict) and place[key] and r.random() < 0.7:
        place = place[key]
        key = r.choice(list(place))
    if r.random() < 0.1:
        place[r.choice(["", "x", 3, None, b"k"])] = place.pop(key)
    else:
        place[key] = r.choice(ODD)
    return bytes(msgpack.packb(content))


def drop_keys(r: random.Random, data: bytes) -> bytes:
    content = msgpack.unpackb(data)
    for key in r.sample(list(content), r.randint(1, len(content))):
        del content[key]
    return bytes(msgpack.packb(content))


def nest_deeply(r: random.Random, data: bytes) -> bytes:
    depth = r.choice([10, 900, 1100, 20_000])
    deep = r.choice([b"\x91", b"\x81\xa1a"]) * depth + r.choice([b"", b"\xc0"])
    if r.random() < 0.5:
        return deep
    return bytes([min(data[0] + 1, 0x8F)]) + data[1:] + b"\xa1q" + deep  # as the value of one more key


def lie_about_lengths(r: random.Random, data: bytes) -> bytes:
    at = r.randrange(len(data))
    length = r.choice([2**32 - 1, 2**31, 10**6, len(data)])
    return data[:at] + r.choice(LYING_LENGTHS) + length.to_bytes(4, "big") + data[at:]


def noise(r: random.Random, data: bytes) -> bytes:
    return r.randbytes(r.randrange(64))


MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    flip_bits, truncate, insert, splice, swap_type, drop_keys, nest_deeply, lie_about_lengths, noise,
]  # fmt: skip
WEIGHTS = [4, 3, 3, 3, 4, 2, 0.2, 3, 1]


def malformed_parts(r: random.Random) -> list[bytes]:
    """A message whose body, header, topic or number of parts is wrong."""
    topic, body = r.choice(BODIES)
    parts = [topic.encode(), r.choice(HEADERS), body]
    mutate = r.choices(MUTATIONS, WEIGHTS)[0]
    where = r.random()
    if where < 0.6:
        parts[2] = mutate(r, body)
    elif where < 0.85:
        parts[1] = mutate(r, parts[1])
    elif where < 0.92:
        parts[0] = r.choice([mutate(r, HEADERS[0])[:80], flip_bits(r, parts[0]), r.choice(BODIES)[0].encode(), b""])
    else:
        r.shuffle(parts)
        parts = r.choice([parts, parts[: r.randrange(3)], parts + [r.randbytes(9)] * r.randint(1, 12), parts * 2])
    return parts


def grown_mb(before: int) -> float:
    return float(psutil.Process().memory_info().rss - before) / 1e6


@pytest.mark.parametrize("seed", range(4))
def test_only_a_wire_error_comes_out_of_malformed_messages(seed: int) -> None:
    r = random.Random(seed)
    before = psutil.Process().memory_info().rss
    seen: Counter[str] = Counter()
    lengths = []
    for _ in range(MESSAGES_TRIED // 4):
        parts = malformed_parts(r)
        try:
            message = open_parts(parts).message
        except WireError as error:
            lengths.append(len(str(error)))
            seen["refused"] += 1
        else:
            assert type(message) in MESSAGES.values()
            seen["read"] += 1
    assert seen.total() == MESSAGES_TRIED // 4
    assert seen["refused"] > seen["read"], "the mutations are too harmless to test anything"
    assert seen["read"] > 0
    assert min(lengths) > 0
    assert max(lengths) < 600
    assert grown_mb(before) < MEMORY_MB


def test_only_a_wire_error_comes_out_of_malformed_requests_and_replies() -> None:
    r = random.Random(9)
    controls = [data for name, data in VECTORS.items() if name.startswith("control.")]
    before = psutil.Process().memory_info().rss
    lengths = []
    for k in range(REQUESTS_TRIED):
        data = r.choices(MUTATIONS, WEIGHTS)[0](r, r.choice(controls))
        try:
            (control.decode_request if k % 2 else control.decode_reply)(data)
        except WireError as error:
            lengths.append(len(str(error)))
    assert REQUESTS_TRIED / 2 < len(lengths) < REQUESTS_TRIED
    assert min(lengths) > 0
    assert max(lengths) < 600
    assert grown_mb(before) < MEMORY_MB


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda m: m.__name__)
def test_every_mutation_makes_something_malformed(mutate: Callable[[random.Random, bytes], bytes]) -> None:
    """Else the counts above would mean nothing."""
    r = random.Random(5)
    refused = 0
    for _ in range(200):
        topic, body = r.choice(BODIES)
        try:
            _ = open_parts([topic.encode(), HEADERS[0], mutate(r, body)]).message
        except WireError:
            refused += 1
    assert refused > 20


def test_a_lying_length_takes_no_memory() -> None:
    """4 GB are announced in 5 bytes."""
    before = psutil.Process().memory_info().rss
    for kind in LYING_LENGTHS:
        for topic, body in BODIES:
            one_more_key = bytes([body[0] + 1]) + body[1:] + b"\xa1q" if body[0] < 0x8F else body[:-1]
            for data in (kind + b"\xff" * 4, one_more_key + kind + b"\xff" * 4):
                with pytest.raises(WireError):
                    _ = open_parts([topic.encode(), HEADERS[0], data]).message
    assert grown_mb(before) < 50
