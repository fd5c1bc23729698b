"""Writes everything the bus carries into the session's journal, and says what is safe there."""

import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

from msgspec import Struct, structs

from loop2p.protocol import (
    MESSAGES,
    Alarm,
    Audit,
    Envelope,
    External,
    Message,
    Phase,
    Session,
    Swap,
    WireError,
    control,
    seal,
)
from loop2p.protocol.rig import PositiveInt
from loop2p.recording.core import NOT_RECORDED, Auditor
from loop2p.recording.external import KINDS, Intake
from loop2p.recording.journal import CAN_WAIT, File, JournalWriter, Recorded, open_segment, read_journal, segments
from loop2p.runtime import Context, Service

REMEMBERED = 1000
"""Task's messages of before the session that are kept for its journal."""
LOOK_NS = 1_000_000_000
"""How often the disk is looked at."""
READ_BACK = 250
"""Records of earlier segments read a tick, so that a restarted recorder keeps up with the bus meanwhile."""
IN_SESSION = ("baseline", "calibration", "closed_loop", "paused")
LINGER_NS = 5_000_000_000
"""How long after a session's end the journal stays open, where the rig stays up."""


class RecordingOptions(Struct, frozen=True, forbid_unknown_fields=True):
    preview: bool = False
    """Record preview images too."""
    hold_mb: PositiveInt = 64
    """How much waits in memory while the disk takes nothing; beyond it messages are lost, and counted."""
    companions: tuple[str, ...] = ()
    """Those which hand in streams of other programs, and without which no session starts."""


