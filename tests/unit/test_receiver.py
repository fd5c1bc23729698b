"""The TCP source against real loopback sockets, with everything a microscope's peer may do wrong."""

import itertools
import select
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loop2p.imaging import connection
from loop2p.imaging.connection import Connection
from loop2p.imaging.frame import Frame
from loop2p.imaging.receiver import MOST_FRAMES
from loop2p.imaging.sources import build_source
from loop2p.protocol import Alarm, FileError, Microscope
from loop2p.runtime import RigClock
from loop2p.simulation.sender import Sender, deadlines, encode

MICROSCOPE = Microscope(height=6, width=4, planes=2, rate_hz=30.0)
N = 6 * 4 * 2  # bytes of a frame
PATIENCE_S = 20.0


class HandClock(RigClock):
    """A rig clock that is set by hand."""

    time_ns = 1_000

    def now_ns(self):
        return self.time_ns


def images(n, dtype="u2", seed=1):
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 4)).astype(f"<{dtype}")


def column(movie):
    """Bytes of a movie in MATLAB's order."""
    return b"".join(encode(image) for image in movie)


class Rig:
    """A receiver with what it has handed out; pixels are copied at once, as they last only until the next frame."""

    def __init__(self, microscope=MICROSCOPE, **options):
        self.clock = HandClock()
        self.source = build_source(
            {"kind": "tcp", "image_port": 0, "control_port": -1, **options}, microscope, self.clock, Path()
        )
        self.got: list[tuple[Frame, np.ndarray]] = []
        self.alarms: list[Alarm] = []
        self.senders: list[Sender] = []

    def close(self):
        self.source.close()
        for sender in self.senders:
            sender.close()

    @property
    def frames(self):
        return [frame for frame, _ in self.got]

    @property
    def count(self):
        return self.source.counters()

    def once(self):
        """Wait as the runtime does, then take what there is."""
        fd, due_ns = self.source.fileno(), self.source.due_ns()
        wait_s = max(0.0, (due_ns - time.perf_counter_ns()) / 1e9)
        if wait_s:
            select.select([fd] if fd >= 0 else [], [], [], wait_s)
        handed = 0
        for item in self.source.frames():
            if isinstance(item, Frame):
                handed += 1
                self.got.append((item, item.pixels.copy()))
            else:
                self.alarms.append(item)
        assert handed <= MOST_FRAMES

    def until(self, condition, what="it"):
        """Run until condition() holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"waited {PATIENCE_S} s for {what}; {self.count} {self.alarms}"
            self.once()

    def take(self, n):
        """Run until n frames have been handed out in all."""
        self.until(lambda: len(self.got) >= n, f"{n} frames")
        assert len(self.got) == n

    def alarm(self, code, active=True):
        """Run until the newest alarm of this code is active (or not); gives it."""

        def newest():
            return next((a for a in reversed(self.alarms) if a.code == code), None)

        self.until(lambda: newest() is not None and newest().active is active, f"{code} {active}")
        return newest()

    def peer(self, control=False):
        """A sender that has connected to this rig."""
        image_port, control_port = self.source.bound_ports()
        sender = Sender(image_port=image_port, control_port=control_port if control else None)
        self.senders.append(sender)
        sender.open()
        return sender


@pytest.fixture
def make_rig():
    made = []

    def make(**options):
        made.append(Rig(**options))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig):
    return make_rig()


@pytest.fixture
def peer(rig):
    return rig.peer()


# ---------------------------------------------------------------- frames


def test_a_sender_of_frames_alone_needs_no_handshake(rig, peer):
    movie = images(5)
    peer.send(column(movie))
    rig.take(5)
    assert [f.index for f in rig.frames] == [0, 1, 2, 3, 4]
    assert [f.plane for f in rig.frames] == [0, 1, 0, 1, 0]
    assert [f.time_s for f in rig.frames] == [k / 30.0 for k in range(5)]
    assert all(np.array_equal(a, b) for (_, a), b in zip(rig.got, movie, strict=True))
    assert rig.alarms == []


def test_no_control_port_at_all(make_rig):
    rig = make_rig(control_port=0)
    assert rig.source.bound_ports()[1] == 0
    sender = rig.peer()
    sender.send(column(images(2)))
    rig.take(2)


def test_byte_by_byte(rig, peer):
    movie = images(2)
    for byte in column(movie):
        peer.send(bytes([byte]))
        rig.once()
    rig.take(2)
    assert all(np.array_equal(a, b) for (_, a), b in zip(rig.got, movie, strict=True))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("inverted", [True, False])
def test_every_format(make_rig, dtype, order, inverted):
    rig = make_rig(dtype=dtype, order=order, inverted=inverted)
    sender = rig.peer()
    movie = images(3, dtype)
    sender.send(b"".join(encode(image, dtype, order, inverted) for image in movie))
    rig.take(3)
    assert all(frame.inverted is inverted for frame in rig.frames)
    limit = {"u1": 255, "u2": 65535}[dtype]
    for (_, pixels), image in zip(rig.got, movie, strict=True):
        assert np.array_equal(limit - pixels if inverted else pixels, image)


def test_pixels_are_never_copied(rig, peer):
    peer.send(column(images(1)))
    while True:
        for frame in rig.source.frames():
            assert not frame.pixels.flags.owndata
            assert frame.pixels.T.flags.c_contiguous  # column order: a transposed view of the bytes
            return


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 10 * N - 1), max_size=12, unique=True))
def test_any_cutting_of_the_stream_gives_the_same_frames(cuts):
    rig, movie = Rig(control_port=0), images(10)
    sender, data = rig.peer(), column(movie)
    try:
        edges = [0, *sorted(cuts), len(data)]
        for start, stop in itertools.pairwise(edges):
            sender.send(data[start:stop])
            rig.once()
        rig.take(10)
        assert all(np.array_equal(a, b) for (_, a), b in zip(rig.got, movie, strict=True))
    finally:
        rig.close()


def test_a_late_burst_does_not_raise_the_index(rig, peer):
    peer.send(column(images(3)))
    rig.take(3)
    rig.clock.time_ns += 5_000_000_000
    peer.send(column(images(20)))
    rig.take(23)
    assert [f.index for f in rig.frames] == list(range(23))
    assert rig.frames[3].arrival_ns - rig.frames[2].arrival_ns == 5_000_000_000
    assert rig.count["frames_skipped"] == 0


def test_a_consumer_that_stops_in_the_middle_loses_nothing(rig, peer):
    movie, seen = images(30), []
    peer.send(column(movie))
    deadline_s = time.monotonic() + PATIENCE_S
    while len(seen) < 30 and time.monotonic() < deadline_s:
        for frame in rig.source.frames():
            seen.append((frame.index, frame.pixels.copy()))
            break
    assert [k for k, _ in seen] == list(range(30))
    assert all(np.array_equal(a, b) for (_, a), b in zip(seen, movie, strict=True))


def test_it_asks_to_be_called_at_once_while_frames_wait(rig, peer):
    peer.send(column(images(3)))  # so few bytes come in one piece
    while rig.count["frames"] == 0:
        for _ in rig.source.frames():
            break
    assert rig.count["bytes"] == 3 * N
    assert rig.source.due_ns() == 0
    rig.until(lambda: rig.count["frames"] == 3)
    assert rig.source.due_ns() > 0


# ---------------------------------------------------------------- waiting, connecting, losing


def test_it_says_that_nobody_has_connected_and_what_to_do(rig):
    port = rig.source.bound_ports()[0]
    assert rig.source.why_not_ready() == [
        f"no microscope has connected to 127.0.0.1:{port}; start its stream to this machine, or set listen = false "
        "if the microscope waits for us"
    ]
    listener = rig.source.fileno()
    rig.once()
    assert rig.source.due_ns() - time.perf_counter_ns() <= 50_000_000
    rig.peer()
    rig.until(lambda: not rig.source.why_not_ready())
    assert rig.source.fileno() != listener


def test_it_connects_to_a_microscope_that_listens_and_comes_back(make_rig, monkeypatch):
    monkeypatch.setattr(connection, "RETRY_NS", 5_000_000)
    sender = Sender(image_port=0, control_port=0, listen=True)
    image_port, control_port = sender.ports
    rig = make_rig(listen=False, image_port=image_port, control_port=control_port)
    for n in (3, 6):
        opening = threading.Thread(target=sender.open)
        opening.start()
        rig.until(lambda opening=opening: not opening.is_alive())
        opening.join()
        sender.handshake(100, 1, 2)
        sender.send(column(images(3)))
        rig.take(n)
        assert rig.frames[-3].plane == 1
        sender.hang_up()
        assert "after 3 frames of 100 announced" in rig.alarm("microscope").detail
    assert rig.count["reconnects"] == 1
    sender.close()
    rig.until(lambda: "refused" in rig.source.why_not_ready()[0])
    assert rig.source.why_not_ready()[0].startswith(f"no microscope at 127.0.0.1:{image_port} (")
    assert rig.source.fileno() == -1


def test_it_never_connects_to_itself(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def own_port(family):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    monkeypatch.setattr(connection, "_data_socket", own_port)
    peer = Connection(False, "127.0.0.1", port, "test")
    assert not peer.visit(10**9)
    assert peer.peer is None
    assert peer.trouble == "nobody there"
    peer.close()


def test_a_sender_that_dies_in_mid_frame_and_comes_back(rig):
    movie, first = images(9), rig.peer()
    first.send(column(movie[:4]) + bytes(7))
    rig.take(4)
    first.close()
    lost = rig.alarm("microscope")
    assert "closed the connection after 4 frames" in lost.detail
    wrong = rig.alarm("wrong-frame-size")
    assert "7 bytes over after 4 frames of 6 x 4 x 2 bytes = 48; expected a whole number" in wrong.detail
    assert "died in mid-frame" in wrong.detail
    assert rig.count["partial_frames"] == 1
    assert rig.source.why_not_ready()

    rig.clock.time_ns += 1_000_000_000  # 1 s = 30 frames after frame 3
    second = rig.peer()
    second.send(column(movie[4:]))
    rig.take(9)
    assert [f.index for f in rig.frames[4:]] == [34, 35, 36, 37, 38]
    assert [f.plane for f in rig.frames[4:]] == [0, 1, 0, 1, 0]
    assert rig.frames[4].time_s == 34 / 30.0
    assert all(np.array_equal(a, b) for (_, a), b in zip(rig.got, movie, strict=True))
    assert "raised by 30 to 34" in rig.alarm("microscope", active=False).detail
    rig.alarm("wrong-frame-size", active=False)
    assert (rig.count["reconnects"], rig.count["connections"], rig.count["frames_skipped"]) == (1, 2, 30)


def test_a_reset_connection_is_a_lost_microscope(rig, peer):
    peer.send(column(images(2)))
    rig.take(2)
    peer._peers[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert "after 2 frames" in rig.alarm("microscope").detail


def test_a_wrong_image_size_is_named_with_a_guess(make_rig):
    rig = make_rig(microscope=Microscope(height=512, width=796), control_port=0)
    sender = rig.peer()
    sender.send(bytes(512 * 512 * 2 * 3))
    sender.close()
    detail = rig.alarm("wrong-frame-size").detail
    over = 3 * 512 * 512 * 2 - 815104
    assert f"{over} bytes over after 1 frames of 512 x 796 x 2 bytes = 815104; expected a whole number" in detail
    assert "would make 3 x 512 x 512 uint16" in detail


def test_a_second_peer_is_hung_up_on_and_the_first_still_served(rig, peer):
    peer.send(column(images(1)))
    rig.take(1)
    with socket.create_connection(("127.0.0.1", rig.source.bound_ports()[0]), PATIENCE_S) as second:
        rig.until(lambda: rig.count["refused_peers"] == 1)
        assert second.recv(1) == b""
    peer.send(column(images(1)))
    rig.take(2)
    assert rig.count["connections"] == 1


def test_a_microscope_that_comes_back_before_its_end_was_noticed_is_served(rig):
    for n in (1, 2, 3):
        sender = rig.peer()
        sender.send(column(images(1)))
        if n < 3:
            sender.close()
    rig.take(3)
    assert rig.count["refused_peers"] == 0
    assert rig.count["connections"] == 3


def test_somebody_who_connects_and_says_nothing_is_no_alarm(rig):
    rig.peer().close()
    rig.until(lambda: rig.count["connections"] == 1 and rig.source.why_not_ready())
    assert rig.alarms == []


# ---------------------------------------------------------------- the handshake


@pytest.mark.parametrize("first_plane", [0, 1])
def test_the_handshake_tells_the_first_frames_plane(make_rig, first_plane):
    rig = make_rig(handshake_first_plane=first_plane)
    sender = rig.peer(control=True)
    sender.handshake(3, 1 + first_plane, 2)
    sender.send(column(images(5)))
    rig.take(5)
    assert [f.plane for f in rig.frames] == [1, 0, 1, 0, 1]
    assert rig.count["handshakes"] == 1
    assert rig.count["frames_over_total"] == 2
    assert rig.alarms == []


BAD = {
    "planes": (struct.pack("<3I", 100, 0, 3), "found 3 planes, expected 2"),
    "plane": (struct.pack("<3I", 100, 2, 2), "found plane 2, expected 0 to 1"),
    "big-endian": (struct.pack(">3I", 100, 0, 2), "found big-endian numbers, expected little-endian"),
    "length": (b"12345678", "found 8 bytes, expected 12"),
}


@pytest.mark.parametrize("which", BAD)
def test_nothing_is_used_of_a_peer_that_contradicts_the_rig_file(rig, which):
    data, words = BAD[which]
    control = socket.create_connection(("127.0.0.1", rig.source.bound_ports()[1]), PATIENCE_S)
    control.sendall(data)
    control.close()
    sender = rig.peer()
    sender.send(column(images(11)))
    rig.until(lambda: rig.count["frames_refused"] == 11)
    assert words in rig.alarm("handshake").detail
    assert words in rig.source.why_not_ready()[0]
    assert rig.got == []
    sender.close()

    again = rig.peer(control=True)
    again.handshake(0, 0, 2)
    again.send(column(images(2)))
    rig.take(2)
    assert rig.frames[0].index == 0
    rig.alarm("handshake", active=False)
    assert rig.source.why_not_ready() == []


def test_a_good_handshake_after_a_bad_one_opens_the_stream(rig):
    sender = rig.peer(control=True)
    sender._peers[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
    sender.send(column(images(3)))
    rig.until(lambda: rig.count["frames_refused"] == 3)
    with socket.create_connection(("127.0.0.1", rig.source.bound_ports()[1]), PATIENCE_S) as control:
        control.sendall(struct.pack("<3I", 0, 0, 2))
        rig.until(lambda: rig.count["handshakes"] == 1)
    sender.send(column(images(1)))
    rig.take(1)
    assert rig.frames[0].plane == 1  # the fourth frame of this connection


def test_a_late_handshake_that_agrees_changes_nothing(rig):
    sender = rig.peer(control=True)
    sender.send(column(images(3)))
    rig.take(3)
    sender.handshake(0, 0, 2)
    rig.until(lambda: rig.count["handshakes"] == 1)
    sender.send(column(images(2)))
    rig.take(5)
    assert [f.plane for f in rig.frames] == [0, 1, 0, 1, 0]
    assert rig.alarms == []


def test_a_late_handshake_corrects_the_planes_and_says_so(rig):
    sender = rig.peer(control=True)
    sender.send(column(images(3)))
    rig.take(3)
    sender.handshake(0, 1, 2)
    rig.until(lambda: rig.count["handshakes"] == 1)
    sender.send(column(images(2)))
    rig.take(5)
    assert [f.plane for f in rig.frames] == [0, 1, 0, 0, 1]
    assert [f.index for f in rig.frames] == [0, 1, 2, 3, 4]
    assert "came after 3 frames" in rig.alarm("handshake").detail


def test_a_late_contradiction_stops_the_frames(rig):
    sender = rig.peer(control=True)
    sender.send(column(images(2)))
    rig.take(2)
    sender.handshake(0, 0, 1)
    assert "found 1 planes, expected 2" in rig.alarm("handshake").detail
    sender.send(column(images(4)))
    rig.until(lambda: rig.count["frames_refused"] == 4)
    assert len(rig.got) == 2


def test_noise_on_the_control_port_does_not_stop_a_running_stream(rig, peer):
    peer.send(column(images(2)))
    rig.take(2)
    for noise in (b"x", b"GET / HTTP/1.1\r\n\r\n", bytes(5000)):
        before = rig.count["handshakes_refused"]
        with socket.create_connection(("127.0.0.1", rig.source.bound_ports()[1]), PATIENCE_S) as control:
            control.sendall(noise)
        rig.until(lambda before=before: rig.count["handshakes_refused"] > before)
    peer.send(column(images(2)))
    rig.take(4)
    assert rig.alarms == []


def test_each_connection_has_its_own_handshake(rig):
    for n, plane in ((3, 1), (6, 0), (9, 1)):
        sender = rig.peer(control=True)
        sender.handshake(3, plane, 2)
        sender.send(column(images(3)))
        rig.take(n)
        assert rig.frames[-3].plane == plane
        sender.close()
        rig.alarm("microscope")
    indices, planes = [f.index for f in rig.frames], [f.plane for f in rig.frames]
    assert indices == sorted(set(indices))
    assert {(index + plane) % 2 for index, plane in zip(indices, planes, strict=True)} == {1}


@settings(max_examples=25)
@given(
    pieces=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=200), st.booleans()), max_size=10),
)
def test_noise_on_either_port_never_raises(pieces):
    """(control port?, bytes, hang up after?); afterwards a proper microscope is served."""
    rig = Rig()
    sockets: dict[bool, socket.socket] = {}
    try:
        for control, data, hang_up in pieces:
            if control not in sockets:
                port = rig.source.bound_ports()[int(control)]
                sockets[control] = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
            try:
                sockets[control].sendall(data)
            except OSError:  # we were hung up on
                hang_up = True
            rig.once()
            if hang_up:
                sockets.pop(control).close()
        for sock in sockets.values():
            sock.close()
        sockets.clear()
        rig.until(lambda: rig.source.why_not_ready() and "no microscope" in rig.source.why_not_ready()[0])
        sender, before = rig.peer(control=True), len(rig.got)
        sender.handshake(0, 0, 2)
        sender.send(column(images(4)))
        rig.until(lambda: len(rig.got) > before)
        sender.close()
    finally:
        for sock in sockets.values():
            sock.close()
        rig.close()


# ---------------------------------------------------------------- the rig file


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"kind": "tcp", "imageport": 3},
            r"source.imageport: unknown key; expected one of listen, address,",
        ),
        ({"kind": "tcp", "dtype": "u4"}, r"source.dtype: .*'u4'"),
        ({"kind": "tcp", "image_port": 70000}, r"source.image_port: .*<= 65535"),
        ({"kind": "tcp", "address": "no.such.host.invalid"}, r"image_port: cannot resolve the address"),
        ({"kind": "udp"}, r"source.kind: found 'udp', expected 'tcp', 'file' or 'package.module:Class'"),
        ({}, r"source.kind: found None"),
        ({"kind": "no_such_package.scope:Scope"}, r"that can be imported here \(No module named"),
    ],
)
def test_a_mistake_in_the_rig_file_is_named(options, words):
    with pytest.raises(FileError, match=words):
        build_source(options, MICROSCOPE, RigClock(), Path())


@pytest.mark.parametrize("which", ["image_port", "control_port"])
def test_a_port_that_is_taken_is_named(which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FileError, match=rf"{which}: cannot listen on 127.0.0.1:{port} .*expected a free port"):
            build_source({"kind": "tcp", "image_port": 0, which: port}, MICROSCOPE, RigClock(), Path())


def test_another_laboratorys_source_is_an_ordinary_class(tmp_path):
    built = build_source({"kind": f"{__name__}:Theirs", "gain": 3}, MICROSCOPE, RigClock(), tmp_path)
    assert isinstance(built, Theirs)
    assert built.made_of == ({"gain": 3}, MICROSCOPE, tmp_path)


class Theirs:
    def __init__(self, options, microscope, clock, folder):
        self.made_of = (options, microscope, folder)


# ---------------------------------------------------------------- the sender


def test_the_sender_refuses_values_its_dtype_does_not_hold():
    with pytest.raises(ValueError, match="found values -1 to 3, expected 0 to 65535 for u2"):
        encode(np.array([[-1, 3]], np.int16))
    with pytest.raises(ValueError, match="found values 0 to 256, expected 0 to 255 for u1"):
        encode(np.array([[0, 256]]), "u1")


def test_the_senders_pace_has_no_drift(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s + 0.003))  # every sleep is 3 ms too long
    pace = deadlines(10.0)
    late = [next(pace) for _ in range(50)]
    assert max(late) == pytest.approx(0.003)
    assert now[0] == pytest.approx(100.0 + 4.9 + 0.003)
    now[0] += 1.0  # held up: it catches up without waiting
    assert next(pace) == pytest.approx(0.903)


def test_the_sender_says_when_no_rig_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"no rig answers at 127.0.0.1:{port} within 0.1 s"):
        Sender(image_port=port).open(0.1)
