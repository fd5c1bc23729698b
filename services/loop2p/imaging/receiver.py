"""Frames from a microscope by TCP, as Scanbox and the CLOOSE senders push them (docs/experiment.md 2.9)."""

import socket
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from numpy.typing import NDArray

from loop2p.imaging.connection import Connection
from loop2p.imaging.frame import Frame
from loop2p.imaging.stream import (
    HANDSHAKE,
    Format,
    FrameRing,
    Handshake,
    HandshakeError,
    Numbering,
    guess_geometry,
    read_handshake,
)
from loop2p.protocol import Alarm, Microscope
from loop2p.runtime import RigClock

VISIT_NS = 50_000_000
"""How often to look at what is not waited for: the handshake, a second peer, a peer that is not there yet."""
LATEST_VISIT_NS = 1_000_000_000
"""How long a sender that is never done may put that off."""
MOST_FRAMES = 8
"""Frames handed out in one call, so that the service's other work is never kept waiting."""
MOST_CONTROL_PEERS = 8
"""A stranger who holds a control connection does not keep the microscope's from being heard."""
STALE_NS = 10_000_000_000
"""A refused handshake is held against an image connection that begins this soon after it, not against later ones."""


class TcpOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """`kind = "tcp"`: a microscope that sends raw frames."""

    listen: bool = True
    """True: the microscope connects to us. False: we connect to it."""
    address: str = "127.0.0.1"
    """Of this machine if listening ("0.0.0.0" for all its networks), else of the microscope's."""
    image_port: Annotated[int, Meta(ge=0, le=65535)] = 30000
    """0: any free port (tests)."""
    control_port: Annotated[int, Meta(ge=-1, le=65535)] = 0
    """Where the handshake comes (50000 at CLOOSE rigs). 0: there is none; -1: any free port (tests)."""
    dtype: Literal["u1", "u2"] = "u2"
    order: Literal["column", "row"] = "column"
    inverted: bool = False
    """True: dark is 65535 (or 255), as Scanbox sends it."""
    handshake_first_plane: Literal[0, 1] = 0
    """What the peer calls its first plane; MATLAB peers count from 1."""


