"""Recording on the in-process bus: what is in the journal, what is said to be safe, what is alarmed."""

import errno
import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from synthetic_session import make_session

from loop2p.protocol import (
    MESSAGES,
    Alarm,
    Audit,
    Envelope,
    Heartbeat,
    Lick,
    Message,
    Output,
    Phase,
    Session,
    Show,
    WireError,
    parse_rig,
    seal,
)
from loop2p.recording.journal import open_segment, read_journal, segments
from loop2p.recording.service import Recording, RecordingOptions
from loop2p.runtime import Context, LocalBus, RigClock

GB = 10**9


class HandClock(RigClock):
    """A rig clock that the test moves."""

    at_ns = 1_000_000_000

    def now_ns(self) -> int:
        return self.at_ns


class Rig:
    """A recorder with a disk that the test fills."""

    def __init__(self, folder: Path, open_file: Callable[[Path], Any] = open_segment, **options: Any) -> None:
        lines = ['name = "t"', "[data]", f'folder = "{folder.as_posix()}"', "free_gb = 2.0"]
        for k, role in enumerate(("imaging", "decoding", "task", "stimulus", "actuation", "recording")):
            lines.append(f"[services.{role}]")
            lines += [f'{key} = "inproc://{key}{k}"' for key in ("publish", "bulk", "control")]
        self.clock, self.free, self.folder = HandClock(), 100 * GB, folder
        context = Context(
            "recording", "recording-1", parse_rig("\n".join(lines)), self.clock, logging.getLogger("test")
        )
        self.recorder = Recording(
            RecordingOptions(**options), context, open_file=open_file, free_bytes=lambda _: self.free
        )
        self.bus = LocalBus(self.recorder, wire=True, now_ns=count().__next__)
        self.closing: list[Message] = []

    def start(self, run_id: str = "run-1") -> None:
        self.bus.publish(Session(run_id=run_id, rig="", task="", simulated=True), "task")

    def give(self, *envelopes: Envelope) -> list[Message]:
        return [m for e in envelopes for m in self.recorder.receive(e)]

    def tick(self, seconds: float = 1.0) -> None:
        self.clock.at_ns += int(seconds * 1e9)
        self.bus.tick()

    def close(self) -> Audit:
        self.closing = list(self.recorder.close())
        assert isinstance(self.closing[-1], Audit)
        return self.closing[-1]

    def journal(self, run_id: str = "run-1") -> list[Envelope]:
        return list(read_journal(self.folder / run_id))

    def alarms(self) -> list[bool]:
        return [m.active for m in self.bus.messages if isinstance(m, Alarm)]


def topics(journal: list[Envelope]) -> list[str]:
    return [e.topic for e in journal]


def test_it_subscribes_to_everything():
    assert set(Recording.subscribes) == set(MESSAGES.values())


def test_a_whole_session_goes_into_the_journal_and_the_audit_is_its_last_message(tmp_path):
    rig = Rig(tmp_path)
    made = make_session(seconds=25, run_id="run-1")
    for _, envelope in made.envelopes:
        rig.give(envelope)
    audit = rig.close()
    assert audit.complete
    assert audit.notes == []
    journal = rig.journal()
    assert journal[-1].message == audit
    published = [e for _, e in made.envelopes if e.topic != "imaging.preview"]
    first = next(k for k, e in enumerate(published) if e.topic == Session.topic)
    assert {e.topic for e in published[:first]} <= {"rig.heartbeat", "task.request"}
    assert len(journal) == len(published) - first + 2  # the request and the audit
    assert audit.topics["imaging.traces"].written == made.truth["frames_processed"]


def test_what_was_known_before_the_session_comes_first(tmp_path):
    rig = Rig(tmp_path)
    rig.bus.publish(Show(what="black"), "task")
    rig.bus.publish(Alarm(code="a", active=True, detail=""), "stimulus")
    rig.bus.publish(Alarm(code="b", active=True, detail=""), "stimulus")
    rig.bus.publish(Alarm(code="a", active=False, detail=""), "stimulus")
    rig.bus.publish(Output(d=0, value=0), "decoding")  # no state: of no session
    rig.bus.publish(Show(what="grey"), "task")
    rig.start()
    rig.bus.publish(Lick(count=1, t_ns=1), "actuation")
    assert rig.close().complete
    journal = rig.journal()
    assert topics(journal) == [
        "rig.alarm", "rig.alarm", "task.show", "rig.session", "actuation.lick", "recording.audit",
    ]  # fmt: skip
    assert [e.message.active for e in journal[:2]] == [True, False]
    assert journal[2].message.what == "grey"
    assert all(e.header.resent for e in journal[:3])


