"""Summary and trace say what the journal holds, no more and no less."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from synthetic_session import MS, Made, make_session, write_journal

from loop2p.protocol import (
    Accepted,
    Alarm,
    Audit,
    Cause,
    Done,
    Envelope,
    Heartbeat,
    Lick,
    OptoCommand,
    Session,
    Shown,
    TopicAudit,
    Traces,
    f32,
    seal,
)
from loop2p.recording.latency import Latencies, quantiles
from loop2p.recording.report import write_report
from loop2p.recording.run import FrameTime, Run
from loop2p.recording.summary import summarise, write_summary
from loop2p.recording.trace import trace_frame, waterfall


@pytest.fixture(scope="module")
def made() -> Made:
    return make_session(seconds=70, opto=True, fault=True, kill_decoding_s=40)


@pytest.fixture(scope="module")
def folder(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_journal(tmp_path_factory.mktemp("run"), made.envelopes)


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    return summarise(folder)


def journal(folder: Path, *envelopes: Envelope) -> Path:
    return write_journal(folder, list(enumerate(envelopes, 1000)))


# ---------------------------------------------------------------- counts


def test_counts_are_those_of_the_session(summary, made):
    for name in ("trials", "hits", "misses", "voids", "rewards"):
        assert summary[name] == made.truth[name], name
    assert summary["reward_ul"] == 4.0 * made.truth["rewards"]
    assert summary["accuracy"] == pytest.approx(
        made.truth["hits"] / (made.truth["hits"] + made.truth["misses"]), abs=1e-4
    )
    assert summary["licks"] == sum(e.topic == Lick.topic for _, e in made.envelopes)
    assert summary["frames"] == {
        "received": made.truth["frames_received"],
        "processed": made.truth["frames_processed"],
        "dropped": 1,
    }


def test_it_says_what_was_run_and_what_was_wrong(summary):
    assert (summary["simulated"], summary["no_display"], summary["overrides"]) == (True, True, ["valve-date"])
    assert summary["run_id"] == "2026-03-02T10-00-00-synthetic"
    assert summary["day"] == 3
    assert summary["versions"]["loop2p"] == "0.1.0"
    assert summary["calibration"]["threshold"] == 0.06
    (fault,) = summary["faults"]
    assert fault == {"service": "stimulus", "error": "ArithmeticError", "detail": "angle is nan, expected 0 to 90"}
    (alarm,) = summary["alarms"]
    assert (alarm["code"], alarm["times"], alarm["cleared"]) == ("no-display", 1, False)
    assert summary["stalls"][0]["what"] == "decoding"
    assert summary["services"]["decoding"] == {"starts": 2, "lost": 1, "gaps": 0, "rejected": 0}
    assert summary["services"]["imaging"]["lost"] == 0


def test_the_audit_names_every_topic_and_its_notes(summary):
    assert summary["audit"]["complete"]
    for counts in summary["audit"]["topics"].values():
        assert counts["expected"] == counts["written"] > 0
    assert any("decoding-1 gave no last count" in note for note in summary["notes"])
    assert any("recording gave no audit" in note for note in summary["notes"])


# ---------------------------------------------------------------- latencies


@pytest.mark.parametrize("name", ["command", "shown", "valve"])
def test_loop_latencies_are_those_that_were_put_in(folder, made, name):
    found = Latencies(Run(folder)).loops[name][1]
    assert np.allclose(np.sort(found), np.sort(getattr(made, f"{name}_ms")))


def test_hops_add_up_to_the_loop(folder):
    latencies = Latencies(Run(folder))
    (at, loop), parts = latencies.loops["valve"], []
    for name in ("imaging", "decoding", "task", "command", "valve"):
        times, values = latencies.hops[name]
        by_time = dict(zip(times, values, strict=True))
        parts.append([by_time[t] for t in at])
    assert len(loop) > 0
    assert np.allclose(np.sum(parts, axis=0), loop)


def test_a_quantile_is_a_value_that_occurred():
    values = np.arange(1.0, 1001.0)
    assert quantiles(values) == {"n": 1000, "p50": 500.0, "p99": 990.0, "p999": 999.0, "max": 1000.0}
    assert quantiles(np.array([3.0])) == {"n": 1, "p50": 3.0, "p99": 3.0, "p999": 3.0, "max": 3.0}
    assert quantiles(np.zeros(0)) == {"n": 0, "p50": None, "p99": None, "p999": None, "max": None}


def test_a_picture_drawn_again_for_an_old_frame_is_no_latency_of_the_loop(tmp_path):
    cause = Cause(frame=5, plane=0, time_s=0.2, arrival_ns=1000 * MS)
    first = seal(Shown(what="grey", flip_ns=1010 * MS, cause=cause), "stimulus", "stimulus-1", 0, 1011 * MS)
    again = seal(Shown(what="grey", flip_ns=9000 * MS, cause=cause), "stimulus", "stimulus-2", 0, 9001 * MS)
    q = summarise(journal(tmp_path, first, again))["latency_ms"]["shown"]
    assert (q["n"], q["max"]) == (1, 10.0)


def test_the_way_to_the_led_is_told_where_a_frame_switched_it(tmp_path, folder, summary):
    assert "led" not in summary["latency_ms"]  # of that session no frame is the cause
    cause = Cause(frame=5, plane=0, time_s=0.2, arrival_ns=1000 * MS)
    sent = OptoCommand(id=3, target="actuation-1", expires_ns=1250 * MS, armed=True, pulse_ms=6, cause=cause)
    taken = Accepted(id=3, received_ns=1004 * MS, cause=cause)
    done = Done(id=3, open_ns=1006 * MS, close_ns=1006 * MS, volume_ul=0.0, cause=cause)
    envelopes = [
        seal(sent, "task", "task-1", 0, 1003 * MS),
        seal(taken, "actuation", "actuation-1", 0, 1005 * MS),
        seal(done, "actuation", "actuation-1", 0, 1007 * MS),
    ]
    found = summarise(journal(tmp_path, *envelopes))
    assert (found["latency_ms"]["led"]["n"], found["latency_ms"]["led"]["max"]) == (1, 6.0)
    assert (found["hops_ms"]["led"]["max"], found["hops_ms"]["command"]["max"]) == (2.0, 1.0)
    assert found["latency_ms"]["valve"]["n"] == 0
    assert "LED armed or off" in write_report(tmp_path).read_text(encoding="utf-8")


# ---------------------------------------------------------------- frame time


def test_frame_time_is_a_line_between_frames_and_a_second_a_second_outside():
    second = 10**9
    causes = [
        Cause(frame=0, plane=0, time_s=1.0, arrival_ns=100 * second),
        Cause(frame=1, plane=1, time_s=2.0, arrival_ns=102 * second),  # late: the frame clock ran slower here
        None,
    ]
    frame_time = FrameTime(causes)
    at = np.array([99, 100, 101, 102, 105]) * second
    assert np.allclose(frame_time(at), [0.0, 1.0, 1.5, 2.0, 5.0])
    assert frame_time.rig_ns_of_zero() == 99 * second


def test_frame_time_ignores_frames_that_go_back():
    causes = [Cause(k, 0, t, int(a * 1e9)) for k, (t, a) in enumerate([(0, 10), (1, 11), (0.5, 12), (2, 13)])]
    assert np.allclose(FrameTime(causes)(np.array([12, 13]) * 10**9), [1.5, 2.0])


def test_frame_time_without_frames_is_the_rig_clock():
    assert np.allclose(FrameTime([])([5 * 10**9]), [5.0])


# ---------------------------------------------------------------- audits


def test_recordings_own_audit_stands_if_the_file_agrees(tmp_path):
    lick = seal(Lick(count=1, t_ns=1), "actuation", "a-1", 0, 1)
    audit = Audit(complete=True, topics={Lick.topic: TopicAudit(1, 1)}, notes=["a note"])
    folder = journal(tmp_path, lick, seal(audit, "recording", "recording-1", 0, 2))
    assert Run(folder).audit == audit


def test_an_audit_that_counts_more_than_the_file_holds_is_not_believed(tmp_path):
    lick = seal(Lick(count=1, t_ns=1), "actuation", "a-1", 0, 1)
    audit = Audit(complete=True, topics={Lick.topic: TopicAudit(2, 2)})
    folder = journal(tmp_path, lick, seal(audit, "recording", "recording-1", 0, 2))
    found = Run(folder).audit
    assert not found.complete
    assert found.notes == ["actuation.lick: recording counted 2 as written, the journal holds 1"]


def test_an_audit_of_an_earlier_segment_does_not_speak_for_the_later_one(tmp_path):
    lick = seal(Lick(count=1, t_ns=1), "actuation", "a-1", 0, 1)
    audit = Audit(complete=True, topics={Lick.topic: TopicAudit(1, 1)})
    journal(tmp_path, lick, seal(audit, "recording", "recording-1", 0, 2))
    folder = journal(tmp_path, seal(Lick(count=3, t_ns=3), "actuation", "a-1", 2, 3))
    found = Run(folder).audit
    assert (found.complete, found.topics[Lick.topic]) == (False, TopicAudit(3, 2))


# ---------------------------------------------------------------- odd journals


def test_a_run_cut_by_a_kill_still_has_a_summary(made, tmp_path):
    folder = write_journal(tmp_path, made.envelopes[:5000], close=False)
    with open(folder / "journal.mcap", "r+b") as file:
        file.truncate((folder / "journal.mcap").stat().st_size - 7)
    found = summarise(folder)
    assert 0 < found["trials"] <= made.truth["trials"]
    assert any("can't be read" in note for note in found["notes"])


def test_what_came_twice_because_a_recorder_was_restarted_counts_once(made, tmp_path):
    cut = len(made.envelopes) // 2
    states = [
        (at, Envelope(e.topic, structs.replace(e.header, resent=True), e.body, e.buffers))
        for at, e in made.envelopes[:cut]
        if type(e.message).state
    ]
    write_journal(tmp_path, made.envelopes[:cut])
    folder = write_journal(tmp_path, [*states, *made.envelopes[cut:]])
    found = summarise(folder)
    assert found["audit"]["segments"] == 2
    assert found["alarms"][0]["times"] == 1
    assert found["latency_ms"]["shown"]["n"] == len(made.shown_ms)
    assert found["trials"] == made.truth["trials"]


def test_a_journal_with_nothing_in_it_is_a_run_of_zeros(tmp_path):
    found = summarise(journal(tmp_path))
    assert (found["trials"], found["rewards"], found["frames"]["received"]) == (0, 0, None)
    assert found["audit"]["complete"]
    json.dumps(found, allow_nan=False)


def test_values_that_are_not_finite_are_none_in_json(tmp_path):
    session = seal(Session(run_id="r", rig="", task="", simulated=False), "task", "task-1", 0, 1)
    done = make_session(seconds=30).envelopes
    calibration = next(e for _, e in done if e.topic == "task.calibration")
    bad = seal(structs.replace(calibration.message, sigma=float("nan")), "task", "task-1", 0, 2)
    found = write_summary(journal(tmp_path, session, bad))
    assert found["calibration"]["sigma"] is None
    assert json.loads((tmp_path / "summary.json").read_text()) == found


def test_a_malformed_message_is_counted_and_passed_over(tmp_path):
    good = seal(Lick(count=1, t_ns=1), "actuation", "a-1", 0, 1)
    bad = Envelope(Lick.topic, structs.replace(good.header, seq=1), b"\x81\xa4type\xa4lick")
    found = summarise(journal(tmp_path, good, bad))
    assert found["licks"] == 1
    assert any("1 messages are no messages of their topic" in note for note in found["notes"])


def test_frames_are_counted_over_all_starts_of_imaging(tmp_path):
    def beat(instance: str, seq: int, received: int) -> Envelope:
        message = Heartbeat(health="ready", counters={"frames_received": received})
        return seal(message, "imaging", instance, seq, 1)

    folder = journal(
        tmp_path,
        beat("imaging-1", 70, 1000),  # ran before this session
        beat("imaging-1", 71, 1030),
        beat("imaging-2", 0, 4),  # started anew in it
        beat("imaging-2", 1, 14),
    )
    assert summarise(folder)["frames"] == {"received": 44, "processed": None, "dropped": None}


def test_a_service_that_fell_silent_was_lost(tmp_path):
    beat = seal(Heartbeat(health="ready"), "imaging", "imaging-1", 0, 1)
    lick = seal(Lick(count=1, t_ns=1), "actuation", "a-1", 0, 1)
    short = write_journal(tmp_path / "short", [(0, beat), (10**9, lick)])
    long = write_journal(tmp_path / "long", [(0, beat), (3 * 10**9, lick)])
    assert summarise(short)["services"]["imaging"]["lost"] == 0
    assert summarise(long)["services"]["imaging"]["lost"] == 1


def test_an_alarm_that_came_and_went_is_told_with_its_times(tmp_path):
    def alarm(seq: int, active: bool) -> Envelope:
        return seal(Alarm(code="disk-full", active=active, detail="d"), "recording", "r-1", seq, seq)

    found = summarise(journal(tmp_path, alarm(0, True), alarm(1, False), alarm(2, True), alarm(3, False)))
    assert [(a["code"], a["times"], a["cleared"]) for a in found["alarms"]] == [("disk-full", 2, True)]
    assert not found["no_display"]


# ---------------------------------------------------------------- trace


def test_a_trace_tells_a_frames_way_in_order(folder, made):
    reward = next(e for _, e in made.envelopes if e.topic == "task.reward")
    cause = reward.header.cause
    steps = trace_frame(folder, cause.frame)
    topics = [step["topic"] for step in steps]
    assert topics[:5] == ["frame", "imaging.traces", "decoding.output", "task.reward", "actuation.accepted"]
    assert steps[0]["ms"] == 0.0
    assert [s["ms"] for s in steps] == sorted(s["ms"] for s in steps)
    opens = next(s for s in steps if "valve opens" in s["detail"])
    assert any(opens["ms"] == pytest.approx(ms) for ms in made.valve_ms)
    assert steps[-1]["detail"].endswith("valve closed, 4 ul")


def test_answers_without_a_cause_belong_to_the_frame_of_their_command(made, tmp_path):
    def bare_of(e: Envelope) -> Envelope:
        message = structs.replace(e.message, cause=None)
        return seal(message, e.header.source, e.header.instance, e.header.seq, e.header.sent_ns)

    bare = [(at, bare_of(e) if e.topic.startswith("actuation.") else e) for at, e in made.envelopes]
    folder = write_journal(tmp_path, bare)
    frame = next(e.header.cause.frame for _, e in bare if e.topic == "task.reward")
    assert any("valve opens" in step["detail"] for step in trace_frame(folder, frame))
    assert summarise(folder)["latency_ms"]["valve"]["n"] == made.truth["rewards"]


def test_a_frame_that_was_never_seen_has_no_trace(folder):
    assert trace_frame(folder, 10**9) == []


def test_traces_of_odd_frames_do_no_harm(tmp_path):
    cause = Cause(frame=1, plane=0, time_s=0.0, arrival_ns=0)
    empty = seal(Traces(plane=0, f=f32([]), cause=cause), "imaging", "i-1", 0, 5)
    ragged = seal(Traces(plane=0, f=b"\x00" * 7, valid=False, cause=cause), "imaging", "i-1", 1, 6)
    bad = Envelope(Traces.topic, structs.replace(empty.header, seq=2), b"\x80")
    steps = trace_frame(journal(tmp_path, empty, ragged, bad), 1)
    assert [s["topic"] for s in steps] == ["frame", *["imaging.traces"] * 3]
    assert "malformed" in " ".join(s["detail"] for s in steps)


def test_the_waterfall_has_one_bar_a_step_each_from_where_the_last_ended():
    assert waterfall([0.0, 1.0, 3.0, 4.0], columns=8) == ["=       ", "==      ", "  ====  ", "      =="]
    assert waterfall([-0.2, 0.0, 0.0], columns=4) == ["=   "] * 3  # two clocks: an answer before it was asked
    assert waterfall([], columns=4) == []
