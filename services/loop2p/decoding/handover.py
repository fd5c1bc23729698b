"""What a successor is handed: the frames of the last 30 s, which imaging keeps in its snapshot."""

import msgspec
from msgspec import Struct

from loop2p.protocol import Cause, Traces


class RecentTraces(Struct, frozen=True):
    """The latest frames whose traces were valid, oldest first.

    round(30 s x plane rate) + 2 of them make a successor's values exactly those of its predecessor: F0's window for
    each of the three values that are averaged.
    """

    plane: int
    n_rois: int
    frames: list[int]
    """Frame indices, as in `cause`."""
    times_s: list[float]
    """Frame times, as in `cause`."""
    f: bytes
    """(n_frames, n_rois) float32, little-endian, C order."""


def read_snapshot(data: bytes) -> list[Traces]:
    """Imaging's snapshot as the traces it stands for. Raises ValueError where it is malformed."""
    try:
        recent = msgspec.msgpack.decode(data, type=RecentTraces)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    n, row = len(recent.frames), 4 * recent.n_rois
    if len(recent.times_s) != n or len(recent.f) != n * row:
        raise ValueError(
            f"{n} frames, {len(recent.times_s)} times, {len(recent.f)} bytes of F, "
            f"expected {n} times and {n} x {recent.n_rois} float32"
        )
    return [
        Traces(cause=Cause(frame, recent.plane, time_s, 0), plane=recent.plane, f=recent.f[k * row : (k + 1) * row])
        for k, (frame, time_s) in enumerate(zip(recent.frames, recent.times_s, strict=True))
    ]