def test_what_task_was_asked_before_the_session_is_in_its_journal(tmp_path):
    rig = Rig(tmp_path)
    rig.give(*[e for _, e in make_session(seconds=1, run_id="run-1").envelopes])
    rig.close()
    requests = [e.message for e in rig.journal() if e.topic == "task.request"]
    assert [r.kind for r in requests] == ["start"]


def test_the_next_session_begins_a_journal_of_its_own(tmp_path):
    rig = Rig(tmp_path)
    rig.bus.publish(Show(what="black"), "task")
    rig.start("run-1")
    rig.bus.publish(Lick(count=1, t_ns=1), "actuation")
    rig.start("run-1")  # sent again after task's restart: the same session
    rig.bus.publish(Alarm(code="a", active=True, detail=""), "imaging")
    rig.bus.publish(Phase(phase="ended", day=1), "task")
    rig.bus.publish(Show(what="grey"), "task")
    rig.start("run-2")
    rig.bus.publish(Lick(count=2, t_ns=1), "actuation")
    rig.close()
    one, two = rig.journal("run-1"), rig.journal("run-2")
    assert topics(one).count("actuation.lick") == topics(two).count("actuation.lick") == 1
    assert one[-1].topic == "recording.audit"
    shown = [e.message.what for e in two if e.topic == Show.topic]
    assert shown == ["grey"]  # of after the first session's end; its own states are not carried over
    assert not any(e.topic == Phase.topic for e in two)
    assert any(e.topic == Alarm.topic for e in two)  # an alarm still stands
    assert [m.complete for m in rig.bus.messages if isinstance(m, Audit)] == [True]


def test_the_journal_is_closed_some_time_after_the_session_has_ended(tmp_path):
    rig = Rig(tmp_path)
    rig.start()
    rig.bus.publish(Phase(phase="ended", day=1), "task")
    rig.tick(4)
    rig.bus.publish(Lick(count=1, t_ns=1), "actuation")
    rig.tick(2)
    rig.bus.publish(Lick(count=2, t_ns=1), "actuation")
    rig.start("run-1")  # sent again to somebody: the session is over all the same
    assert len(segments(tmp_path / "run-1")) == 1
    assert topics(rig.journal()).count("actuation.lick") == 1
    assert topics(rig.journal())[-1] == "recording.audit"
    assert list(rig.recorder.close()) == []


def test_a_restarted_recorder_opens_the_next_segment_and_its_audit_spans_both(tmp_path):
    made = make_session(seconds=25, run_id="run-1").envelopes
    gap = [k for k, (_, e) in enumerate(made) if e.topic == "actuation.wheel"][300]
    first, second = Rig(tmp_path), Rig(tmp_path)
    first.give(*[e for _, e in made[:gap]])
    first.tick()  # flushed, then killed: no close
    session = next(e for _, e in made if e.topic == Session.topic)
    again = Envelope(session.topic, structs.replace(session.header, resent=True), session.body)
    second.clock.at_ns = 30_000_000_000
    second.give(again, *[e for _, e in made[gap + 40 :]])
    audit = second.close()
    lost = [e for _, e in made[gap : gap + 40] if e.topic != "imaging.preview"]
    assert audit.segments == 2
    assert not audit.complete
    assert sum(t.expected - t.written for t in audit.topics.values()) == len(lost)
    assert any("recording was restarted" in note for note in audit.notes)
    journal = second.journal()
    assert {e.segment for e in journal} == {1, 2}
    first.recorder._journal.close()


def test_a_restarted_recorder_that_missed_nothing_is_complete(tmp_path):
    made = make_session(seconds=25, run_id="run-1").envelopes
    cut = len(made) // 2
    first, second = Rig(tmp_path), Rig(tmp_path)
    first.give(*[e for _, e in made[:cut]])
    first.close()
    session = next(e for _, e in made if e.topic == Session.topic)
    again = Envelope(session.topic, structs.replace(session.header, resent=True), session.body)
    second.give(again, *[e for _, e in made[cut:]])
    for _ in range(3):
        second.tick()  # reads some of the first segment back; close reads the rest
    audit = second.close()
    assert audit.complete
    assert audit.topics["imaging.traces"].written == 772


