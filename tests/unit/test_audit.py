"""Expected against written: every message that publishers counted is in the journal, or is named as missing."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from synthetic_session import make_session

from loop2p.protocol import Audit, Envelope, Heartbeat, Lick, Preview, Show, Wheel, seal
from loop2p.recording.core import Auditor, Runs


def beat(instance: str, seq: int, published: dict[str, int], health: str = "ready", **more: object) -> Envelope:
    message = Heartbeat(health=health, published={Heartbeat.topic: seq, **published}, **more)  # type: ignore[arg-type]
    return seal(message, instance.split("-")[0], instance, seq, seq)


def lick(seq: int, instance: str = "actuation-1") -> Envelope:
    return seal(Lick(count=seq, t_ns=seq), "actuation", instance, seq, seq)


def audit_of(*envelopes: Envelope, segment: int = 1) -> Audit:
    auditor = Auditor()
    for k, envelope in enumerate(envelopes):
        auditor.take(envelope, k, segment)
    return auditor.audit()


def test_a_whole_session_is_complete():
    auditor = Auditor()
    for log_ns, envelope in make_session(seconds=30).envelopes:
        auditor.take(envelope, log_ns)
    audit = auditor.audit()
    assert audit.complete
    assert audit.notes == []
    assert audit.topics["imaging.traces"].expected == audit.topics["imaging.traces"].written == 926
    assert "imaging.preview" not in audit.topics


def test_each_missing_message_is_named():
    envelopes = make_session(seconds=30).envelopes
    lost = {("imaging.traces", 17), ("imaging.traces", 18), ("imaging.traces", 400), ("task.show", 3)}
    auditor = Auditor()
    for log_ns, envelope in envelopes:
        if (envelope.topic, envelope.header.seq) not in lost:
            auditor.take(envelope, log_ns)
    audit = auditor.audit()
    assert not audit.complete
    assert audit.topics["imaging.traces"].written == 923
    assert audit.topics["task.show"].expected - audit.topics["task.show"].written == 1
    assert audit.notes == [
        "imaging.traces of imaging-1: 3 of 926 missing, numbers 17-18, 400",
        f"task.show of task-1: 1 of {audit.topics['task.show'].expected} missing, numbers 3",
    ]


def test_what_is_missing_at_the_end_shows_in_the_last_count():
    audit = audit_of(beat("actuation-1", 0, {}), lick(0), beat("actuation-1", 1, {Lick.topic: 3}, "stopped"))
    assert (audit.topics[Lick.topic].expected, audit.topics[Lick.topic].written) == (3, 1)
    assert audit.notes == ["actuation.lick of actuation-1: 2 of 3 missing, numbers 1-2"]


def test_what_came_before_the_journal_is_not_expected():
    audit = audit_of(
        beat("actuation-1", 50, {Lick.topic: 7}), lick(7), beat("actuation-1", 51, {Lick.topic: 8}, "stopped")
    )
    assert audit.complete
    assert audit.topics[Lick.topic].expected == 1


def test_a_message_before_the_first_heartbeat_is_expected():
    audit = audit_of(
        lick(5), beat("actuation-1", 0, {Lick.topic: 7}), beat("actuation-1", 1, {Lick.topic: 7}, "stopped")
    )
    assert (audit.topics[Lick.topic].expected, audit.topics[Lick.topic].written) == (2, 1)


def test_a_state_sent_again_is_not_counted_twice_and_its_neighbours_are_not_expected():
    show = seal(Show(what="grey"), "task", "task-1", 9, 1)
    again = Envelope(show.topic, structs.replace(show.header, resent=True), show.body)
    late = audit_of(again, beat("task-1", 3, {Show.topic: 10}), beat("task-1", 4, {Show.topic: 10}, "stopped"))
    assert late.complete
    assert Show.topic not in late.topics
    twice = audit_of(beat("task-1", 0, {}), show, again, beat("task-1", 1, {Show.topic: 1}, "stopped"))
    assert "0-8" in twice.notes[0]  # these were never seen; number 9 was, once
    assert twice.topics[Show.topic].written == 1


def test_a_state_sent_again_fills_the_hole_a_restart_has_left():
    show = seal(Show(what="grey"), "task", "task-1", 0, 1)
    again = Envelope(show.topic, structs.replace(show.header, resent=True), show.body)
    audit = audit_of(beat("task-1", 0, {}), again, beat("task-1", 1, {Show.topic: 1}, "stopped"))
    assert audit.complete
    assert audit.topics[Show.topic].written == 1


def test_a_killed_instance_is_expected_up_to_its_last_sign_of_life():
    auditor = Auditor()
    for k, envelope in enumerate(
        [beat("actuation-1", 0, {}), lick(0), beat("actuation-1", 1, {Lick.topic: 1}), lick(1)]
    ):
        auditor.take(envelope, k * 500_000_000)
    audit = auditor.audit()
    assert audit.complete
    assert audit.topics[Lick.topic].expected == 2
    (note,) = audit.notes
    assert "actuation-1 gave no last count" in note
    assert "1.000 s" in note


def test_a_successor_is_counted_beside_the_killed_one():
    auditor = Auditor()
    for log_ns, envelope in make_session(seconds=30, kill_decoding_s=12).envelopes:
        auditor.take(envelope, log_ns)
    audit = auditor.audit()
    assert audit.complete
    assert len(audit.notes) == 1
    assert "decoding-1 gave no last count" in audit.notes[0]


def test_what_the_disk_did_not_take_is_expected_and_not_written():
    auditor = Auditor()
    auditor.take(beat("actuation-1", 0, {}), 0)
    auditor.take(lick(0), 1)
    auditor.take(lick(1), 2, written=False)
    audit = auditor.audit()
    assert not audit.complete
    assert (audit.topics[Lick.topic].expected, audit.topics[Lick.topic].written) == (2, 1)
    assert any("1 messages could not be written" in note for note in audit.notes)


def test_a_restarted_recorder_misses_what_came_meanwhile():
    auditor = Auditor()
    auditor.take(beat("actuation-1", 0, {}), 0, segment=1)
    auditor.take(lick(0), 1_000_000_000, segment=1)
    auditor.take(beat("actuation-1", 9, {Lick.topic: 3}, "stopped"), 3_000_000_000, segment=2)
    audit = auditor.audit(segments=2)
    assert (audit.complete, audit.segments) == (False, 2)
    assert audit.topics[Lick.topic].expected == 3
    assert (
        "recording was restarted: nothing was written from 1.000 s to 3.000 s after the journal's begin" in audit.notes
    )


def test_the_order_in_which_segments_are_read_does_not_matter():
    envelopes = make_session(seconds=22, kill_decoding_s=12).envelopes
    one, two = Auditor(), Auditor()
    for log_ns, envelope in envelopes:
        one.take(envelope, log_ns, 1 if log_ns < 1_005_000_000_000 else 2)
    for log_ns, envelope in reversed(envelopes):
        two.take(envelope, log_ns, 1 if log_ns < 1_005_000_000_000 else 2)
    assert one.audit(2) == two.audit(2)


def test_display_messages_count_only_where_they_are_recorded():
    preview = seal(Preview(plane=0, height=1, width=1, low=0, high=1, buffers=(b"a",)), "imaging", "imaging-1", 0, 0)
    beats = beat("imaging-1", 0, {}), beat("imaging-1", 1, {Preview.topic: 2}, "stopped")
    assert audit_of(beats[0], beats[1]).complete
    asked = Auditor(excluded=frozenset())
    for envelope in (beats[0], preview, beats[1]):
        asked.take(envelope, 0)
    assert asked.audit().topics[Preview.topic].written == 1
    assert not asked.audit().complete


def test_raw_frames_written_by_imaging_itself_enter_by_its_counters():
    before = {"raw_expected": 10, "raw_written": 10}
    after = {"raw_expected": 110, "raw_written": 109}
    audit = audit_of(beat("imaging-1", 5, {}, counters=before), beat("imaging-1", 6, {}, "stopped", counters=after))
    total = audit.topics["imaging.raw (on site)"]
    assert (audit.complete, total.expected, total.written) == (False, 100, 99)


def test_a_heartbeat_that_lies_does_no_harm():
    audit = audit_of(
        beat("actuation-1", 0, {Lick.topic: -5, "no.such": 9}),
        beat("actuation-1", 1, {Wheel.topic: 10**15}),
        lick(2**40),
    )
    assert not audit.complete
    assert audit.topics[Wheel.topic].expected == 10**15


def test_a_service_without_heartbeats_is_named():
    audit = audit_of(lick(0), lick(2))
    assert (audit.complete, audit.topics[Lick.topic].expected) == (False, 3)
    assert "actuation-1 sent no heartbeat: only gaps in its numbers could be seen" in audit.notes


@given(st.lists(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_runs_hold_what_a_set_holds(numbers, start, stop):
    runs, known = Runs(), set()
    for n in numbers:
        assert runs.add(n) == (n not in known)
        known.add(n)
    inside = {n for n in known if start <= n < stop}
    assert runs.count(start, stop) == len(inside)
    missing = {n for a, b in runs.missing(start, stop) for n in range(a, b + 1)}
    assert missing == set(range(start, stop)) - inside
