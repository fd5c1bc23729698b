"""What the bytes of a microscope's stream mean: the handshake, frames without a header, their numbering. No sockets."""

import struct
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

HANDSHAKE = struct.Struct("<3I")
"""total frames, current plane, planes (docs/experiment.md 2.9)."""
MOST_PLANES = 255
"""More planes than this is no handshake but noise."""
SIZES = ((1024, 1024), (512, 796), (512, 800), (512, 512), (256, 796), (256, 256), (128, 128))
"""(height, width) that microscopes commonly send, for the hint when the size is wrong."""


class Format(Struct, frozen=True):
    """How one image lies in the stream."""

    height: int
    width: int
    dtype: Literal["u1", "u2"] = "u2"
    """uint8, or little-endian uint16."""
    order: Literal["column", "row"] = "column"
    """column: the first bytes are the image's left column, top to bottom (MATLAB's order)."""

    @property
    def frame_bytes(self) -> int:
        return self.height * self.width * int(self.dtype[1])

    def __str__(self) -> str:
        return f"{self.height} x {self.width} x {self.dtype[1]} bytes = {self.frame_bytes}"

    def view(self, memory: NDArray[np.uint8]) -> NDArray[Any]:
        """(height, width) of one frame's bytes, without a copy; transposed for column order."""
        pixels = memory.view(f"<{self.dtype}")
        if self.order == "column":
            return pixels.reshape(self.width, self.height).T
        return pixels.reshape(self.height, self.width)


class FrameRing:
    """Whole frames out of a byte stream, without a copy: bytes are received where the frames are looked at.

    Use: `take` until it gives None, fill part of `room()`, say `add(n)`. A frame stays until the next is taken.
    """

    def __init__(self, form: Format, slots: int = 8) -> None:
        size = form.frame_bytes
        memory = np.zeros(slots * size, np.uint8)
        self.frame_bytes = size
        self._bytes = memory.data
        self._views = [form.view(memory[k * size : (k + 1) * size]) for k in range(slots)]
        self._filled = 0
        self._taken = 0

    @property
    def ready(self) -> bool:
        """A whole frame is waiting."""
        return self._filled >= (self._taken + 1) * self.frame_bytes

    @property
    def over(self) -> int:
        """Bytes of a frame that is not whole yet; meaningful when none is ready."""
        return self._filled - self._taken * self.frame_bytes

    def take(self) -> NDArray[Any] | None:
        """The next whole frame, or None."""
        if not self.ready:
            return None
        self._taken += 1
        return self._views[self._taken - 1]

    def room(self) -> memoryview:
        """Where the next bytes go: to the end of the ring, so that one read may bring several frames.

        It never covers the frame taken last unless the same read also completes a newer one.
        """
        if self._taken == len(self._views):
            self._taken = self._filled = 0
        return self._bytes[self._filled :]

    def add(self, n_bytes: int) -> None:
        """So many bytes of `room()` have come in."""
        self._filled += n_bytes

    def clear(self) -> None:
        """Forget everything: a new peer begins with a whole frame."""
        self._filled = self._taken = 0


class Numbering:
    """Index, plane and time of each frame. Frames carry no counter, so it counts.

    The index is raised once at a reconnect and never by a late burst, so that decisions do not depend on how the
    network delivers (design: two stamps a frame).
    """

    def __init__(self, planes: int, rate_hz: float) -> None:
        self.planes, self.rate_hz = planes, rate_hz
        self.index = 0
        """Of the next frame."""
        self.plane = 0
        """Of the next frame."""

    def next(self) -> tuple[int, int, float]:
        """Index, plane and time (s) of the frame that has just come."""
        index, plane = self.index, self.plane
        self.index += 1
        self.plane = (plane + 1) % self.planes
        return index, plane, index / self.rate_hz

    def start(self, plane: int) -> None:
        """The first connection begins, or a late handshake tells the next frame's plane."""
        self.plane = plane

    def resume(self, plane: int, elapsed_s: float) -> int:
        """A connection after another begins with `plane`, `elapsed_s` after the last frame of the one before.

        The index grows by elapsed time x rate, rounded so that each plane keeps its place in the volume. Returns how
        many indices were left out.
        """
        step = (plane - self.plane) % self.planes  # frames lost at least, for the planes to stay in step
        lost = elapsed_s * self.rate_hz - 1
        lost_volumes = max(0, int((lost - step) / self.planes + 0.5))
        skipped = step + lost_volumes * self.planes
        self.index += skipped
        self.plane = plane
        return skipped


class Handshake(Struct, frozen=True):
    """What a peer announces."""

    total_frames: int
    """0: not said."""
    plane: int
    """Of the connection's first frame, from 0."""
    planes: int


class HandshakeError(ValueError):
    """A handshake that contradicts the rig file; `noise` if it is no handshake at all."""

    def __init__(self, message: str, noise: bool) -> None:
        super().__init__(message)
        self.noise = noise


def read_handshake(data: bytes, planes: int, first_plane: int) -> Handshake:
    """Three little-endian uint32 -> handshake, checked against the rig's planes. Raises HandshakeError.

    `first_plane`: what the peer calls its first plane, 0 or 1 (MATLAB).
    """
    if len(data) != HANDSHAKE.size:
        raise HandshakeError(
            f"found {len(data)} bytes, expected {HANDSHAKE.size}: total frames, plane, planes as little-endian uint32",
            noise=True,
        )
    total, plane, found = HANDSHAKE.unpack(data)
    if found != planes:
        if struct.unpack(">3I", data)[2] == planes:  # MATLAB's tcpip objects write so unless told otherwise
            raise HandshakeError("found big-endian numbers, expected little-endian uint32", noise=False)
        noise = not 0 < found <= MOST_PLANES
        raise HandshakeError(f"found {found} planes, expected {planes} as in the rig file", noise)
    if not first_plane <= plane < first_plane + planes:
        raise HandshakeError(
            f"found plane {plane}, expected {first_plane} to {first_plane + planes - 1} "
            f"(handshake_first_plane = {first_plane})",
            noise=False,
        )
    return Handshake(total, plane - first_plane, found)


def guess_geometry(total_bytes: int) -> str:
    """A common image size of which so many bytes are a whole number of frames; empty if there is none."""
    for height, width in SIZES:
        for depth in (2, 1):
            if total_bytes and total_bytes % (height * width * depth) == 0:
                n = total_bytes // (height * width * depth)
                return f"the {total_bytes} bytes in all would make {n} x {height} x {width} uint{8 * depth}"
    return ""