def test_preview_images_are_recorded_only_if_asked_for(tmp_path):
    made = make_session(seconds=2, run_id="run-1").envelopes
    plain, asked = Rig(tmp_path / "plain"), Rig(tmp_path / "asked", preview=True)
    for rig in (plain, asked):
        rig.give(*[e for _, e in made])
        assert rig.close().complete
    n = sum(e.topic == "imaging.preview" for _, e in made)
    assert topics(plain.journal()).count("imaging.preview") == 0
    assert topics(asked.journal()).count("imaging.preview") == n


def test_a_body_that_is_no_message_is_recorded_as_it_came_and_nothing_stops(tmp_path):
    rig = Rig(tmp_path)
    rig.start()
    good = seal(Heartbeat(health="ready"), "imaging", "imaging-1", 0, 1)
    bad = Envelope(good.topic, good.header, b"\x81\xa4type")
    assert rig.give(bad) == []
    bad_phase = Envelope("task.phase", structs.replace(good.header, source="task", instance="task-1"), b"\xc1")
    with pytest.raises(WireError):  # the runtime counts it
        rig.give(bad_phase)
    rig.close()
    bodies = [e.body for e in rig.journal()]
    assert bad.body in bodies
    assert bad_phase.body in bodies


@pytest.mark.parametrize("run_id", ["", "../x", "/etc/x", "a/b", "a\\b", ".hidden", "x" * 300, "a\x00b", "a:b"])
def test_a_run_id_that_can_not_name_a_folder_is_refused(tmp_path, run_id):
    rig = Rig(tmp_path / "runs")
    session = seal(Session(run_id=run_id, rig="", task="", simulated=True), "task", "task-1", 0, 1)
    with pytest.raises(WireError, match="expected letters"):
        rig.give(session)
    assert list((tmp_path / "runs").iterdir()) == []


# ---------------------------------------------------------------- what is safe


def test_flushed_names_only_what_the_operating_system_has(tmp_path):
    rig = Rig(tmp_path)
    rig.start()
    assert rig.recorder.flushed()["local-task"] == {"rig.session": 0}
    traces = [e for _, e in make_session(seconds=1).envelopes if e.topic == "imaging.traces"][:3]
    rig.give(*traces)
    assert "imaging-1" not in rig.recorder.flushed()  # these may wait for the tick
    assert "imaging.traces" not in topics(rig.journal())
    rig.tick(0.05)
    assert rig.recorder.flushed()["imaging-1"] == {"imaging.traces": 2}
    assert topics(rig.journal()).count("imaging.traces") == 3
    rig.bus.publish(Lick(count=1, t_ns=1), "actuation")  # these don't
    assert rig.recorder.flushed()["local-actuation"] == {"actuation.lick": 0}
    rig.close()


# ---------------------------------------------------------------- ready or not


def test_it_is_ready_in_a_session_with_room_on_the_disk(tmp_path):
    rig = Rig(tmp_path)
    assert "no session yet" in rig.recorder.why_not_ready()[0]
    rig.start()
    assert rig.recorder.why_not_ready() == []
    rig.close()


def test_a_session_does_not_start_with_little_room_but_goes_on_with_it(tmp_path):
    rig = Rig(tmp_path)
    rig.free = int(1.5 * GB)
    rig.tick()
    rig.start()
    assert "1.5 GB free, expected 2" in rig.recorder.why_not_ready()[0]
    rig.bus.publish(Phase(phase="baseline", day=1), "task")
    assert rig.recorder.why_not_ready() == []
    assert rig.alarms() == []
    rig.close()


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file")
    rig = Rig(tmp_path / "runs")
    assert "data folder" in rig.recorder.why_not_ready()[0]
    rig.start()
    assert rig.alarms() == [True]  # what comes waits in memory
    rig.bus.publish(Lick(count=1, t_ns=1), "actuation")
    (tmp_path / "runs").unlink()
    rig.tick()
    assert rig.alarms() == [True, False]
    assert rig.recorder.why_not_ready() == []
    rig.close()
    assert "actuation.lick" in topics(rig.journal())


def test_little_room_is_an_alarm_that_clears(tmp_path):
    rig = Rig(tmp_path)
    rig.start()
    rig.free = int(0.19 * GB)
    rig.tick()
    rig.tick()
    assert rig.alarms() == [True]
    assert "0.19 GB free, expected at least 0.2" in rig.recorder.why_not_ready()[-1]
    rig.free = 3 * GB
    rig.tick()
    assert rig.alarms() == [True, False]
    rig.close()
    recorded = [e.message.active for e in rig.journal() if e.topic == Alarm.topic]
    assert recorded == [True, False]


