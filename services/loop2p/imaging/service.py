"""Imaging as a service: a source's frames through the core; references and raw frames in the run folder."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta, Struct

from loop2p.imaging.core import ImagingCore, ImagingSettings
from loop2p.imaging.frame import Source
from loop2p.imaging.rawfile import RawFiles
from loop2p.imaging.reference import load_references, save_references
from loop2p.imaging.rois import RoiFile, read_rois
from loop2p.imaging.sources import build_source
from loop2p.protocol import Alarm, Envelope, FileError, Message, Phase, Preview, Raw, Rois, Session, Traces, control
from loop2p.runtime import Context, Input, Service

REFERENCES = "imaging_references.npz"
"""In the run folder; also what `day1` names."""
LOST_FRAMES = ("frames_dropped", "frames_refused", "frames_skipped", "partial_frames")
"""Counters of a source that stand for frames which the microscope made and no trace has."""


class ImagingOptions(ImagingSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Imaging's options in the rig file: the settings of the core, and where things are."""

    source: dict[str, Any]
    """`kind` = "tcp", "file" or "package.module:Class", and that source's own options."""
    rois: list[RoiFile] = []
    day1: str = ""
    """`imaging_references.npz` of the run in which the ROIs were drawn; relative to the rig file's folder."""


REHEARSE_NS = 2_500_000
"""So long before the next frame is due, the last one is worked through once more, for nothing: in the pause between two
frames the processor's caches have gone to others (measured: 1.1 ms for the transforms after a pause, 0.5 without)."""
SHORTEST_PAUSE_NS = 4 * REHEARSE_NS


class LastFrame(Struct, frozen=True):
    """Task's snapshot in a session: the last frame that it decided from."""

    frame: Annotated[int, Meta(ge=0)]
    plane: Annotated[int, Meta(ge=0)]
    age_s: float
    """How long ago it came in."""


class _Frames:
    """The source, as the runtime reads it: an Input. Rehearses before a frame is due, if there is time for it."""

    def __init__(self, source: Source, read: Callable[[], Iterable[Message]], rehearse: Callable[[], None]) -> None:
        self.fileno, self._source, self._read, self._rehearse = source.fileno, source, read, rehearse
        self._last_ns = 0
        self._rehearse_ns: int | None = None

    def due_ns(self) -> int | None:
        due_ns, rehearse_ns = self._source.due_ns(), self._rehearse_ns
        if due_ns is None or rehearse_ns is None:
            return rehearse_ns if due_ns is None else due_ns
        return min(due_ns, rehearse_ns)

    def read(self) -> Iterable[Message]:
        came = False
        for message in self._read():
            came = came or isinstance(message, Traces)
            yield message
        now_ns = time.perf_counter_ns()
        if came:
            pause_ns, self._last_ns = now_ns - self._last_ns, now_ns
            self._rehearse_ns = now_ns + pause_ns - REHEARSE_NS if SHORTEST_PAUSE_NS < pause_ns < 10**9 else None
        elif self._rehearse_ns is not None and now_ns >= self._rehearse_ns:
            self._rehearse_ns = None
            self._rehearse()


