"""What a run's journal says, in memory: the messages by class, and one clock for all of them."""

import math
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from msgspec import structs
from numpy.typing import ArrayLike, NDArray

from loop2p.protocol import (
    MESSAGES,
    Audit,
    Calibration,
    Cause,
    Command,
    Envelope,
    Fault,
    Heartbeat,
    Message,
    OptoCommand,
    Output,
    RewardCommand,
    Rois,
    Selection,
    Session,
    Traces,
    WireError,
)
from loop2p.recording.core import Auditor
from loop2p.recording.journal import Recorded, TornTail, read_journal, segments

M = TypeVar("M", bound=Message)
NOT_KEPT = frozenset({"imaging.raw", "imaging.preview", "rig.heartbeat"})
"""Read, counted, but not kept: pixels would not fit, heartbeats are summed up in `Life`."""


class Life(NamedTuple):
    """One start of one service, by its heartbeats."""

    source: str
    first: Heartbeat
    last: Heartbeat
    last_ns: int
    """Rig clock of the last one."""
    born_here: bool
    """Its very first heartbeat is in the journal, so its counts began at 0 in this run."""

    @property
    def ended(self) -> bool:
        return self.last.health == "stopped"

    def rise(self, name: str) -> int | None:
        """How much one of its counters rose in this run; None if it has no such counter."""
        if name not in self.last.counters:
            return None
        return self.last.counters[name] - (0 if self.born_here else self.first.counters.get(name, 0))


