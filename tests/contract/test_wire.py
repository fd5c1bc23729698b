"""Messages keep what they say on their way through bytes; what is no message is named."""

from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest

from loop2p.protocol import (
    MESSAGES,
    PROTOCOL,
    Alarm,
    Cause,
    Output,
    PlaneRois,
    Preview,
    Rois,
    Show,
    Traces,
    WireError,
    control,
    f32,
    from_f32,
    from_i32,
    i32,
    open_parts,
    seal,
)
from loop2p.protocol.wire import (
    MAX_BODY_BYTES,
    MAX_BUFFER_BYTES,
    MAX_BUFFERS,
    MAX_HEADER_BYTES,
    MAX_REASON,
    MAX_TOPIC_BYTES,
)

CAUSE = Cause(frame=7, plane=0, time_s=0.226, arrival_ns=123_456_789_012)
TRACES = Traces(cause=CAUSE, plane=0, f=f32([1, 2, 3]), shift_y_px=-0.5, valid=False)


def parts_of(message: Any = TRACES, **header: Any) -> list[Any]:
    """A sealed message's parts, its header changed by hand."""
    parts = list(seal(message, "imaging", "i1", 3, 99).parts())
    parts[1] = msgpack.packb(msgpack.unpackb(parts[1]) | header)
    return parts


def with_body(**body: Any) -> list[Any]:
    parts = parts_of()
    return [*parts[:2], msgpack.packb(msgpack.unpackb(parts[2]) | body)]


# ---------------------------------------------------------------- there and back


def test_message_header_and_cause_come_back() -> None:
    envelope = open_parts(parts_of())
    assert envelope.message == TRACES
    assert envelope.topic == "imaging.traces"
    header = envelope.header
    assert (header.protocol, header.source, header.instance) == (PROTOCOL, "imaging", "i1")
    assert (header.seq, header.sent_ns, header.cause, header.resent) == (3, 99, CAUSE, False)


def test_a_message_without_cause_has_none() -> None:
    assert open_parts(parts_of(Show(what="black"))).message.cause is None


def test_cause_and_pixels_travel_outside_the_body() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    preview = Preview(cause=CAUSE, plane=0, height=2, width=3, low=0, high=5, buffers=(memoryview(image).cast("B"),))
    parts = parts_of(preview)
    assert msgpack.unpackb(parts[2]) == {"type": "preview", "plane": 0, "height": 2, "width": 3, "low": 0, "high": 5}
    assert len(parts) == 4
    opened = open_parts([bytes(p) for p in parts]).message
    assert opened.cause == CAUSE
    assert bytes(opened.buffers[0]) == image.tobytes()
    assert preview.cause == CAUSE, "sealing changed the message"
    assert preview.buffers


def test_memoryviews_are_taken_as_bytes_are() -> None:
    assert open_parts([memoryview(p) for p in parts_of()]).message == TRACES


def test_forwarded_parts_are_the_parts_that_came() -> None:
    parts = [bytes(p) for p in seal(TRACES, "imaging", "i1", 3, 99).parts()]
    assert open_parts(parts).parts() == parts


def test_arrays_are_little_endian() -> None:
    assert f32([1.0]) == b"\x00\x00\x80\x3f"
    assert i32([1, -1]) == b"\x01\x00\x00\x00\xff\xff\xff\xff"
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    np.testing.assert_array_equal(from_f32(f32(values[::2])), values[::2])
    assert from_i32(i32([[1, 2], [3, 4]])).tolist() == [1, 2, 3, 4]


def test_integers_are_taken_where_a_float_is_expected_but_no_float_for_an_integer() -> None:
    message = open_parts(with_body(shift_y_px=2)).message
    assert isinstance(message, Traces)
    assert message.shift_y_px == 2.0
    with pytest.raises(WireError, match=r"Expected `int`, got `float` - at `\$.plane`"):
        _ = open_parts(with_body(plane=0.0)).message


# ---------------------------------------------------------------- growth


def test_fields_that_a_newer_peer_sends_are_skipped() -> None:
    newer = {"snr": 3.5, "more": {"a": [1, None, b"x"]}, "at": msgpack.ExtType(4, b"zz")}
    assert open_parts(with_body(**newer)).message == TRACES
    assert open_parts(parts_of(route=["a", "b"])).message == TRACES


@pytest.mark.parametrize("name", ["shift_x_px", "quality", "valid", "shift_y_px"])
def test_a_field_that_an_older_peer_does_not_know_has_its_default(name: str) -> None:
    body = msgpack.unpackb(parts_of()[2])
    body.pop(name, None)
    message = open_parts([*parts_of()[:2], msgpack.packb(body)]).message
    assert getattr(message, name) == getattr(Traces(plane=0, f=b""), name)


def test_an_older_header_without_resent_and_cause_is_read() -> None:
    parts = parts_of()
    header = msgpack.unpackb(parts[1])
    del header["cause"]
    assert open_parts([parts[0], msgpack.packb(header), parts[2]]).message.cause is None


def test_a_body_may_not_bring_its_own_cause_or_pixels() -> None:
    message = open_parts(
        with_body(cause={"frame": 1, "plane": 0, "time_s": 9.0, "arrival_ns": 0}, buffers=[b"x"])
    ).message
    assert message.cause == CAUSE
    assert message.buffers == ()


# ---------------------------------------------------------------- what is no message


