"""The stand-in microscope with a mouse under it, as a process: frames by TCP, screen by ZeroMQ, pins by wires.

It meets the rig only where hardware would: frames leave through `sender`, the mouse sees `stimulus.shown`, drinks
when the controller's valve pin moves, and licks, runs and triggers frames on the controller's pins.

What acts when. What frame k causes acts in frame k + REACTION_FRAMES, if it was there before that frame was drawn,
DRAW_NS before it is due; else it acts in the next frame drawn and is counted in `late`. The eye takes k from the cause
of `stimulus.shown`. The mouth knows only the pin: k is the frame sent last when the opening edge was read. An edge
cannot come before its frame was sent, so k is the causing frame as long as pin and wires took less than a frame
period less DRAW_NS (27 ms); that bound is all that is left to chance between a live run and one without processes.
"""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import numpy as np
import zmq
from msgspec import Meta, Struct
from numpy.typing import NDArray

from loop2p.imaging.movies import open_movie
from loop2p.protocol import FileError, RigFile, Shown, WireError, open_parts
from loop2p.runtime.process import load
from loop2p.simulation.frame_link import FrameIndex, FrameLink
from loop2p.simulation.mouse import Mouse
from loop2p.simulation.optics import Scan
from loop2p.simulation.scene import Scene
from loop2p.simulation.sender import Sender, encode
from loop2p.simulation.wires import Edge, Wires

DRAW_NS = 5_000_000
"""How long before it is due a frame is drawn: twice what that takes."""
LOOK_MS = 50
"""How often to look for a stop and for peers that come back."""


