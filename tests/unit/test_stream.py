"""The meaning of a microscope's bytes: frames, numbering, handshake. No sockets."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.imaging.stream import Format, FrameRing, HandshakeError, Numbering, guess_geometry, read_handshake


def frames_of(ring: FrameRing, data: bytes, sizes: list[int]) -> list[np.ndarray]:
    """Feed `data` in pieces of at most these sizes, over and over."""
    got, at, k = [], 0, 0
    while at < len(data):
        while (pixels := ring.take()) is not None:
            got.append(pixels.copy())
        room = ring.room()
        n = min(sizes[k % len(sizes)], len(room), len(data) - at)
        room[:n] = data[at : at + n]
        ring.add(n)
        at, k = at + n, k + 1
    while (pixels := ring.take()) is not None:
        got.append(pixels.copy())
    return got


@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=20),
    dtype=st.sampled_from(["u1", "u2"]),
    order=st.sampled_from(["column", "row"]),
    slots=st.integers(2, 5),
    n=st.integers(0, 12),
    tail=st.integers(0, 10),
)
def test_any_cutting_of_the_stream_gives_the_same_frames(sizes, dtype, order, slots, n, tail):
    movie = np.random.default_rng(n).integers(0, 256, (n, 5, 3)).astype(f"<{dtype}")
    data = b"".join(image.tobytes("F" if order == "column" else "C") for image in movie) + bytes(tail)
    ring = FrameRing(Format(5, 3, dtype, order), slots)
    got = frames_of(ring, data, sizes)
    expected = n + tail // ring.frame_bytes
    assert len(got) == expected
    assert all(np.array_equal(a, b) for a, b in zip(got, movie, strict=False))
    assert ring.over == tail % ring.frame_bytes


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=10), slots=st.integers(2, 4))
def test_a_frame_stays_as_it_is_until_the_next_is_taken(sizes, slots):
    form = Format(2, 3, "u1", "row")
    ring, held, data = FrameRing(form, slots), None, bytes(np.arange(20 * 6, dtype=np.uint8))
    at = taken = k = 0
    while taken < 20:
        if (pixels := ring.take()) is not None:
            held, taken = pixels, taken + 1
            assert held.tobytes() == data[(taken - 1) * 6 : taken * 6]
            continue
        room = ring.room()
        n = min(sizes[k % len(sizes)], len(room), len(data) - at)
        room[:n] = data[at : at + n]
        ring.add(n)
        at, k = at + n, k + 1
        if held is not None and not ring.ready:
            assert held.tobytes() == data[(taken - 1) * 6 : taken * 6]


def test_frames_are_views_of_the_memory_the_bytes_came_into():
    ring = FrameRing(Format(4, 3, "u2", "column"))
    room = ring.room()
    room[:24] = bytes(range(24))
    ring.add(24)
    pixels = ring.take()
    assert pixels.shape == (4, 3)
    assert pixels.T.flags.c_contiguous
    assert np.shares_memory(pixels, np.frombuffer(room, np.uint8))
    assert list(pixels[:, 0]) == [0x0100, 0x0302, 0x0504, 0x0706]  # the left column comes first


@given(
    planes=st.integers(1, 4),
    connections=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.floats(0, 100)), min_size=1, max_size=6),
)
def test_index_grows_once_at_a_reconnect_and_planes_stay_in_step(planes, connections):
    numbering, rate_hz, last = Numbering(planes, 30.0), 30.0, None
    for n_frames, first, elapsed_s in connections:
        plane0 = first % planes
        if last is None:
            numbering.start(plane0)
            offset = plane0
        else:
            skipped = numbering.resume(plane0, elapsed_s)
            exact = last + elapsed_s * rate_hz
            assert numbering.index == last + 1 + skipped > last
            assert numbering.index <= last + planes or abs(numbering.index - exact) <= planes / 2 + 1e-9
        for k in range(n_frames):
            index, plane, time_s = numbering.next()
            assert plane == (plane0 + k) % planes == (index + offset) % planes
            assert time_s == index / rate_hz
            last = index


def test_two_seconds_without_a_microscope_are_30_volumes():
    numbering = Numbering(2, 30.92)
    for _ in range(10):
        numbering.next()
    assert numbering.resume(0, 2.0) == 60  # 2 s x 30.92 Hz = 61.84 frames after frame 9, in whole volumes
    assert numbering.next() == (70, 0, 70 / 30.92)


def test_a_sender_that_died_between_two_planes_comes_back_with_plane_0():
    numbering = Numbering(2, 30.0)
    for _ in range(5):
        numbering.next()  # 0..4: the volume 4, 5 is torn
    numbering.resume(0, 0.0)
    assert numbering.next()[:2] == (6, 0)


def test_a_good_handshake():
    found = read_handshake(struct.pack("<3I", 76500, 2, 2), planes=2, first_plane=1)
    assert (found.total_frames, found.plane, found.planes) == (76500, 1, 2)


@pytest.mark.parametrize(
    ("data", "first_plane", "noise", "words"),
    [
        (struct.pack("<3I", 100, 0, 3), 0, False, "found 3 planes, expected 2"),
        (struct.pack("<3I", 100, 2, 2), 0, False, "found plane 2, expected 0 to 1"),
        (struct.pack("<3I", 100, 0, 2), 1, False, "found plane 0, expected 1 to 2"),
        (struct.pack(">3I", 100, 0, 2), 0, False, "big-endian"),
        (b"12345678", 0, True, "found 8 bytes, expected 12"),
        (b"GET / HTTP/1", 0, True, "planes, expected 2"),
        (bytes(12), 0, True, "found 0 planes, expected 2"),
    ],
)
def test_a_wrong_handshake_says_what_was_found_and_expected(data, first_plane, noise, words):
    with pytest.raises(HandshakeError, match=words) as error:
        read_handshake(data, planes=2, first_plane=first_plane)
    assert error.value.noise is noise


def test_the_hint_names_a_common_size_that_fits():
    assert "3 x 512 x 512 uint16" in guess_geometry(3 * 512 * 512 * 2)
    assert "3 x 512 x 796 uint8" in guess_geometry(3 * 512 * 796)
    assert guess_geometry(12345) == ""
    assert guess_geometry(0) == ""
