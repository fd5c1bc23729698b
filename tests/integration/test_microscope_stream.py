"""The stand-in microscope as hardware would be met: a TCP reader takes its frames, a PUB shows, a line server wires."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from loop2p.actuation.link import (
    FROM_CONTROLLER,
    MICROS_WRAP,
    Decoder,
    HelloQuery,
    HelloReply,
    Lease,
    LickCount,
    Packet,
    PulseDone,
    Status,
    StatusQuery,
    Valve,
    WheelCount,
    encode,
)
from loop2p.imaging.frame import Frame
from loop2p.imaging.receiver import TcpOptions, TcpReceiver
from loop2p.protocol import Cause, FileError, Shown, parse_rig, seal
from loop2p.protocol import Microscope as RigMicroscope
from loop2p.runtime import RigClock
from loop2p.simulation.controller import Controller as StandInController
from loop2p.simulation.frame_link import MOST_WAITING, FrameIndex, FrameLink
from loop2p.simulation.microscope import Faults, Microscope, MicroscopeOptions
from loop2p.simulation.mouse import REACTION_FRAMES
from loop2p.simulation.optics import Scan
from loop2p.simulation.responsive_mouse import ResponsiveMouse
from loop2p.simulation.scene import Scene
from loop2p.simulation.sender import Sender

HEIGHT, WIDTH, CELLS, RATE_HZ = 96, 120, 3, 100.0
WAIT_S = 60.0

SCENE = Scene(seed=1, height=HEIGHT, width=WIDTH, n_cells=CELLS, n_rois=2)


def expected(n_frames: int, prepare: Callable[[ResponsiveMouse], None] = lambda mouse: None) -> NDArray[np.uint16]:
    """(n_frames, height, width): the same scan without process and network."""
    mouse = ResponsiveMouse(1, CELLS, RATE_HZ)
    prepare(mouse)
    scan = Scan(mouse, SCENE, 1, RATE_HZ)
    return np.stack([scan.frame(k) for k in range(n_frames)])


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something to come true."""
    end_s = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < end_s, "waited too long"
        time.sleep(0.005)
    return value


class Imaging:
    """The plainest receiver. Not listening at first, so that a test can set the stage before the scan starts."""

    def __init__(self) -> None:
        self.server = socket.socket()
        self.server.bind(("127.0.0.1", 0))
        self.server.settimeout(WAIT_S)
        self.port: int = self.server.getsockname()[1]
        self.peer: socket.socket | None = None

    def accept(self) -> None:
        self.server.listen()
        self.peer = self.server.accept()[0]
        self.peer.settimeout(WAIT_S)

    def read(self, n_bytes: int) -> bytes:
        assert self.peer
        data = bytearray()
        while len(data) < n_bytes:
            piece = self.peer.recv(n_bytes - len(data))
            if not piece:
                raise EOFError(bytes(data))
            data += piece
        return bytes(data)

    def frames(self, n: int, dtype: str = "<u2") -> NDArray[Any]:
        """(n, height, width), read as column-major."""
        size = HEIGHT * WIDTH * np.dtype(dtype).itemsize
        return np.stack([np.frombuffer(self.read(size), dtype).reshape(WIDTH, HEIGHT).T for _ in range(n)])

    def hang_up(self) -> None:
        if self.peer:
            self.peer.close()

    def close(self) -> None:
        self.hang_up()
        self.server.close()


@pytest.fixture
def imaging() -> Iterator[Imaging]:
    receiver = Imaging()
    yield receiver
    receiver.close()


@contextlib.contextmanager
def running(imaging: Imaging, eye: str = "", mouse: Any = None, **options: Any) -> Iterator[Microscope]:
    """The stand-in in a thread of the test."""
    checked = MicroscopeOptions(image_port=imaging.port, n_cells=CELLS, n_rois=2, **options)
    mouse = mouse or ResponsiveMouse(1, CELLS, RATE_HZ)
    scope = Microscope(checked, Scan(mouse, SCENE, 1, RATE_HZ).frame, mouse, RATE_HZ, planes=2, eye=eye)
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            scope.run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield scope
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert not failed, failed