def test_another_protocol_number_is_refused_by_number() -> None:
    with pytest.raises(WireError, match=rf"imaging.traces from imaging: protocol {PROTOCOL + 1}, expected {PROTOCOL}"):
        open_parts(parts_of(protocol=PROTOCOL + 1))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "0 parts, expected topic, header, body and at most 8 buffers"),
        (parts_of()[:2], "2 parts, expected"),
        (parts_of() + [b""] * (MAX_BUFFERS + 1), "12 parts, expected"),
        ([b"imaging.nothing", *parts_of()[1:]], "topic 'imaging.nothing' is unknown, expected one of SPEC.md"),
        (["\u00e4".encode(), *parts_of()[1:]], r"topic b'\xc3\xa4' is not ASCII"),
        ([b"x" * 65, *parts_of()[1:]], f"topic of 65 bytes, limit {MAX_TOPIC_BYTES}"),
        ([b"task.show", *parts_of()[1:]], "task.show body: Invalid value 'traces'"),
        (parts_of(seq=-1), "imaging.traces header: Expected `int` >= 0 - at `$.seq`"),
        (parts_of(source=None), "imaging.traces header: Expected `str`, got `None` - at `$.source`"),
        (parts_of(cause={"frame": 1}), "imaging.traces header: Object missing required field `plane` - at `$.cause`"),
        (parts_of(note="x" * MAX_HEADER_BYTES), f"bytes, limit {MAX_HEADER_BYTES}"),
        ([*parts_of()[:2], b"\0" * (MAX_BODY_BYTES + 1)], f"body of {MAX_BODY_BYTES + 1} bytes, limit "),
        (
            [*parts_of(), memoryview(bytes(MAX_BUFFER_BYTES + 1))],
            f"buffer 0 of {MAX_BUFFER_BYTES + 1} bytes, limit {MAX_BUFFER_BYTES}",
        ),
        ([*parts_of()[:2], b""], "imaging.traces body: Input data was truncated"),
        (with_body(f=[1.0, 2.0]), "imaging.traces body: Expected `bytes`, got `array` - at `$.f`"),
        (with_body(f=b"\0" * 7), "imaging.traces body: f of 7 bytes, expected a multiple of 4 (<f4)"),
        (with_body(plane=-1), "imaging.traces body: Expected `int` >= 0 - at `$.plane`"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_named(parts: list[Any], message: str) -> None:
    with pytest.raises(WireError) as caught:
        _ = open_parts(parts).message
    assert message in str(caught.value)


def test_an_array_deep_in_a_message_is_looked_at_too() -> None:
    good = PlaneRois(plane=0, names=["a"], lengths=i32([1]), rows=i32([0]), cols=i32([0]))
    bad = PlaneRois(plane=1, names=["a"], lengths=i32([1]), rows=b"\0\0", cols=i32([0]))
    with pytest.raises(WireError, match=r"imaging.rois body: planes\[1\].rows of 2 bytes, expected a multiple of 4"):
        _ = open_parts(parts_of(Rois(set_id="s", height=2, width=2, planes=[good, bad]))).message


def test_a_reason_does_not_repeat_a_book_that_was_sent() -> None:
    parts = parts_of(Show(what="grey"))
    with pytest.raises(WireError) as caught:
        _ = open_parts([*parts[:2], msgpack.packb({"type": "show", "what": "x" * 1_000_000})]).message
    assert len(str(caught.value)) < MAX_REASON + 100
    with pytest.raises(WireError) as caught:
        control.decode_request(msgpack.packb({"type": "x" * 1_000_000}))
    assert len(str(caught.value)) < MAX_REASON + 100


@pytest.mark.parametrize("topic", MESSAGES)
def test_a_body_that_is_no_map_or_nested_without_end_is_refused(topic: str) -> None:
    header = parts_of()[1]
    for body in (b"\xc0", b"\x01", msgpack.packb([1, 2]), b"\x81\xa1q" + b"\x91" * 1_000_000, b"\x81" * 100_000):
        with pytest.raises(WireError):
            _ = open_parts([topic.encode(), header, body]).message


# ---------------------------------------------------------------- control


def test_requests_and_replies_come_back() -> None:
    for request in (control.Hello(), control.ClockProbe(5), control.SnapshotRequest(), control.Stop("me")):
        assert control.decode_request(control.encode(request)) == request
    ask = control.Ask("note", "me", {"text": "the mouse sneezed"})
    assert control.decode_request(control.encode(ask)) == ask
    for reply in (control.Answer(False, "why"), control.ClockReply(1, 2, 3), control.SnapshotReply(b"\x80")):
        assert control.decode_reply(control.encode(reply)) == reply


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\xc1", msgspec.msgpack.encode(Output(d=0, value=0)), b"\x91" * 10_000]
)
def test_what_is_no_request_or_reply_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="control request: "):
        control.decode_request(data)
    with pytest.raises(WireError, match="control reply: "):
        control.decode_reply(data)


def test_a_request_is_no_reply() -> None:
    with pytest.raises(WireError):
        control.decode_reply(control.encode(control.Stop("me")))


def test_every_topic_has_one_class_and_commands_have_no_topic_of_their_own() -> None:
    assert len({m.__struct_config__.tag for m in MESSAGES.values()}) == len(MESSAGES)
    assert all(topic and topic == m.topic for topic, m in MESSAGES.items())
    assert Alarm.topic in MESSAGES
    assert "" not in MESSAGES