class Imaging(Service):
    """Takes in frames, registers them, and publishes the mean fluorescence of each ROI.

    A frame that can't be trusted gives traces that are not valid, and an alarm; it never stops the service.
    """

    Options = ImagingOptions
    subscribes = (Session, Phase)
    publishes = (Traces, Rois, Preview, Raw, Alarm)

    def __init__(
        self, core: ImagingCore, source: Source, run_folder: Callable[[str], Path], log: logging.Logger
    ) -> None:
        self.core, self.source, self.run_folder, self.log = core, source, run_folder, log
        self.run_id = ""
        self.raw: RawFiles | None = None
        self._raw_before = (0, 0)
        """Raw frames expected and written in earlier sessions of this process."""
        self._announced = False
        self._input = _Frames(source, self.read, core.rehearse)
        self._troubles: set[str] = set()

    @classmethod
    def from_rig(cls, options: ImagingOptions, context: Context) -> Self:
        file = context.rig_file
        folder, microscope = file.path.parent, file.rig.microscope
        place = f"{file.path}: services.{context.name}.options"
        shape = (microscope.height, microscope.width)
        rois = {}
        for k, one in enumerate(options.rois):
            if not 0 <= one.plane < microscope.planes:
                raise FileError(f"{place}.rois[{k}].plane: found {one.plane}, expected 0 to {microscope.planes - 1}")
            if one.plane in rois:
                raise FileError(
                    f"{place}.rois[{k}].plane: plane {one.plane} has ROIs already, expected one file a plane"
                )
            rois[one.plane] = read_rois(one, folder, shape)
        try:
            day1 = load_references(folder / options.day1) if options.day1 else {}
        except (OSError, ValueError) as error:
            raise FileError(f"{place}.day1: {error}") from None
        try:
            core = ImagingCore(options, microscope, rois, {k: reference.image for k, reference in day1.items()})
        except ValueError as error:
            raise FileError(f"{place}: {error}") from None
        core.warm()
        source = build_source(
            options.source,
            microscope,
            context.clock,
            folder,
            place=str(file.path),
            text=file.text,
            prefix=f"services.{context.name}.options.source",
        )
        service = cls(core, source, context.run_folder, context.log)
        service.take_over(context)
        return service

    def take_over(self, context: Context) -> None:
        """A successor's frames go on from its predecessor's: task knows the last one that it decided from."""
        go_on = getattr(self.source, "go_on", None)
        reply = context.ask_peer("task", control.SnapshotRequest()) if go_on is not None else None
        if go_on is None or not isinstance(reply, control.SnapshotReply) or not reply.data:
            return
        try:
            last = msgspec.msgpack.decode(reply.data, type=LastFrame)
        except (msgspec.DecodeError, RecursionError) as error:
            context.log.warning("task's snapshot is of no use, frames are counted from 0: %s", error)
            return
        go_on(last.frame, last.plane, last.age_s)
        self.log.info("frames go on from %d, which came %.2f s ago", last.frame, last.age_s)

    # ---------------------------------------------------------------- frames

    def inputs(self) -> Sequence[Input]:
        return (self._input,)

    def read(self) -> Iterable[Message]:
        """What the source has: at most a few frames. Traces of a frame leave before anything else is done with it."""
        for item in self.source.frames():
            if isinstance(item, Alarm):
                yield item
                continue
            yield from self.core.step(item)
            if self.raw and self.core.in_session and item.pixels.shape == self.core.shape:
                self.raw.write(item)
                yield from self._alarm("disk-full", self.raw.trouble)
            yield from self._save()

    def tick(self) -> Iterable[Message]:
        """The ROI sets are known before the first frame."""
        if not self._announced:
            self._announced = True
            yield self.core.rois_message()

    # ---------------------------------------------------------------- sessions

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        message = envelope.message
        if isinstance(message, Session) and message.run_id and message.run_id != self.run_id:
            if not envelope.header.resent:
                self.core.forget_recent()
            return self._enter(message.run_id)
        if isinstance(message, Phase):
            self.core.in_session = message.phase not in ("idle", "ended")
        return ()

    def _enter(self, run_id: str) -> Iterable[Message]:
        """Prepare for a session: take a predecessor's references from its folder, or leave ours there."""
        self.run_id = run_id
        folder = self.run_folder(run_id)
        if self.core.settings.raw == "local":
            self._leave_raw()
            self.raw = RawFiles(folder)
        path = folder / REFERENCES
        if path.exists():
            try:
                yield from self.core.take_references(load_references(path))
                self.log.info("imaging goes on with the references in %s", path)
                return
            except (OSError, ValueError) as error:
                self.log.warning("imaging builds its references anew, those of the run are of no use: %s", error)
        yield from self._save(self.core.references)

    def _save(self, references: Any = None) -> Iterable[Message]:
        """Leave new references for a successor."""
        found = references or self.core.new_references()
        if not found or not self.run_id or not self.core.registrar:
            return
        path = self.run_folder(self.run_id) / REFERENCES
        try:
            save_references(path, found)
        except OSError as error:
            yield from self._alarm("references-not-saved", f"{path}: {error}; a successor would have to build its own")
        else:
            yield from self._alarm("references-not-saved", "")

    def _leave_raw(self) -> None:
        if self.raw:
            self.raw.close()
            self._raw_before = self._raw_counts()
            self.raw = None

    def _raw_counts(self) -> tuple[int, int]:
        expected, written = self._raw_before
        return (expected + self.raw.expected, written + self.raw.written) if self.raw else (expected, written)

    def _alarm(self, code: str, trouble: str) -> Iterable[Message]:
        if bool(trouble) != (code in self._troubles):
            (self._troubles.add if trouble else self._troubles.discard)(code)
            yield Alarm(code=code, active=bool(trouble), detail=trouble or "written again")

    # ---------------------------------------------------------------- state

    def why_not_ready(self) -> list[str]:
        return [*self.source.why_not_ready(), *self.core.why_not_ready()]

    def counters(self) -> dict[str, int]:
        theirs = self.source.counters()
        raw = dict(zip(("raw_expected", "raw_written"), self._raw_counts(), strict=True))
        return {
            **theirs,
            **self.core.counters(),
            "frames_dropped": sum(theirs.get(name, 0) for name in LOST_FRAMES),
            **(raw if self.core.settings.raw == "local" else {}),
        }

    def gauges(self) -> dict[str, float]:
        return self.core.gauges()

    def snapshot(self) -> bytes:
        return self.core.snapshot()

    def close(self) -> Iterable[Message]:
        self.source.close()
        self._leave_raw()
        return ()
