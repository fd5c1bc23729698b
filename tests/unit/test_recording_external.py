"""What companions hand in to recording: taken once, or refused with a reason; and what stands in the NWB file."""

import errno
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_recording_service import Rig

from loop2p.protocol import Alarm, Cause, Envelope, External, Session, Traces, control, f32, f64, i64, seal
from loop2p.recording.external import MOST, Intake
from loop2p.recording.journal import open_segment
from loop2p.recording.nwb import build
from loop2p.recording.run import MemoryRun

S = 1_000_000_000


def samples(stream: str = "eye", **more: Any) -> External:
    given = {"channels": ["x", "y"], "units": ["mm", "mm"], "t_ns": i64([1, 2]), "values": f64([1, 2, 3, 4])}
    return External(stream=stream, **(given | more))


def hand_in(message: Any, number: str = "1", by: str = "inlet") -> control.Ask:
    text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    return control.Ask("external", by, {"id": number, "message": text})


def streams(by: str = "inlet", **states: tuple[str, bool]) -> control.Ask:
    told = {name: {"why": why, "required": required} for name, (why, required) in states.items()}
    return control.Ask("streams", by, {"streams": json.dumps(told)})


def test_it_is_published_and_written_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.start()
    for _ in range(3):
        assert rig.bus.ask(rig.recorder, hand_in(samples())).accepted
    assert rig.bus.ask(rig.recorder, hand_in(samples(lost=3), "2")).accepted
    audit = rig.close()
    written = [e.message for e in rig.journal() if e.topic == External.topic]
    assert written == [samples(), samples(lost=3)]
    assert [m for m in rig.bus.messages if isinstance(m, External)] == written
    assert audit.complete
    assert audit.topics[External.topic].written == 2


def test_before_a_session_it_is_taken_and_not_on_record(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.bus.ask(rig.recorder, hand_in(samples())).accepted
    rig.start()
    rig.close()
    assert not [e for e in rig.journal() if e.topic == External.topic]


def test_a_disk_that_takes_nothing_refuses_and_takes_it_later(tmp_path: Path) -> None:
    full = [True]

    class Stubborn(io.FileIO):
        def write(self, data: Any, /) -> int:
            if full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def stubborn(folder: Path) -> io.FileIO:
        with open_segment(folder) as file:
            return Stubborn(file.name, "r+")

    rig = Rig(tmp_path, open_file=stubborn, hold_mb=1)
    rig.start()
    big = samples(t_ns=i64([0] * 20_000), values=f64(np.zeros(40_000)))
    answers = [rig.bus.ask(rig.recorder, hand_in(big, str(k))) for k in range(5)]
    assert not answers[-1].accepted
    assert "hand it in again" in answers[-1].reason
    full[0] = False
    rig.tick(0.1)
    assert rig.bus.ask(rig.recorder, hand_in(big, "4")).accepted
    rig.close()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (hand_in("no json"), "expected JSON"),
        (hand_in(samples(values=f64([1.0]))), "1 values for 2 samples of 2 channels, expected 4"),
        (hand_in(samples(values=f64([1, 2]), texts=["a", "b"])), "expected 4 in values or texts"),
        (hand_in(samples(t_ns=b"123")), "t_ns of 3 bytes"),
        (hand_in(samples(units=["mm"])), "1 units for 2 channels"),
        (hand_in(samples(stream="../eye")), "expected a stream's name"),
        (hand_in(samples(), number=""), "no id"),
        (hand_in(samples(), by=""), "expected the companion's name"),
        (control.Ask("streams", "inlet", {"streams": "[1]"}), "expected JSON"),
        (control.Ask("streams", "inlet", {}), "expected JSON"),
        (streams(**{f"s{k}": ("", True) for k in range(MOST + 1)}), f"expected at most {MOST}"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, request_: control.Ask, words: str) -> None:
    rig = Rig(tmp_path)
    answer = rig.bus.ask(rig.recorder, request_)
    assert not answer.accepted
    assert words in answer.reason


@given(
    st.text(),
    st.dictionaries(st.sampled_from(["id", "message", "streams"]), st.text()),
    st.sampled_from(["external", "streams"]),
)
def test_no_request_makes_it_raise(by: str, args: dict[str, str], kind: str) -> None:
    found = Intake((), 0).judge(control.Ask(kind, by, args), 0)
    assert found is None or isinstance(found, str | External)


def test_a_session_waits_for_what_is_required_and_an_alarm_tells_of_the_rest(tmp_path: Path) -> None:
    rig = Rig(tmp_path, companions=("inlet",))

    def why() -> str:
        return "; ".join(rig.recorder.why_not_ready())

    rig.tick(5)
    assert "companion inlet was never heard" in why()
    assert rig.bus.ask(rig.recorder, streams(eye=("eye is not there", True), words=("no words", False))).accepted
    assert "eye is not there" in why()
    assert "words" not in why()
    rig.tick(1.1)
    assert rig.bus.ask(rig.recorder, streams(eye=("", True), words=("no words", False))).accepted
    rig.tick(1.1)
    assert "eye" not in why()
    rig.tick(5)
    assert "companion inlet was last heard" in why()
    told = [(m.code.removeprefix("stream-"), m.active) for m in rig.bus.messages if isinstance(m, Alarm)]
    assert told == [
        ("inlet", True), ("eye", True), ("words", True), ("inlet", False), ("eye", False), ("inlet", True),
        ("words", False),
    ]  # fmt: skip


def test_in_the_nwb_file_are_series_annotations_and_gaps() -> None:
    def at(k: float) -> int:
        return round((1000 + k) * S)

    messages: list[tuple[str, Any]] = [
        (
            "task",
            Session(
                run_id="r", rig="", task="", simulated=True, wall_time="2026-03-02T10:00:00+00:00", anchor_ns=at(0)
            ),
        )
    ]
    for k in range(20):
        cause = Cause(frame=k, plane=0, time_s=float(k), arrival_ns=at(k))
        messages.append(("imaging", Traces(plane=0, f=f32([1.0]), cause=cause)))
    eye = [
        samples(t_ns=i64([at(-1), at(1), at(2)]), values=f64([9, 9, 1, 2, 3, 4])),
        samples(t_ns=b"", values=b"", gap="unplugged"),
        samples(t_ns=i64([at(6), at(5)]), values=f64([7, 8, 5, 6]), lost=3, gap="unplugged"),
    ]
    words = External(stream="words", channels=["m"], t_ns=i64([at(3)]), texts=["go"])
    end = External(stream="words", channels=["m"], gap="closed")
    messages += [("recording", m) for m in (*eye, eye[-1], words, end)]
    envelopes: list[Envelope] = [seal(m, source, f"{source}-1", k, at(3)) for k, (source, m) in enumerate(messages)]
    run = MemoryRun("r", envelopes)
    run.end_ns = at(19)
    nwb = build(run)
    series = nwb.acquisition["external_eye"]
    assert np.array_equal(series.data.data, [[1, 2], [3, 4], [5, 6], [7, 8]])
    assert series.timestamps.data.tolist() == [1, 2, 5, 6]
    assert series.unit == "mm"
    words_table = nwb.events["external_words"].to_dataframe()
    assert words_table[["timestamp", "annotation"]].values.tolist() == [[3.0, "go"]]
    gaps = nwb.intervals["external_gaps"].to_dataframe()
    assert gaps[["stream", "start_time", "stop_time", "lost"]].values.tolist() == [
        ["eye", 2.0, 5.0, 3],
        ["words", 3.0, 19.0, 0],
    ]
