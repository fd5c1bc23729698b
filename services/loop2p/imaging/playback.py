"""Frames from a recording, at the pace of the microscope or flat out."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from loop2p.imaging.frame import Frame
from loop2p.imaging.movies import Axes, open_movie
from loop2p.protocol import Alarm, FileError, Microscope
from loop2p.runtime import RigClock

MOST_FRAMES = 8
"""Frames handed out in one call, so that the service's other work is never kept waiting."""


class LeadIn(Struct, frozen=True, forbid_unknown_fields=True):
    """Frames first..last, played `count` times before everything else: a baseline out of a short recording."""

    first: int
    """From 0; negative counts from the end, -1 is the last frame."""
    last: int
    """Included."""
    count: Annotated[int, Meta(ge=1)]


class FileOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """`kind = "file"`: a recording is played."""

    path: str
    """npy, tif, h5, nwb, or a folder of single-frame tifs; relative to the rig file's folder."""
    dataset: str = ""
    """HDF5: default "data". NWB: name of the TwoPhotonSeries, default the only one."""
    axes: Axes | None = None
    """Default: (frame, column, row) in NWB, as its standard says; (frame, row, column) in all else."""
    pattern: str = "*.tif*"
    """Which files of a folder, such as "*_Ch2_*.ome.tif"."""
    rate_hz: Annotated[float, Meta(ge=0)] | None = None
    """Frames of all planes per second on the wall clock; default the rig file's rate; 0: flat out. Frame time is
    always by the rig file's rate."""
    loop: Annotated[int, Meta(ge=0)] = 1
    """How many times; 0: for ever."""
    first: int = 0
    last: int = -1
    """Included; negative counts from the end."""
    lead_in: LeadIn | None = None
    inverted: bool = False
    """True: dark is 65535 (or 255)."""


class Score:
    """Which frame of the file is played k-th: the lead-in, then first..last `loop` times."""

    def __init__(self, lead_in: range, lead_in_count: int, body: range, loop: int) -> None:
        self.lead_in, self.body = lead_in, body
        self.n_lead_in = len(lead_in) * lead_in_count
        self.n_frames = self.n_lead_in + loop * len(body) if loop else None
        """None: never ends."""

    def frame(self, k: int) -> int | None:
        """Frame of the file, or None after the end."""
        if self.n_frames is not None and k >= self.n_frames:
            return None
        if k < self.n_lead_in:
            return self.lead_in[k % len(self.lead_in)]
        return self.body[(k - self.n_lead_in) % len(self.body)]


def score(options: FileOptions, n_frames: int, planes: int, place: str) -> Score:
    """Check the ranges against the file. Raises FileError.

    Planes are interleaved, so what is followed by more must consist of whole volumes.
    """

    def span(first: int, last: int, key: str, whole: bool) -> range:
        start, stop = (k + n_frames if k < 0 else k for k in (first, last))
        if not 0 <= start <= stop < n_frames:
            raise FileError(f"{place}: {key}: found frames {first} to {last}, expected a range in 0 to {n_frames - 1}")
        n = stop - start + 1
        if start % planes or (whole and n % planes):
            raise FileError(
                f"{place}: {key}: found {n} frames from frame {start} on, expected to begin"
                f"{' and end' if whole else ''} with a whole volume of {planes} planes"
            )
        return range(start, stop + 1)

    body = span(options.first, options.last, "first, last", whole=options.loop != 1)
    lead = options.lead_in
    if lead is None:
        return Score(range(0), 0, body, options.loop)
    return Score(span(lead.first, lead.last, "lead_in", whole=True), lead.count, body, options.loop)


class Playback:
    """Plays a recording; its clock starts when frames are first asked for. At the end: alarm "microscope-ended"."""

    Options = FileOptions

    def __init__(
        self,
        options: FileOptions,
        microscope: Microscope,
        clock: RigClock,
        folder: Path = Path(),
        place: str = "file",
    ) -> None:
        """Raises FileError if the file cannot be read or does not fit the rig file."""
        self.options, self.microscope, self.clock = options, microscope, clock
        try:
            movie = open_movie(folder / options.path, options.dataset, options.axes, options.pattern)
        except FileError as error:
            raise FileError(f"{place}.path: {error}") from None
        self._movie = movie
        try:
            if (movie.height, movie.width) != (microscope.height, microscope.width):
                turned = (movie.width, movie.height) == (microscope.height, microscope.width)
                raise FileError(
                    f"{movie.name}: found images of {movie.height} x {movie.width} (height x width), expected "
                    f"{microscope.height} x {microscope.width} as in the rig file"
                    f"{'; rows and columns are exchanged: set axes' if turned else ''}"
                )
            if options.inverted and movie.dtype.kind != "u":
                raise FileError(f"{movie.name}: found {movie.dtype}, expected uint8 or uint16 where inverted = true")
            self._score = score(options, movie.n_frames, microscope.planes, movie.name)
        except FileError as error:
            movie.close()
            raise FileError(f"{place}: {error}") from None
        rate_hz = microscope.rate_hz if options.rate_hz is None else options.rate_hz
        self._period_ns = 1e9 / rate_hz if rate_hz else 0.0
        self._buffers = (movie.buffer(), movie.buffer())
        self._index = 0
        self._start_ns: int | None = None
        self._ended = ""

    def fileno(self) -> int:
        return -1

    def due_ns(self) -> int | None:
        if self._ended:
            return None
        return 0 if self._start_ns is None else self._start_ns + round(self._index * self._period_ns)

    def counters(self) -> dict[str, int]:
        return {"frames": self._index, "frames_total": self._score.n_frames or 0, "ended": int(bool(self._ended))}

    def why_not_ready(self) -> list[str]:
        return [f"{self._ended}; start imaging again, or set loop"] if self._ended else []

    def close(self) -> None:
        self._ended = self._ended or f"{self._movie.name}: closed"
        self._movie.close()

    def frames(self) -> Iterable[Frame | Alarm]:
        if self._start_ns is None:
            self._start_ns = time.perf_counter_ns()
        for _ in range(MOST_FRAMES):
            due_ns = self.due_ns()
            if due_ns is None or due_ns > time.perf_counter_ns():
                return
            k = self._score.frame(self._index)
            if k is None:
                yield self._end(f"{self._movie.name}: played to its end, {self._index} frames")
                return
            try:
                pixels = self._movie.read(k, self._buffers[self._index % 2])
            except Exception as error:  # a damaged file: each reader has its own kinds
                yield self._end(f"{self._movie.name}: stopped at frame {k}: {type(error).__name__}: {error}")
                return
            index = self._index
            self._index += 1
            time_s = index / self.microscope.rate_hz
            plane = index % self.microscope.planes
            yield Frame(pixels, self.options.inverted, index, plane, time_s, self.clock.now_ns())

    def _end(self, why: str) -> Alarm:
        self._ended = why
        return Alarm(code="microscope-ended", active=True, detail=why)