class TcpReceiver:
    """Takes in frames of the rig file's geometry, with or without a handshake.

    The handshake (total frames, plane of the first frame, planes) belongs to the image connection that is open or
    opens next. Without one, the first frame is plane 0. One that contradicts the rig file raises the alarm
    "handshake" and no frame of its image connection is handed out. Frames carry no header, so a wrong image size
    only shows when the connection ends: alarm "wrong-frame-size". A lost microscope is the alarm "microscope".
    All alarms end with the first frame of a later connection. Network trouble and noise never raise.
    """

    Options = TcpOptions

    def __init__(
        self,
        options: TcpOptions,
        microscope: Microscope,
        clock: RigClock,
        folder: Path | None = None,
        place: str = "tcp",
    ) -> None:
        self.options, self.microscope, self.clock = options, microscope, clock
        self._form = Format(microscope.height, microscope.width, options.dtype, options.order)
        self._image = Connection(options.listen, options.address, options.image_port, f"{place}.image_port")
        self._control: Connection | None = None
        if options.control_port:
            try:
                port = max(options.control_port, 0)
                self._control = Connection(
                    options.listen, options.address, port, f"{place}.control_port", MOST_CONTROL_PEERS
                )
            except Exception:
                self._image.close()
                raise
        self._ring = FrameRing(self._form, MOST_FRAMES)
        self._numbering = Numbering(microscope.planes, microscope.rate_hz)
        self._next_visit_ns = 0
        self._control_bytes: dict[socket.socket, bytes] = {}
        """What each control peer has sent of a handshake that is not whole yet."""
        self._announced: Handshake | HandshakeError | None = None
        """For the next image connection."""
        self._announced_ns = 0
        self._alarms: deque[Alarm] = deque()
        """To be handed out."""
        self._active: set[str] = set()
        self._arrival_ns = 0
        """When the newest bytes came, rig clock."""
        self._last_arrival_ns: int | None = None
        """When the last frame that was handed out came."""
        self._predecessor_ns: int | None = None
        """When a predecessor's last frame came; perf_counter, since the rig clock may not be known yet."""
        self._begin()
        self._count = dict.fromkeys(
            (
                "frames", "bytes", "connections", "reconnects", "refused_peers", "partial_frames", "frames_refused",
                "frames_skipped", "frames_over_total", "handshakes", "handshakes_refused",
            ),
            0,
        )  # fmt: skip

    # ---------------------------------------------------------------- what the service asks

    def go_on(self, frame: int, plane: int, age_s: float) -> None:
        """Count on from a predecessor's frame, which came so long ago: a session's frames never begin anew."""
        if self._last_arrival_ns is None:
            self._numbering.index, self._numbering.plane = frame + 1, (plane + 1) % self.microscope.planes
            self._predecessor_ns = time.perf_counter_ns() - round(age_s * 1e9)

    def bound_ports(self) -> tuple[int, int]:
        """Image and control port; control 0 if there is none."""
        return self._image.port, self._control.port if self._control else 0

    def fileno(self) -> int:
        return self._image.fileno()

    def due_ns(self) -> int | None:
        return 0 if self._alarms or self._ring.ready else self._next_visit_ns

    def counters(self) -> dict[str, int]:
        refused = self._image.refused + (self._control.refused if self._control else 0)
        return {**self._count, "refused_peers": refused}

    def why_not_ready(self) -> list[str]:
        if self._image.peer is None:
            if self.options.listen:
                return [
                    f"no microscope has connected to {self._image.name}; start its stream to this machine, or set "
                    "listen = false if the microscope waits for us"
                ]
            trouble = f" ({self._image.trouble})" if self._image.trouble else ""
            return [
                f"no microscope at {self._image.name}{trouble}; start its stream, correct address and image_port, or "
                "set listen = true if the microscope connects to us"
            ]
        return [self._contradiction] if self._contradiction else []

    def close(self) -> None:
        self._image.close()
        if self._control:
            self._control.close()

    def frames(self) -> Iterable[Frame | Alarm]:
        if self._image.peer is None:
            self._visit(time.perf_counter_ns())
        handed = reads = 0
        drained = False
        while handed < MOST_FRAMES:
            if self._ring.ready and (self._contradiction or not self._handed):
                self._settle()
            while self._alarms:
                yield self._alarms.popleft()
            pixels = self._ring.take()
            if pixels is not None:
                handed += 1
                yield self._number(pixels)
            elif self._image.peer and not drained and reads < MOST_FRAMES:
                drained = self._receive()
                reads += 1
            else:
                break
        # what has been sent is read first, so that a handshake is not taken for that of a peer which has hung up
        now_ns = time.perf_counter_ns()
        if now_ns - self._next_visit_ns >= (0 if drained else LATEST_VISIT_NS):
            self._visit(now_ns)
        while self._alarms:
            yield self._alarms.popleft()

    # ---------------------------------------------------------------- the image connection

    def _visit(self, now_ns: int) -> None:
        """Look at everything that is not waited for."""
        self._next_visit_ns = now_ns + VISIT_NS
        self._read_control(now_ns)
        if self._image.visit(now_ns):
            self._count["connections"] += 1
            self._begin()
            announced, self._announced = self._announced, None
            if isinstance(announced, Handshake) or now_ns - self._announced_ns < STALE_NS:
                self._apply(announced)

    def _begin(self) -> None:
        """A new image connection: it begins with a whole frame."""
        self._ring.clear()
        self._received = 0
        """Bytes of this connection."""
        self._seen = 0
        """Whole frames of this connection."""
        self._handed = 0
        """Those of them that were handed out."""
        self._handshake: Handshake | None = None
        """The one that holds for this connection."""
        self._contradiction = ""
        """Why nothing of this connection is handed out."""

    def _receive(self) -> bool:
        """Take in what is there; true if that was all."""
        assert self._image.peer
        room = self._ring.room()
        try:
            n = self._image.peer.recv_into(room)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            self._lost(f" ({error.strerror or error})")
            return True
        if n == 0:
            self._lost("")
            return True
        self._arrival_ns = self.clock.now_ns()
        self._received += n
        self._count["bytes"] += n
        self._ring.add(n)
        return n < len(room)

    def _settle(self) -> None:
        """A connection's first frame is in: settle its index and plane, and end the alarms.

        Frames of a peer that contradicts the rig file are thrown away, unless it has thought better of it.
        """
        self._read_control(time.perf_counter_ns())  # the handshake was sent before the frame
        if self._contradiction:
            while self._ring.take() is not None:
                self._seen += 1
                self._count["frames_refused"] += 1
            return
        plane = ((self._handshake.plane if self._handshake else 0) + self._seen) % self.microscope.planes
        note = f"frames come from {self._image.name}"
        if self._last_arrival_ns is None and self._predecessor_ns is None:
            self._numbering.start(plane)
        else:
            elapsed_ns = time.perf_counter_ns() - (self._predecessor_ns or 0)
            if self._last_arrival_ns is not None:
                elapsed_ns = self._arrival_ns - self._last_arrival_ns
            elapsed_s = elapsed_ns / 1e9
            skipped = self._numbering.resume(plane, elapsed_s)
            self._count["reconnects"] += 1
            self._count["frames_skipped"] += skipped
            note += f" again after {elapsed_s:.3f} s: frame index raised by {skipped} to {self._numbering.index}"
        for code in sorted(self._active):
            self._alarms.append(Alarm(code=code, active=False, detail=note))
        self._active.clear()

    def _number(self, pixels: NDArray[Any]) -> Frame:
        index, plane, time_s = self._numbering.next()
        self._seen += 1
        self._handed += 1
        self._last_arrival_ns = self._arrival_ns
        self._count["frames"] += 1
        if self._handshake and 0 < self._handshake.total_frames < self._seen:
            self._count["frames_over_total"] += 1
        return Frame(pixels, self.options.inverted, index, plane, time_s, self._arrival_ns)

    def _lost(self, why: str) -> None:
        """The peer has closed or died."""
        assert self._image.peer
        self._image.drop(self._image.peer, time.perf_counter_ns())
        whole, over = divmod(self._received, self._form.frame_bytes)
        if over:
            self._count["partial_frames"] += 1
            hint = guess_geometry(self._received)
            self._raise(
                "wrong-frame-size",
                f"{self._image.name}: {over} bytes over after {whole} frames of {self._form}; expected a whole number. "
                "Either the sender died in mid-frame (the piece was thrown away), or its frame size, dtype or geometry "
                f"differs from the rig file{': ' + hint if hint else ''}",
            )
        if self._handed:
            total = self._handshake.total_frames if self._handshake else 0
            self._raise(
                "microscope",
                f"{self._image.name}: the microscope has closed the connection{why} after {self._seen} frames"
                f"{f' of {total} announced' if total else ''}; start its stream again",
            )
        elif self._handshake and not isinstance(self._announced, Handshake):
            self._announced = self._handshake  # nothing came of it: it may have been meant for the next peer
        self._begin()

    def _raise(self, code: str, detail: str) -> None:
        self._active.add(code)
        self._alarms.append(Alarm(code=code, active=True, detail=detail))

    # ---------------------------------------------------------------- the control connection

    def _read_control(self, now_ns: int) -> None:
        """Read what handshakes there are. Anything else is counted, and its sender hung up on."""
        if self._control is None:
            return
        while self._control.visit(now_ns):
            pass
        for peer in list(self._control.peers):
            try:
                data = peer.recv(4096)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                data = b""
            waiting = self._control_bytes.pop(peer, b"") + data
            while len(waiting) >= HANDSHAKE.size or (waiting and not data):
                one, waiting = waiting[: HANDSHAKE.size], waiting[HANDSHAKE.size :]
                if not self._hear(one, now_ns):
                    waiting = data = b""
            if data:
                self._control_bytes[peer] = waiting
            else:
                self._control.drop(peer, now_ns)

    def _hear(self, data: bytes, now_ns: int) -> bool:
        """Take one handshake; false if it is none, or contradicts the rig file."""
        found: Handshake | HandshakeError
        try:
            found = read_handshake(data, self.microscope.planes, self.options.handshake_first_plane)
            self._count["handshakes"] += 1
        except HandshakeError as error:
            found = error
            self._count["handshakes_refused"] += 1
        self._announce(found, now_ns)
        return isinstance(found, Handshake)

    def _announce(self, found: Handshake | HandshakeError, now_ns: int) -> None:
        """Decide which image connection a handshake belongs to: the open one if it has none yet, else the next."""
        noise = isinstance(found, HandshakeError) and found.noise
        if self._image.peer and self._handshake is None:
            if not (noise and self._handed):  # a stranger on the control port does not stop a running stream
                self._apply(found)
        elif isinstance(found, Handshake) or (self._image.peer is None and not (noise and self._announced)):
            self._announced, self._announced_ns = found, now_ns

    def _apply(self, found: Handshake | HandshakeError | None) -> None:
        """Let a handshake hold for the open image connection."""
        place = f"handshake on {self._control.name if self._control else 'no port'}"
        if isinstance(found, HandshakeError):
            said = f"{place}: {found}; correct the sender or the rig file, then connect again"
            if said != self._contradiction:
                self._raise("handshake", f"{said}. No frame of this connection is used")
            self._contradiction = said
        elif found:
            self._handshake, self._contradiction = found, ""
            plane = (found.plane + self._seen) % self.microscope.planes
            if self._handed and plane != self._numbering.plane:
                self._raise(
                    "handshake",
                    f"{place}: came after {self._handed} frames whose first was taken as plane 0, found plane "
                    f"{found.plane}; planes are right from frame {self._numbering.index} on. Send it before the frames",
                )
                self._numbering.start(plane)