class Faults(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong, for tests of the rig. Frames count from 0 at the first connection."""

    drop: list[int] = []
    """These frames are never sent; the receiver cannot know."""
    freeze_at: int = -1
    """The scan stops before this frame: connections stay, nothing is sent. -1: never."""
    freeze_s: float = 0.0
    """How long; then it goes on with that frame. 0: for good."""
    cut_in: int = -1
    """The connection is lost in the middle of this frame, and made again. -1: never."""


class MicroscopeOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What the rig file says of the stand-in."""

    address: str = "127.0.0.1"
    """Of the imaging machine."""
    image_port: Annotated[int, Meta(gt=0, le=65535)] = 30000
    control_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Where the handshake goes; 0: none is sent."""
    dtype: Literal["u1", "u2"] = "u2"
    """u1: counts / 16, at most 255."""
    inverted: bool = False
    """Sends 65535 - v (255 - v), as Scanbox does."""
    rate_hz: Annotated[float, Meta(ge=0)] = 0.0
    """Frames of all planes per second; 0: the rig file's."""
    wires: Annotated[str, Meta(pattern=r"^([^:/]+:\d{1,5})?$")] = ""
    """host:port of the stand-in controller's wires; empty: no controller."""
    valve_ul_per_ms: Annotated[float, Meta(gt=0)] = 0.1
    """How much runs out while the valve pin is high."""
    seed: int = 1
    """Of mouse, motion and noise."""
    scene_seed: int = 1
    """Of the field of view: the ROI files belong to it."""
    n_cells: Annotated[int, Meta(gt=0)] = 40
    n_rois: Annotated[int, Meta(ge=0)] = 16
    """How many of the cells have an ROI in the ROI files."""
    mouse: str = "loop2p.simulation.responsive_mouse:ResponsiveMouse"
    """"package.module:Class" of the mouse; it is made with seed, n_cells, rate_hz and `mouse_options`."""
    mouse_options: dict[str, Any] = {}
    """Further arguments of that class."""
    movie: str = ""
    """Plays this recording in a loop instead (each frame in every plane); relative to the rig file's folder."""
    dataset: str = ""
    """Of an HDF5 or NWB movie."""
    faults: Faults = Faults()


class Microscope:
    """The stand-in. The scan starts when imaging first takes the connection and never stops or starts over: while
    nobody is there, frames are lost. Each connection begins with plane 0.

    `late`: pictures and drops that came too late for the mouse to act on time. `worst_late_s`: of a frame.
    """

    Options = MicroscopeOptions

    def __init__(
        self,
        options: MicroscopeOptions,
        draw: Callable[[int], NDArray[Any]],
        mouse: Mouse,
        rate_hz: float,
        planes: int,
        eye: str = "",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """`draw(frame)` gives (height, width) and steps the mouse; `eye`: endpoint of stimulus' PUB socket."""
        self.options, self._draw, self.mouse, self._close = options, draw, mouse, close
        self.rate_hz, self.planes, self._eye_endpoint = rate_hz, planes, eye
        self.frames = 0
        """Scanned so far; the next frame's index."""
        self.worst_late_s = 0.0
        self.rejected = 0
        """Malformed messages and lines."""
        self.pictures = 0
        """Changes of the screen seen."""
        self._index = FrameIndex()
        self._valve: tuple[int, int] | None = None  # frame and controller time (us) at which it opened

    @classmethod
    def from_rig(cls, options: MicroscopeOptions, rig_file: RigFile) -> Self:
        """Build from checked options. Raises FileError where a movie cannot be played on this rig."""
        scope = rig_file.rig.microscope
        rate_hz = options.rate_hz or scope.rate_hz
        mouse = _mouse(options, rig_file, rate_hz)
        eye = rig_file.rig.services["stimulus"].publish
        if options.movie:
            draw, close = _movie(options, rig_file, mouse)
            return cls(options, draw, mouse, rate_hz, scope.planes, eye, close)
        try:
            scene = Scene(options.scene_seed, scope.height, scope.width, options.n_cells, options.n_rois, scope.planes)
        except ValueError as error:
            raise FileError(f"{rig_file.path}: the simulated field of view: {error}") from None
        return cls(options, Scan(mouse, scene, options.seed, rate_hz).frame, mouse, rate_hz, scope.planes, eye)

    @property
    def late(self) -> int:
        return self.mouse.late

    def run(self, stop: threading.Event) -> None:
        """Scan until `stop` is set, then say on stdout how late it ran."""
        options = self.options
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        eye = context.socket(zmq.SUB)
        eye.linger = 0
        eye.subscribe(Shown.topic)
        if self._eye_endpoint:
            eye.connect(self._eye_endpoint)
        wires = Wires(options.wires) if options.wires else None
        link = FrameLink(
            Sender(options.address, options.image_port, options.control_port or None),
            self.planes if options.control_port else 0,
        )
        senses = _Senses(self, eye, wires)
        elapsed_s = 0.0
        try:
            print(f"microscope: waiting for imaging at {options.address}:{options.image_port}", flush=True)
            while not link.connected and not stop.is_set():
                senses.wait(time.perf_counter_ns() + LOOK_MS * 1_000_000, stop)
            elapsed_s = self._scan(stop, senses, wires, link)
        finally:
            link.close()
            if wires:
                self.rejected += wires.rejected
                wires.close()
            eye.close()
            context.term()
            self._close()
        achieved_hz = (self.frames - 1) / elapsed_s if elapsed_s else 0.0
        print(
            f"microscope: {self.frames} frames in {elapsed_s:.1f} s ({achieved_hz:.3f} Hz, "
            f"asked {self.rate_hz:g}), worst {1e3 * self.worst_late_s:.1f} ms late; "
            f"{link.sent} sent over {link.connections} connections; the mouse saw {self.pictures} pictures, "
            f"{self.late} pictures or drops too late",
            flush=True,
        )

    def _scan(self, stop: threading.Event, senses: "_Senses", wires: Wires | None, link: FrameLink) -> float:
        """Frame after frame, each due k / rate after the first; one that is late does not delay those to come.

        Returns the time from the first frame to the last, s.
        """
        start_ns = time.perf_counter_ns() + DRAW_NS
        first_ns = now_ns = 0
        faults, dropped = self.options.faults, set(self.options.faults.drop)
        connections = link.connections
        for k in itertools.count():
            if k == faults.freeze_at:
                thaw_ns = time.perf_counter_ns() + round(1e9 * faults.freeze_s)
                while not stop.is_set() and (not faults.freeze_s or time.perf_counter_ns() < thaw_ns):
                    senses.wait(time.perf_counter_ns() + LOOK_MS * 1_000_000, stop)
                start_ns += round(1e9 * faults.freeze_s)
            due_ns = start_ns + round(k * 1e9 / self.rate_hz)
            if not senses.wait(due_ns - DRAW_NS, stop):
                break
            data = self._bytes(self._draw(k))
            wait_s = (due_ns - time.perf_counter_ns()) / 1e9
            if wait_s > 0:
                time.sleep(wait_s)
            now_ns = time.perf_counter_ns()
            first_ns = first_ns or now_ns
            self.worst_late_s = max(self.worst_late_s, (now_ns - due_ns) / 1e9)
            if wires:
                counts = self.mouse.wheel()
                wires.send("frame\n" + "lick\n" * self.mouse.licks() + (f"wheel {counts}\n" if counts else ""))
            if link.connections != connections:
                connections = link.connections
                self._index.connected_again(now_ns)
            self._index.started(k, now_ns)
            if k not in dropped:
                link.offer(k % self.planes, data, cut=k == faults.cut_in)
            elif link.connected:
                self._index.dropped()
            self.frames = k + 1
        return (now_ns - first_ns) / 1e9

    def saw(self, parts: list[bytes]) -> None:
        """The eye: a `stimulus.shown` has come. Malformed ones are counted."""
        try:
            shown = open_parts(parts).message
        except WireError:
            self.rejected += 1
            return
        if isinstance(shown, Shown):
            self.pictures += 1
            # A picture no frame is the reason of (start, safe grey) counts as caused by the frame sent last.
            frame = self._index.frame(shown.cause) if shown.cause else self.frames - 1
            self.mouse.see(frame, shown.what, shown.angle_deg)

    def felt(self, edge: Edge) -> None:
        """The mouth: the valve pin has moved. The drop is what ran out until it closed."""
        if edge.pin != "valve":
            return
        if edge.level:
            self._valve = (self.frames - 1, edge.t_us)
        elif self._valve:
            frame, opened_us = self._valve
            self._valve = None
            open_ms = (edge.t_us - opened_us) % 2**32 / 1000
            self.mouse.drink(frame, open_ms * self.options.valve_ul_per_ms)

    def forget_drop(self) -> None:
        """The controller has gone: when the valve closed, nobody knows."""
        self._valve = None

    def _bytes(self, picture: NDArray[Any]) -> bytes | memoryview:
        """One frame as it travels: column-major."""
        if picture.dtype != np.uint16 or not picture.flags.f_contiguous:
            return encode(picture, self.options.dtype, "column", self.options.inverted)
        if self.options.dtype == "u1":
            picture = np.minimum(picture >> 4, 255).astype(np.uint8)
        if self.options.inverted:
            picture = ~picture
        return np.ascontiguousarray(picture.T, f"<{self.options.dtype}").view(np.uint8).data.cast("B")


class _Senses:
    """Waits for the next frame while eye and mouth stay open."""

    def __init__(self, scope: Microscope, eye: "zmq.Socket[bytes]", wires: Wires | None) -> None:
        self._scope, self._eye, self._wires = scope, eye, wires
        self._connections = 0

    def wait(self, until_ns: int, stop: threading.Event) -> bool:
        """Take in what comes until then; false if stopped."""
        while not stop.is_set():
            self._take()
            left_ns = until_ns - time.perf_counter_ns()
            if left_ns <= 0:
                return True
            if left_ns < 1_000_000:  # the poller counts whole milliseconds
                time.sleep(left_ns / 1e9)
                continue
            poller = zmq.Poller()
            poller.register(self._eye, zmq.POLLIN)
            if self._wires and self._wires.fileno() >= 0:
                poller.register(self._wires.fileno(), zmq.POLLIN)
            poller.poll(min(LOOK_MS, left_ns // 1_000_000))
        return False

    def _take(self) -> None:
        while self._eye.poll(0):
            self._scope.saw(self._eye.recv_multipart())
        if self._wires:
            edges = self._wires.edges()
            if self._wires.connections != self._connections:  # another boot, another clock: an open drop is unknown
                self._connections = self._wires.connections
                self._scope.forget_drop()
            for edge in edges:
                self._scope.felt(edge)


def _mouse(options: MicroscopeOptions, rig_file: RigFile, rate_hz: float) -> Mouse:
    """The mouse that the rig file names. Raises FileError for a class or options that can't be used."""
    place = f"{rig_file.path}: standins: mouse"
    kind: Any = load(options.mouse, place)
    try:
        mouse: Mouse = kind(seed=options.seed, n_cells=options.n_cells, rate_hz=rate_hz, **options.mouse_options)
    except (TypeError, ValueError) as error:
        raise FileError(f"{place}: {options.mouse} can't be made: {error}") from None
    return mouse


def _movie(
    options: MicroscopeOptions, rig_file: RigFile, mouse: Mouse
) -> tuple[Callable[[int], NDArray[Any]], Callable[[], None]]:
    """Draws a recording's frames; the mouse lives on beside it. Raises FileError."""
    scope = rig_file.rig.microscope
    movie = open_movie(rig_file.path.parent / options.movie, options.dataset)
    if (movie.height, movie.width) != (scope.height, scope.width):
        movie.close()
        raise FileError(
            f"{rig_file.path}: standins: movie {options.movie} is {movie.height} x {movie.width} px, expected "
            f"{scope.height} x {scope.width} as in the table microscope"
        )

    def draw(frame: int) -> NDArray[Any]:
        mouse.step(frame, frame % scope.planes)
        return movie.read(frame // scope.planes % movie.n_frames, movie.buffer())

    return draw, movie.close