class Recording(Service):
    """Keeps the record. A disk that takes nothing is an alarm, never a crash: what waits is written when it can be."""

    Options: ClassVar[type[Struct]] = RecordingOptions
    subscribes = tuple(MESSAGES.values())
    publishes = (Alarm, Audit, External)

    def __init__(
        self,
        options: RecordingOptions,
        context: Context,
        open_file: Callable[[Path], File] = open_segment,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self.options, self.context = options, context
        self._open_file, self._free_bytes = open_file, free_bytes
        self._excluded = NOT_RECORDED - {"imaging.preview"} if options.preview else NOT_RECORDED
        self._state: dict[tuple[str, str, str], Envelope] = {}
        self._asked: deque[Envelope] = deque(maxlen=REMEMBERED)
        self._run_id = ""
        self._phase = "idle"
        self._ended_ns: int | None = None
        self._journal: JournalWriter | None = None
        self._intake = Intake(options.companions, context.clock.now_ns())
        self._auditor = Auditor(context.name, self._excluded)
        self._earlier: Iterator[Recorded] = iter(())
        self._segments = 1
        self._blocked: dict[tuple[str, str], int] = {}
        self._own_seq: dict[str, int] = {}
        self._written = self._unwritten = 0
        self._write_error = self._folder_error = ""
        self._free = 0
        self._alarm_active = False
        self._look_ns = 0
        self._look(context.clock.now_ns())

    @classmethod
    def from_rig(cls, options: Any, context: Context) -> Self:
        return cls(options, context)

    # ------------------------------------------------------------ messages

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        """Write an envelope as it came; only sessions, phases and heartbeats are looked into."""
        if envelope.header.source == self.context.name:
            return  # our own, where the bus brings them back: already written
        if envelope.topic == Session.topic:
            yield from self._take_session(envelope)
        if self._journal is None:
            self._remember(envelope)
        else:
            self._record(envelope, self.context.clock.now_ns())
            if envelope.topic not in CAN_WAIT and not self._write_error:
                yield from self._flush()
            if self._phase == "ended" or not envelope.topic.startswith("task."):
                self._remember(envelope)  # for the next session's journal
        if envelope.topic == Phase.topic:
            phase = envelope.message
            assert isinstance(phase, Phase)
            self._phase = phase.phase
            self._ended_ns = self.context.clock.now_ns() if phase.phase == "ended" else None

    def tick(self) -> Iterable[Message]:
        """Flush what could wait, look after the disk, read back what an earlier recorder wrote."""
        yield from self._flush()
        now = self.context.clock.now_ns()
        if now >= self._look_ns + LOOK_NS:
            self._look(now)
            yield from self._alarm()
            for alarm in self._intake.alarms(now):
                yield self._own(alarm)
        self._read_back(READ_BACK)
        if self._ended_ns is not None and now >= self._ended_ns + LINGER_NS:
            yield from self._finish()

    def close(self) -> Iterable[Message]:
        """The audit, which is also the journal's last message."""
        yield from self._finish()

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        """Take what a companion hands in (external.py). What there is no room for is refused, and may come again."""
        if ask.kind not in KINDS:
            return super().answer(ask)
        found = self._intake.judge(ask, self.context.clock.now_ns())
        if isinstance(found, str):
            return control.Answer(False, found), ()
        if found is None:
            return control.Answer(True), ()
        if self._journal is not None and self._journal.pending_bytes >= self.options.hold_mb * 1_000_000:
            return control.Answer(False, f"{self._disk_trouble() or 'the disk is slow'}; hand it in again"), ()
        self._intake.took(ask, found)
        return control.Answer(True), [self._own(found)]

    # ------------------------------------------------------------ what the runtime asks

    def why_not_ready(self) -> list[str]:
        rules = self.context.rig_file.rig.data
        why = [self._folder_error] if self._folder_error else []
        if self._phase not in IN_SESSION and self._free < rules.free_gb * 1e9:
            why.append(
                f"{rules.folder}: {self._free / 1e9:.1f} GB free, expected {rules.free_gb:g}; make room or lower "
                f"data.free_gb in the rig file"
            )
        if self._phase not in IN_SESSION:
            why += self._intake.why_not_ready(self.context.clock.now_ns())
        if trouble := self._disk_trouble():
            why.append(trouble)
        if self._journal is None:
            why.append("no session yet: nothing is being recorded; start one with `loop2p run`")
        return why

    def counters(self) -> dict[str, int]:
        return {"messages_written": self._written, "messages_unwritten": self._unwritten, **self._intake.counters()}

    def gauges(self) -> dict[str, float]:
        waiting = self._journal.pending_bytes if self._journal is not None else 0
        limit = self.context.rig_file.rig.data.free_gb * 1e9
        return {
            "disk_free_bytes": float(self._free),
            "disk_free_limit_bytes": limit,
            "journal_waiting_bytes": float(waiting),
        }

    def flushed(self) -> dict[str, dict[str, int]]:
        """Instance -> topic -> number up to which all that came in is safe; never beyond a message that was lost."""
        if self._journal is None:
            return {}
        return {
            instance: {
                topic: min(seq, self._blocked.get((instance, topic), seq))
                for topic, seq in topics.items()
                if self._blocked.get((instance, topic), 0) >= 0
            }
            for instance, topics in self._journal.flushed.items()
        }

    # ------------------------------------------------------------ the journal

    def _take_session(self, envelope: Envelope) -> Iterable[Message]:
        session = envelope.message
        assert isinstance(session, Session)
        if not re.fullmatch(r"\w[\w.+-]{0,199}", session.run_id):
            raise WireError(
                f"{envelope.topic} from {envelope.header.source}: run_id {session.run_id[:60]!r} can't name a folder; "
                f"expected letters, digits, '_', '-', '+' and '.'"
            )
        if session.run_id == self._run_id:
            return
        yield from self._finish()
        self._run_id, self._ended_ns = session.run_id, None
        folder = Path(self.context.rig_file.rig.data.folder) / session.run_id
        before = segments(folder)
        self._segments = len(before) + 1
        self._auditor = Auditor(self.context.name, self._excluded)
        self._earlier = self._read_segments(before)
        self._blocked = {}
        self._journal = JournalWriter(partial(self._open, session.run_id))
        now = self.context.clock.now_ns()
        for known in sorted([*self._state.values(), *self._asked], key=lambda e: e.header.sent_ns):
            self._record(_sent_again(known), now)
        self._asked.clear()
        self._state = {key: known for key, known in self._state.items() if not key[1].startswith("task.")}

    def _open(self, run_id: str) -> File:
        return self._open_file(self.context.run_folder(run_id))

    def _remember(self, envelope: Envelope) -> None:
        """Keep what a journal that begins later must hold: the state, and what was asked of task."""
        if MESSAGES[envelope.topic].state and envelope.topic != Session.topic:
            told = envelope.message if envelope.topic in (Alarm.topic, Swap.topic) else None
            code = told.code if isinstance(told, Alarm) else told.service if isinstance(told, Swap) else ""
            self._state[envelope.header.source, envelope.topic, code] = envelope
        elif envelope.topic.startswith("task."):
            self._asked.append(envelope)

    def _record(self, envelope: Envelope, now_ns: int, in_any_case: bool = False) -> None:
        if envelope.topic in self._excluded:
            return
        assert self._journal is not None
        key = (envelope.header.instance, envelope.topic)
        room = in_any_case or self._journal.pending_bytes < self.options.hold_mb * 1_000_000
        if room:
            self._journal.write(envelope, now_ns)
            self._written += 1
        else:
            self._unwritten += 1
            self._blocked.setdefault(key, envelope.header.seq - 1)
        self._auditor.take(envelope, now_ns, self._segments, room)

    def _flush(self) -> Iterable[Message]:
        if self._journal is None:
            return
        try:
            self._journal.flush()
        except OSError as error:
            self._write_error = f"{error}"
        else:
            self._write_error = ""
        yield from self._alarm()

    def _finish(self) -> Iterable[Message]:
        """Audit and close the journal that is open, if any."""
        if self._journal is None:
            return
        yield from self._flush()
        self._read_back(None)
        audit = self._auditor.audit(self._segments)
        if self._write_error:  # what waits was counted as written
            note = f"the last {self._journal.pending_bytes} bytes are not in the file: {self._write_error}"
            audit = structs.replace(audit, complete=False, notes=[*audit.notes, note])
        self._own(audit)
        try:
            self._journal.close()
        except OSError as error:
            self.context.log.error("run %s: the journal's end could not be written: %s", self._run_id, error)
        for note in audit.notes:
            self.context.log.warning("run %s: audit: %s", self._run_id, note)
        self._journal = None
        yield audit

    def _own(self, message: Message) -> Message:
        """Write a message of our own, with the number the bus is about to give it."""
        seq = self._own_seq.get(message.topic, 0)
        self._own_seq[message.topic] = seq + 1
        now = self.context.clock.now_ns()
        envelope = seal(message, self.context.name, self.context.instance, seq, now)
        self._remember(envelope)
        if self._journal is not None:
            self._record(envelope, now, in_any_case=True)
        return message

    @staticmethod
    def _read_segments(files: list[Path]) -> Iterator[Recorded]:
        for number, file in enumerate(files, 1):
            for record in read_journal(file):
                record.segment = number
                yield record

    def _read_back(self, at_most: int | None) -> None:
        try:
            for record in islice(self._earlier, at_most):
                self._auditor.take(record, record.log_ns, record.segment)
        except OSError as error:
            self.context.log.error("run %s: an earlier segment can't be read for the audit: %s", self._run_id, error)
            self._earlier = iter(())

    # ------------------------------------------------------------ the disk

    def _look(self, now_ns: int) -> None:
        """How much room is there, and may we write?"""
        self._look_ns = now_ns
        folder = Path(self.context.rig_file.rig.data.folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._journal is None:
                with tempfile.TemporaryFile(dir=folder):
                    pass
            self._free = self._free_bytes(folder)
            self._folder_error = ""
        except OSError as error:
            self._folder_error = f"data folder {folder} can't be written: {error}; see data.folder in the rig file"

    def _disk_trouble(self) -> str:
        """What is wrong with the disk right now, empty if nothing."""
        limit = self.context.rig_file.rig.data.free_gb * 1e9 / 10
        if self._write_error and self._journal is not None:
            return (
                f"run {self._run_id}: the journal can't be written: {self._write_error}; "
                f"{self._journal.pending_bytes} bytes wait in memory, {self._unwritten} messages are lost; make room"
            )
        if not self._folder_error and self._free < limit:
            folder = self.context.rig_file.rig.data.folder
            return f"{folder}: {self._free / 1e9:.2f} GB free, expected at least {limit / 1e9:g}; make room"
        return ""

    def _alarm(self) -> Iterable[Message]:
        """Tell the operator when trouble with the disk comes or goes."""
        trouble = self._disk_trouble()
        if bool(trouble) != self._alarm_active:
            self._alarm_active = bool(trouble)
            yield self._own(Alarm(code="disk-full", active=self._alarm_active, detail=trouble or "the disk takes data"))


def _sent_again(envelope: Envelope) -> Envelope:
    """A message of before the journal's begin, marked so that the audit doesn't expect its neighbours."""
    header = structs.replace(envelope.header, resent=True)
    return Envelope(envelope.topic, header, envelope.body, envelope.buffers)
