"""The contract between what takes frames in and what makes numbers of them: `Frame` and `Source`."""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

from loop2p.protocol import Alarm


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One raw image, as the microscope sent it."""

    pixels: NDArray[Any]
    """(height, width) VIEW; column-major senders give a transposed view, never copied. Valid until the next frame
    is taken."""
    inverted: bool
    """True: the real value is 65535 - v (uint8: 255 - v)."""
    index: int
    """Counts the frames of all planes, from 0."""
    plane: int
    time_s: float
    """Frame time: decisions depend on this alone."""
    arrival_ns: int
    """Rig clock, last byte in: for latency alone."""


class Source(Protocol):
    """Where frames come from: a microscope's socket, a file being played, another laboratory's class."""

    def fileno(self) -> int:
        """A socket to wait on; -1 if there is none now."""
        ...

    def due_ns(self) -> int | None:
        """When to ask for frames although nothing arrived (time.perf_counter_ns); None never, 0 at once."""
        ...

    def frames(self) -> Iterable[Frame | Alarm]:
        """What has come in. Never blocks; hands out at most a few frames a call, one at a time."""
        ...

    def counters(self) -> dict[str, int]:
        """Counts since the start (rising), for heartbeat and metrics."""
        ...

    def why_not_ready(self) -> list[str]:
        """What must be done before frames can come, a line each; empty when ready."""
        ...

    def close(self) -> None:
        """Release sockets and files."""
        ...