# ---------------------------------------------------------------- frames


def test_what_arrives_is_the_scan_to_the_bit_column_major_and_moving(imaging: Imaging) -> None:
    with running(imaging):
        imaging.accept()
        movie = imaging.frames(40)
    assert np.array_equal(movie, expected(40))
    planes = movie[::2].mean(axis=0), movie[1::2].mean(axis=0)
    assert np.corrcoef(planes[0].ravel(), planes[1].ravel())[0, 1] < 0.8, "planes alternate and differ"
    assert np.corrcoef(movie[0].ravel(), movie[2].ravel())[0, 1] > 0.3, "the same plane comes again"
    row, column = np.round(SCENE.centres[0][0]).astype(int)
    brightest = np.argwhere(planes[0] > 0.6 * planes[0].max())
    assert np.abs(brightest - [row, column]).max(axis=1).min() < 8, "rows are rows and columns are columns"


def test_inverted_frames_and_a_handshake(imaging: Imaging) -> None:
    control = Imaging()
    with running(imaging, inverted=True, control_port=control.port):
        control.accept()
        imaging.accept()
        assert np.frombuffer(control.read(12), "<u4").tolist() == [0, 0, 2]
        assert np.array_equal(65535 - imaging.frames(6), expected(6))
    control.close()


def test_eight_bit_frames(imaging: Imaging) -> None:
    with running(imaging, dtype="u1"):
        imaging.accept()
        assert np.array_equal(imaging.frames(4, "u1"), np.minimum(expected(4) // 16, 255))


def test_it_streams_on_through_a_reconnect_and_begins_again_with_plane_0(imaging: Imaging) -> None:
    with running(imaging) as scope:
        imaging.accept()
        imaging.frames(5)
        imaging.hang_up()
        before = scope.frames
        until(lambda: scope.frames > before + 5)
        imaging.accept()
        again = imaging.frames(4)
        reference = expected(scope.frames + 100)
    found = [k for k in range(len(reference) - 3) if np.array_equal(again, reference[k : k + 4])]
    assert len(found) == 1
    assert found[0] >= 5
    assert found[0] % 2 == 0


def test_a_stop_ends_it_while_nobody_is_there(imaging: Imaging, capsys: pytest.CaptureFixture[str]) -> None:
    with running(imaging, eye="tcp://127.0.0.1:1", wires="127.0.0.1:1"):
        pass
    out = capsys.readouterr().out
    assert f"waiting for imaging at 127.0.0.1:{imaging.port}" in out
    assert "microscope: 0 frames in" in out


def test_a_rig_that_does_not_read_never_stops_the_scan(imaging: Imaging) -> None:
    with running(imaging) as scope:
        imaging.accept()
        until(lambda: scope.frames > 150)


def test_a_rig_that_hangs_for_long_is_hung_up_on_after_a_whole_frame(imaging: Imaging) -> None:
    """So that no gap goes unseen: after a reconnect the receiver knows that frames are missing."""
    link = FrameLink(Sender(image_port=imaging.port), 0)
    try:
        imaging.accept()
        until(lambda: link.connected)
        frame = bytes(1_000_000)
        for k in range(4 * MOST_WAITING):
            link.offer(k % 2, frame)
        received = 0
        assert imaging.peer
        while piece := imaging.peer.recv(1_000_000):
            received += len(piece)
        assert received % len(frame) == 0
        assert 0 < received < 4 * MOST_WAITING * len(frame)
        imaging.hang_up()
        imaging.accept()
        until(lambda: link.connected)
        assert link.connections == 2
    finally:
        link.close()


# ---------------------------------------------------------------- eye


def shown(what: Any, angle_deg: float | None, cause: Cause | None) -> list[bytes | memoryview]:
    return seal(Shown(what=what, angle_deg=angle_deg, flip_ns=0, cause=cause), "stimulus", "i", 0, 0).parts()


@contextlib.contextmanager
def stimulus() -> Iterator[tuple[Any, str]]:
    """A socket that tells when it is subscribed to, and its endpoint."""
    context: Any = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.linger = 0
    socket.rcvtimeo = int(WAIT_S * 1000)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    try:
        yield socket, f"tcp://127.0.0.1:{port}"
    finally:
        socket.close()
        context.term()


def test_the_mouse_sees_what_is_shown_four_frames_after_its_cause(imaging: Imaging) -> None:
    with stimulus() as (publisher, endpoint), running(imaging, eye=endpoint) as scope:
        assert publisher.recv() == b"\x01stimulus.shown"
        publisher.send_multipart([b"stimulus.shown", b"nonsense", b""])
        publisher.send_multipart(shown("grating", 90.0, None))
        for frame in range(10, 30, 2):  # ahead of time, so that no machine is too slow for it
            publisher.send_multipart(shown("black", None, Cause(frame, 0, 0.0, 0)))
        until(lambda: scope.pictures == 11)
        imaging.accept()
        movie = imaging.frames(300)
        assert scope.rejected == 1
        assert scope.late == 0

    def see(mouse: ResponsiveMouse) -> None:
        mouse.see(-1, "grating", 90.0)
        mouse.see(10, "black", None)

    assert np.array_equal(movie, expected(300, see))


def test_a_picture_that_comes_too_late_is_counted(imaging: Imaging) -> None:
    with stimulus() as (publisher, endpoint), running(imaging, eye=endpoint) as scope:
        publisher.recv()
        imaging.accept()
        imaging.frames(20)
        publisher.send_multipart(shown("black", None, Cause(3, 1, 0.0, 0)))
        until(lambda: scope.pictures == 1)
        assert scope.late == 1


def test_indices_of_an_imaging_that_counts_anew_are_understood() -> None:
    index = FrameIndex()
    now_ns = time.perf_counter_ns()
    start_ns = now_ns - 10_000_000_000

    def started(frame: int) -> int:
        return start_ns + frame * 32_000_000

    for k in range(100):
        index.started(k, started(k))
    assert index.frame(Cause(50, 0, 0.0, started(70))) == 50, "at first both count from 0"
    index.connected_again(started(100))
    for k in range(100, 200):
        index.started(k, started(k))
    assert index.frame(Cause(90, 0, 0.0, started(90) + 1)) == 90, "caused before the new connection"
    late = Cause(3, 1, 0.0, started(106) + 5_000_000)
    assert index.frame(late) == 106, "frame 103, but it was 3 frames late"
    assert index.frame(Cause(4, 0, 0.0, started(104) + 5_000_000)) == 104
    assert index.frame(late) == 103
    index.dropped()
    assert index.frame(Cause(90, 0, 0.0, 0)) == 191


# ---------------------------------------------------------------- wires


class Controller:
    """A line server in the controller's place."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(WAIT_S)
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.peer: socket.socket | None = None

    def accept(self) -> None:
        self.peer = self.server.accept()[0]
        self.peer.settimeout(WAIT_S)
        self.lines = self.peer.makefile("r", encoding="ascii", newline="\n")

    def send(self, text: str) -> None:
        assert self.peer
        self.peer.sendall(text.encode("ascii"))

    def hang_up(self) -> None:
        if self.peer:
            self.lines.close()
            self.peer.close()
            self.peer = None


@pytest.fixture
def controller() -> Iterator[Controller]:
    server = Controller()
    yield server
    server.hang_up()
    server.server.close()


class Watched(ResponsiveMouse):
    """Keeps what it drinks."""

    def __init__(self) -> None:
        super().__init__(1, CELLS, RATE_HZ)
        self.drops: list[tuple[int, float]] = []

    def drink(self, frame: int, volume_ul: float) -> None:
        self.drops.append((frame, volume_ul))
        super().drink(frame, volume_ul)


def test_frame_triggers_licks_and_wheel_leave_as_lines(imaging: Imaging, controller: Controller) -> None:
    frames = 400
    with running(imaging, wires=controller.address):
        controller.accept()
        controller.send("valve 1 4294960000\nled 1 5\nvalve 0 32704\nwhat\nvalve 2 7\n\n")  # the clock wraps: 40 ms
        controller.send("valve 0 50000\n")  # closing without opening is nothing
        imaging.accept()
        imaging.frames(frames)
        found: list[str] = []
        while found.count("frame") <= frames:
            found.append(controller.lines.readline().strip())
    del found[-1]  # frame 400 begins
    twins = []
    for drop in (True, False):
        twin, lines = ResponsiveMouse(1, CELLS, RATE_HZ), []
        if drop:
            twin.drink(-1, 4.0)
        for k in range(frames):
            twin.step(k, k % 2)
            lines += ["frame", *["lick"] * twin.licks(), *[f"wheel {twin.wheel()}"] * bool(twin.wheel())]
        twins.append(lines)
    assert found == twins[0]
    assert found != twins[1], "the drop was drunk"


def test_a_drop_belongs_to_the_frame_sent_last_when_the_pin_opened(imaging: Imaging, controller: Controller) -> None:
    mouse = Watched()
    with running(imaging, mouse=mouse, wires=controller.address) as scope:
        controller.accept()
        imaging.accept()
        imaging.frames(30)
        first = scope.frames - 1
        controller.send("valve 1 1000\n")
        until(lambda: scope._valve)
        last = scope.frames - 1
        imaging.frames(10)
        controller.send("valve 0 41000\n")
        until(lambda: mouse.drops)
        until(lambda: mouse.drunk_ul == pytest.approx(4.0))
    (frame, volume_ul) = mouse.drops[0]
    assert volume_ul == pytest.approx(4.0)
    assert first <= frame <= last
    assert scope.late == 1, f"closed more than {REACTION_FRAMES} frames after it opened"


def test_a_controller_that_goes_away_is_found_again(imaging: Imaging, controller: Controller) -> None:
    with running(imaging, wires=controller.address):
        controller.accept()
        imaging.accept()
        imaging.frames(3)
        assert controller.lines.readline() == "frame\n"
        controller.hang_up()
        controller.accept()
        until(lambda: controller.lines.readline() == "frame\n")
        imaging.frames(10)


def test_the_stand_in_controller_pays_out_and_hears_the_animal(imaging: Imaging) -> None:
    """Both stand-ins together: a valve command by the serial protocol ends in the mouse."""
    controller = StandInController(StandInController.Options(tcp="127.0.0.1:0", wires="127.0.0.1:0"))
    controller.open()
    stop = threading.Event()
    thread = threading.Thread(target=controller.run, args=(stop,))
    thread.start()
    try:
        mouse = Watched()
        host, port = controller.serial_url.removeprefix("socket://").split(":")
        with (
            running(imaging, mouse=mouse, wires=controller.wires_address),
            socket.create_connection((host, int(port))) as serial,
        ):
            serial.settimeout(0.02)
            heard = Decoder(FROM_CONTROLLER)
            packets: list[Packet] = []

            def pump(*commands: Packet) -> None:
                for command in commands:
                    serial.sendall(encode(command))
                with contextlib.suppress(TimeoutError):
                    packets.extend(heard.feed(serial.recv(4096)))

            def has(kind: type[Packet]) -> list[Any]:
                return [p for p in packets if isinstance(p, kind)]

            pump(HelloQuery(0))
            until(lambda: pump() or has(HelloReply))
            imaging.accept()
            imaging.frames(3)
            boot_id = has(HelloReply)[0].boot_id
            pump(StatusQuery(0))
            until(lambda: pump() or has(Status))
            began_ns, began_us = time.perf_counter_ns(), has(Status)[0].t_us

            def drop_drunk() -> bool:
                until_us = (began_us + (time.perf_counter_ns() - began_ns) // 1000 + 200_000) % MICROS_WRAP
                opening = [Valve(1, boot_id, until_us, 40_000)] if not has(PulseDone) else []
                pump(Lease(0, boot_id, until_us), *opening)
                return bool(mouse.drops)

            until(drop_drunk)
            until(lambda: pump() or has(PulseDone))
            done = has(PulseDone)[0]
            until(lambda: pump() or (has(LickCount) and any(p.count > 0 for p in has(WheelCount))))
        frame, volume_ul = mouse.drops[0]
        assert volume_ul == pytest.approx((done.close_us - done.open_us) / 1000 * 0.1)
        assert frame >= 2
        assert controller.bad_lines == 0
    finally:
        stop.set()
        thread.join(WAIT_S)


def test_the_receiver_of_imaging_counts_as_the_scan_does() -> None:
    """The real receiver, with handshake and inverted pixels; another one after it counts anew, and is understood."""
    scope_rig = RigMicroscope(height=HEIGHT, width=WIDTH, planes=2, rate_hz=RATE_HZ)
    options = TcpOptions(image_port=0, control_port=-1, inverted=True)
    first = TcpReceiver(options, scope_rig, RigClock())
    ports = first.bound_ports()
    imaging = Imaging()
    imaging.port = ports[0]

    def take(receiver: TcpReceiver, n: int) -> list[tuple[Cause, NDArray[np.uint16]]]:
        found: list[tuple[Cause, NDArray[np.uint16]]] = []

        def more() -> bool:
            for item in receiver.frames():
                if isinstance(item, Frame):
                    pixels = 65535 - item.pixels if item.inverted else item.pixels.copy()
                    found.append((Cause(item.index, item.plane, item.time_s, item.arrival_ns), pixels))
            return len(found) >= n

        until(more)
        return found

    try:
        with (
            stimulus() as (publisher, endpoint),
            running(imaging, eye=endpoint, inverted=True, control_port=ports[1]) as scope,
        ):
            publisher.recv()
            reference = expected(12)
            for k, (cause, pixels) in enumerate(take(first, 12)[:12]):
                assert (cause.frame, cause.plane) == (k, k % 2)
                assert np.array_equal(pixels, reference[k])
            first.close()
            again = TcpOptions(image_port=ports[0], control_port=ports[1], inverted=True)
            second = TcpReceiver(again, scope_rig, RigClock())
            try:
                cause, pixels = take(second, 40)[5]
                assert (cause.frame, cause.plane) == (5, 1)
                publisher.send_multipart(shown("black", None, cause))
                until(lambda: scope.pictures == 1)
                last = scope.frames
            finally:
                second.close()
            reference = expected(last)
            truth = [k for k in range(last) if np.array_equal(reference[k], pixels)]
            ours = scope._index.frame(cause)
    finally:
        first.close()
        imaging.close()
    assert len(truth) == 1
    assert truth[0] <= ours <= truth[0] + 40, "never before the true frame; after it only as far as it arrived late"


# ---------------------------------------------------------------- faults


def test_faults_drop_freeze_and_cut(imaging: Imaging) -> None:
    reference = expected(20)
    with running(imaging, faults=Faults(drop=[2, 3], cut_in=8)):
        imaging.accept()
        assert np.array_equal(imaging.frames(6), reference[[0, 1, 4, 5, 6, 7]])
        with pytest.raises(EOFError) as cut:
            imaging.frames(1)
        half = reference[8].tobytes("F")[: HEIGHT * WIDTH]
        assert cut.value.args[0] == half
        imaging.hang_up()
        imaging.accept()  # and it is back
        imaging.frames(1)


@pytest.mark.parametrize(("freeze_s", "goes_on"), [(0.05, True), (0.0, False)])
def test_a_scan_that_freezes_goes_on_where_it_was_or_never(imaging: Imaging, freeze_s: float, goes_on: bool) -> None:
    with running(imaging, faults=Faults(freeze_at=4, freeze_s=freeze_s)) as scope:
        imaging.accept()
        assert np.array_equal(imaging.frames(4), expected(4))
        if goes_on:
            assert np.array_equal(imaging.frames(4), expected(8)[4:])
        else:
            until(lambda: scope.frames == 4)
            assert imaging.peer
            imaging.peer.settimeout(0.2)
            with pytest.raises(TimeoutError):
                imaging.frames(1)


# ---------------------------------------------------------------- from the rig file


def rig_text(imaging_port: int, options: str = "") -> str:
    names = ("imaging", "decoding", "task", "stimulus", "actuation", "recording")
    services = "\n".join(
        f'[services.{name}]\npublish = "ipc://p{k}"\nbulk = "ipc://b{k}"\ncontrol = "ipc://c{k}"'
        for k, name in enumerate(names)
    )
    return f"""
name = "test"
{services}
[microscope]
height = {HEIGHT}
width = {WIDTH}
rate_hz = {RATE_HZ}
[standins.microscope]
run = "loop2p.simulation.microscope:Microscope"
[standins.microscope.options]
image_port = {imaging_port}
n_cells = {CELLS}
n_rois = 2
{options}
"""


def from_rig(text: str, folder: Path) -> Microscope:
    rig_file = parse_rig(text, folder / "rig.toml")
    return Microscope.from_rig(rig_file.side_options("microscope", MicroscopeOptions), rig_file)


def test_a_process_streams_and_says_at_the_end_how_late_it_ran(imaging: Imaging, tmp_path: Path) -> None:
    (tmp_path / "rig.toml").write_text(rig_text(imaging.port), encoding="utf-8")
    code = (
        "import sys; from loop2p.protocol import read_rig; from loop2p.runtime.side import serve_side; "
        "sys.exit(serve_side('microscope', read_rig('rig.toml'), with_parent=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    try:
        imaging.accept()
        movie = imaging.frames(5)
        out, err = process.communicate(timeout=WAIT_S)  # closes its standard input: it ends with its parent
    finally:
        process.kill()
        process.wait()
    assert np.array_equal(movie, expected(5))
    assert process.returncode == 0, err
    assert b"Hz, asked 100), worst " in out
    assert b"pictures or drops too late" in out


def test_a_real_movie_is_played_in_a_loop_in_every_plane(imaging: Imaging, tmp_path: Path) -> None:
    movie = np.random.default_rng(1).integers(0, 3000, (3, HEIGHT, WIDTH), dtype=np.uint16)
    np.save(tmp_path / "movie.npy", movie)
    scope = from_rig(rig_text(imaging.port, 'movie = "movie.npy"'), tmp_path)
    stop = threading.Event()
    thread = threading.Thread(target=scope.run, args=(stop,))
    thread.start()
    try:
        imaging.accept()
        assert np.array_equal(imaging.frames(8), movie[[0, 0, 1, 1, 2, 2, 0, 0]])
    finally:
        stop.set()
        thread.join(WAIT_S)


def test_mistakes_in_the_options_are_named(imaging: Imaging, tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((3, 8, 9), np.uint16))
    for options, message in (
        ('movie = "small.npy"', f"movie small.npy is 8 x 9 px, expected {HEIGHT} x {WIDTH}"),
        ('movie = "none.npy"', "none.npy: no such file"),
        ('wires = "5591"', "standins.microscope.options.wires"),
        ("dtype = 'u4'", "standins.microscope.options.dtype"),
        ("faults = {cut = 3}", "unknown key"),
        ('mouse = "loop2p.simulation.mouse:Rat"', "standins: mouse.*Rat"),
        ("mouse_options = {wings = 2}", "ResponsiveMouse can't be made: .*wings"),
    ):
        with pytest.raises(FileError, match=message):
            from_rig(rig_text(imaging.port, options), tmp_path)
    with pytest.raises(FileError, match="of 99 cells fit into"):
        from_rig(rig_text(imaging.port).replace(f"n_cells = {CELLS}", "n_cells = 99"), tmp_path)