class TightDisk:
    """A disk that refuses, or takes only part, when told to; shared by all files opened on it."""

    def __init__(self) -> None:
        self.error = 0
        self.partial = False

    def open(self, folder: Path) -> "TightFile":
        if self.error == errno.EROFS:
            raise OSError(self.error, "Read-only file system")
        return TightFile(self, open_segment(folder))


class TightFile:
    def __init__(self, disk: TightDisk, file: Any) -> None:
        self.disk, self.file = disk, file
        self.seek, self.truncate, self.fileno, self.close = file.seek, file.truncate, file.fileno, file.close

    def write(self, data: memoryview) -> int | None:
        if self.disk.error:
            if self.disk.partial:
                self.file.write(data[: len(data) // 2])
            raise OSError(self.disk.error, "No space left on device")
        return self.file.write(data)  # type: ignore[no-any-return]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("partial", [False, True])
def test_a_full_disk_is_an_alarm_and_nothing_is_lost(tmp_path, code, partial):
    disk = TightDisk()
    rig = Rig(tmp_path, disk.open)
    rig.start()
    rig.bus.publish(Lick(count=1, t_ns=1), "actuation")
    disk.error, disk.partial = code, partial
    for n in range(2, 12):
        rig.bus.publish(Lick(count=n, t_ns=1), "actuation")
        rig.tick()
    assert rig.alarms() == [True]
    assert "the journal can't be written" in rig.recorder.why_not_ready()[0]
    assert rig.recorder.flushed()["local-actuation"] == {"actuation.lick": 0}
    acknowledged = rig.journal()
    assert topics(acknowledged).count("actuation.lick") == 1  # what was acknowledged is there, whole
    disk.error = 0
    rig.tick()
    assert rig.alarms() == [True, False]
    assert rig.recorder.flushed()["local-actuation"] == {"actuation.lick": 10}
    audit = rig.close()
    assert audit.complete
    licks = [e.message.count for e in rig.journal() if e.topic == Lick.topic]
    assert licks == list(range(1, 12))


def test_what_memory_can_not_hold_is_counted_and_named_in_the_audit(tmp_path):
    disk = TightDisk()
    rig = Rig(tmp_path, disk.open, hold_mb=1)
    rig.start()
    traces = [e for _, e in make_session(seconds=1, raw=True).envelopes if e.topic == "imaging.raw"]
    disk.error = errno.ENOSPC
    many = [
        Envelope(e.topic, structs.replace(e.header, seq=k), e.body, e.buffers * 8) for k, e in enumerate(traces * 2)
    ]
    rig.give(*many)
    rig.tick()
    lost = rig.recorder.counters()["messages_unwritten"]
    assert 0 < lost < len(many)
    kept = len(many) - lost
    disk.error = 0
    rig.tick()
    rig.give(Envelope(many[0].topic, structs.replace(many[0].header, seq=len(many)), many[0].body, many[0].buffers))
    rig.tick()
    assert rig.recorder.flushed()["imaging-1"] == {"imaging.raw": kept - 1}  # never beyond what was lost
    audit = rig.close()
    assert not audit.complete
    assert audit.topics["imaging.raw"].expected == len(many) + 1
    assert audit.topics["imaging.raw"].written == kept + 1
    assert any(f"{lost} missing" in note or f": {lost} of" in note for note in audit.notes)
    assert any(f"{lost} messages could not be written" in note for note in audit.notes)
    assert topics(rig.journal()).count("imaging.raw") == kept + 1


def test_a_disk_that_is_full_to_the_end_ends_with_an_incomplete_audit_not_with_a_crash(tmp_path):
    disk = TightDisk()
    rig = Rig(tmp_path, disk.open)
    rig.start()
    disk.error = errno.ENOSPC
    rig.bus.publish(Lick(count=1, t_ns=1), "actuation")
    audit = rig.close()
    assert not audit.complete
    assert "not in the file" in audit.notes[-1]
    assert topics(rig.journal()) == ["rig.session"]


def test_a_disk_that_can_not_even_be_opened_ends_the_same_way(tmp_path):
    disk = TightDisk()
    disk.error = errno.EROFS
    rig = Rig(tmp_path, disk.open)
    rig.start()
    assert rig.alarms() == [True]
    assert not rig.close().complete
