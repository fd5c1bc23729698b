"""Messages of the bus in, streams and samples out."""

import math

import pytest
from msgspec import structs

from loop2p.lsl.outlet_core import Going, Outgoing, Sample, Stream
from loop2p.protocol import (
    Alarm,
    Cause,
    Done,
    Envelope,
    Lick,
    Message,
    Output,
    Phase,
    PlaneRois,
    Rois,
    Shown,
    Traces,
    Trial,
    f32,
    i32,
    seal,
)

CAUSE = Cause(frame=8, plane=0, time_s=0.25, arrival_ns=5_000)


def sent(message: Message, seq: int = 0, source: str = "x", at_ns: int = 9_000, resent: bool = False) -> Envelope:
    envelope = seal(message, source, f"{source}-1", seq, at_ns)
    header = structs.replace(envelope.header, resent=resent)
    return Envelope(envelope.topic, header, envelope.body, envelope.buffers)


def rois(set_id: str, n: int) -> Rois:
    ones = i32([1] * n)
    plane = PlaneRois(plane=0, names=[f"r{k}" for k in range(n)], lengths=ones, rows=ones, cols=ones)
    return Rois(set_id=set_id, height=4, width=4, planes=[plane])


def frame(n: int) -> Traces:
    return Traces(plane=0, f=f32(range(n)), cause=CAUSE)


def test_traces_wait_for_the_roi_set_and_follow_it() -> None:
    core = Outgoing(Going(), 15.46)
    assert core.take(sent(frame(2), 0)) == []
    (stream,) = core.take(sent(rois("a", 2), 0))
    assert isinstance(stream, Stream)
    assert (stream.key, stream.channels, stream.units, stream.rate_hz) == (
        "traces-0",
        ["r0", "r1"],
        ["counts"] * 2,
        15.46,
    )
    assert core.take(sent(frame(2), 1)) == [Sample("traces-0", 5_000, [0.0, 1.0])]
    assert core.take(sent(rois("a", 2), 1)) == []  # the same set
    assert core.take(sent(frame(3), 2)) == []  # before its set
    assert core.misfits == 1
    (other,) = core.take(sent(rois("b", 3), 2))
    assert isinstance(other, Stream)
    assert other.version == "b"
    assert core.take(sent(frame(3), 3)) == [Sample("traces-0", 5_000, [0.0, 1.0, 2.0])]


@pytest.mark.parametrize(
    ("message", "at_ns", "text"),
    [
        (Trial(trial=3, edge="void", t_s=1.0, reason="stopped", cause=CAUSE), 5_000, "trial 3 void: stopped"),
        (Done(id=1, open_ns=77, close_ns=78, volume_ul=4.5), 77, "reward 4.5 ul"),
        (Lick(count=7, t_ns=66), 66, "lick 7"),
        (Phase(phase="paused", day=1), 9_000, "phase paused"),
        (Alarm(code="no-display", active=False, detail="there"), 9_000, "alarm no-display off: there"),
    ],
)
def test_a_marker_has_the_moment_of_what_it_tells(message: Message, at_ns: int, text: str) -> None:
    assert Outgoing(Going(), 15.0).take(sent(message)) == [Sample("markers", at_ns, [text])]


def test_what_opens_nothing_marks_nothing() -> None:
    assert Outgoing(Going(), 15.0).take(sent(Done(id=1, open_ns=77, close_ns=78, volume_ul=0.0))) == []


def test_a_state_of_before_our_time_is_no_event() -> None:
    assert Outgoing(Going(), 15.0).take(sent(Phase(phase="paused", day=1), resent=True)) == []


def test_the_angle_is_no_number_where_there_is_none() -> None:
    core = Outgoing(Going(), 15.0)
    angle, mark = core.take(sent(Shown(what="grating", angle_deg=30.0, flip_ns=44), 0))
    assert (angle, mark) == (Sample("angle", 44, [30.0]), Sample("markers", 44, ["shown grating"]))
    (again,) = core.take(sent(Shown(what="grating", angle_deg=31.0, flip_ns=45), 1))
    assert again == Sample("angle", 45, [31.0])
    grey, _ = core.take(sent(Shown(what="grey", flip_ns=46), 2))
    assert isinstance(grey, Sample)
    assert isinstance(grey.values[0], float)
    assert math.isnan(grey.values[0])


def test_what_was_missed_is_counted_and_marked_and_nothing_comes_twice() -> None:
    core = Outgoing(Going(), 15.0)
    output = Output(d=1.0, value=2.0, cause=CAUSE)
    assert core.take(sent(output, 0)) == [Sample("decoder", 5_000, [1.0, 2.0, 1.0])]
    assert core.take(sent(output, 0)) == []
    assert core.take(sent(output, 4)) == [
        Sample("markers", 9_000, ["missed 3 decoding.output"]),
        Sample("decoder", 5_000, [1.0, 2.0, 1.0]),
    ]
    assert core.missed == {"decoding.output": 3}


def test_only_what_is_wanted_is_listened_to() -> None:
    assert Outgoing(Going(False, True, False, False), 15.0).topics == ["decoding.output"]
    assert [s.key for s in Outgoing(Going(False, True, False, False), 15.0).begin()] == ["clock", "decoder"]


def test_a_body_that_is_none_gives_nothing() -> None:
    envelope = sent(Lick(count=7, t_ns=66))
    assert Outgoing(Going(), 15.0).take(Envelope(envelope.topic, envelope.header, b"\xc1", ())) == []