class Run:
    """A run, read from its journal. Raises FileNotFoundError if the folder has none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments = segments(folder)
        if not self.segments:
            raise FileNotFoundError(f"{folder}: no journal here, expected journal.mcap")
        self.torn: list[TornTail] = []
        self.malformed = 0
        self.end_ns = 0
        """Rig clock of the last record."""
        self.lives: dict[str, Life] = {}
        self.raw_frames: dict[int, int] = {}
        """Plane -> raw frames in the journal."""
        self._kept: dict[type[Message], list[Envelope]] = {}
        auditor = Auditor()
        seen: set[tuple[str, str, int]] = set()
        for record in read_journal(folder, self.torn):
            auditor.take(record, record.log_ns, record.segment)
            self.end_ns = max(self.end_ns, record.log_ns)
            key = (record.header.instance, record.topic, record.header.seq)
            if MESSAGES[record.topic].state:
                if key in seen:
                    continue  # sent again for a recorder that joined late
                seen.add(key)
            self._take(record)
        self.recomputed_audit = auditor.audit(len(self.segments))

    def _take(self, record: Recorded) -> None:
        try:
            message = record.message
        except WireError:
            self.malformed += 1
            return
        if isinstance(message, Heartbeat):
            life = self.lives.get(record.header.instance)
            if life is None:
                life = Life(record.header.source, message, message, record.log_ns, record.header.seq == 0)
            self.lives[record.header.instance] = life._replace(last=message, last_ns=record.log_ns)
        if record.topic == "imaging.raw":
            plane = int(getattr(message, "plane", 0))
            self.raw_frames[plane] = self.raw_frames.get(plane, 0) + 1
        if record.topic not in NOT_KEPT:
            self._kept.setdefault(type(message), []).append(record)

    @property
    def in_process(self) -> bool:
        """It ran without processes: no step in it took time."""
        return False

    # ------------------------------------------------------------ messages

    def of(self, kind: type[M]) -> list[M]:
        """All messages of a class, in the order they were written."""
        return [record.message for record in self._kept.get(kind, [])]  # type: ignore[misc]

    def with_headers(self, kind: type[M]) -> list[tuple[Envelope, M]]:
        """The same, each with the record it came in."""
        return [(record, record.message) for record in self._kept.get(kind, [])]  # type: ignore[misc]

    def last(self, kind: type[M]) -> M | None:
        """The newest message of a class: of a state, what holds at the end."""
        messages = self.of(kind)
        return messages[-1] if messages else None

    @property
    def session(self) -> Session:
        """What was run. A journal that was cut before it gives a session that says so."""
        return self.last(Session) or Session(run_id=self.folder.name, rig="", task="", simulated=False)

    @cached_property
    def rois(self) -> Rois | None:
        """The ROI sets, with reference images where any message had them."""
        every = self.of(Rois)
        return next((m for m in reversed(every) if m.buffers), every[-1] if every else None)

    @cached_property
    def animal(self) -> dict[str, Any]:
        """Keys of the animal file, those of its tables too; empty if it is no TOML (the text is in the session)."""
        try:
            data = tomllib.loads(self.session.animal)
        except tomllib.TOMLDecodeError:
            return {}
        nested = {k: v for table in data.values() if isinstance(table, dict) for k, v in table.items()}
        return nested | {k: v for k, v in data.items() if not isinstance(v, dict)}

    @property
    def selection(self) -> Selection | None:
        return self.last(Selection)

    @property
    def calibration(self) -> Calibration | None:
        return self.last(Calibration)

    @property
    def faults(self) -> list[Fault]:
        return self.of(Fault)

    @cached_property
    def audit(self) -> Audit:
        """Recording's own audit, checked against the file; the file's alone where recording was killed."""
        own = self.last(Audit)
        if own is None or own.segments < len(self.segments):
            why = "recording gave no audit (killed, or still running): this one was made from the journal"
            return structs.replace(self.recomputed_audit, notes=[*self.recomputed_audit.notes, why])
        found = self.recomputed_audit.topics
        fewer = [
            f"{topic}: recording counted {total.written} as written, the journal holds {found[topic].written}"
            for topic, total in own.topics.items()
            if topic in found and found[topic].written < total.written
        ]
        return structs.replace(own, complete=False, notes=[*own.notes, *fewer]) if fewer else own

    def commands(self, kind: type[RewardCommand] | type[OptoCommand]) -> dict[int, tuple[Envelope, Command]]:
        """Commands by id, each as it was first sent (it is repeated until it is acknowledged)."""
        first: dict[int, tuple[Envelope, Command]] = {}
        for record, command in self.with_headers(kind):
            first.setdefault(command.id, (record, command))
        return first

    # ------------------------------------------------------------ time

    @cached_property
    def frame_time(self) -> "FrameTime":
        """From rig clock to frame time, by the traces; by the outputs where no traces were kept."""
        frames = self._kept.get(Traces) or self._kept.get(Output, [])
        return FrameTime(record.header.cause for record in frames)


class MemoryRun(Run):
    """A run without processes, made of its messages. Nothing in it was lost, and nothing took any time."""

    def __init__(self, name: str, envelopes: Iterable[Envelope]) -> None:
        self.folder, self.segments = Path(name), []
        self.torn, self.malformed, self.end_ns = [], 0, 0
        self.lives, self.raw_frames = {}, {}
        self._kept = {}
        for envelope in envelopes:
            self._kept.setdefault(type(envelope.message), []).append(envelope)
        self.recomputed_audit = Audit(complete=True, topics={}, notes=["in-process: there was no journal to audit"])

    @property
    def in_process(self) -> bool:
        return True

    @cached_property
    def audit(self) -> Audit:
        return self.recomputed_audit


class FrameTime:
    """Maps rig clock (ns) to frame time (s).

    Every frame carries both: its time, and its arrival on the rig clock. Between two frames the map is a straight
    line through them; before the first and behind the last it goes on at one second a second. So an event at the
    moment a frame's last byte came in gets that frame's time. Without any frame it is the rig clock in seconds.
    """

    def __init__(self, causes: Iterable[Cause | None]) -> None:
        arrivals: list[int] = []
        times: list[float] = []
        last_ns, last_s = -1 << 63, -math.inf
        for arrival_ns, time_s in sorted((c.arrival_ns, c.time_s) for c in causes if c is not None):
            if arrival_ns > last_ns and time_s > last_s:
                last_ns, last_s = arrival_ns, time_s
                arrivals.append(arrival_ns)
                times.append(time_s)
        self.has_frames = bool(arrivals)
        self.arrivals = np.array(arrivals or [0], dtype=np.int64)
        self.times = np.array(times or [0.0])

    def __call__(self, rig_ns: ArrayLike) -> NDArray[np.float64]:
        """(n,) rig clock -> (n,) frame time."""
        at = np.asarray(rig_ns, dtype=np.int64)
        start, end = self.arrivals[0], self.arrivals[-1]
        inside = np.interp((at - start).astype(float), (self.arrivals - start).astype(float), self.times)
        before = self.times[0] + (at - start) / 1e9
        behind = self.times[-1] + (at - end) / 1e9
        mapped: NDArray[np.float64] = np.where(at < start, before, np.where(at > end, behind, inside))
        return mapped

    def rig_ns_of_zero(self) -> int:
        """Rig clock at frame time 0."""
        return int(self.arrivals[0] - round(self.times[0] * 1e9))
