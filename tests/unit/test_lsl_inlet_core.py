"""Chunks of a stream in, messages for the recording out; and the queue before recording."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from loop2p.lsl.hand_in import TRIES, Queue
from loop2p.lsl.inlet_core import MOST_VALUES, Found, Incoming, problem_of
from loop2p.lsl.options import Wanted
from loop2p.protocol import External, control, from_f64, from_i64


def found(n: int = 2, rate_hz: float = 100.0, **more: Any) -> Found:
    return Found("Eye", "Gaze", "e1", "pc", n, rate_hz, more.pop("is_text", False), **more)


def to_rig_ns(lsl_s: float) -> int:
    return round(lsl_s * 1e9) + 7


def take(core: Incoming, values: Any, stamps_s: Any, now_s: float = 100.0) -> list[External]:
    return core.take(np.asarray(values), np.asarray(stamps_s, float), to_rig_ns, 500, now_s)


def test_a_chunk_is_a_message_on_the_rig_clock() -> None:
    core = Incoming("eye")
    core.opened(found(channels=["x", None], units=["mm", None]))
    (message,) = take(core, [[1.0, 2.0], [3.0, 4.0]], [99.0, 99.01])
    assert from_i64(message.t_ns).tolist() == [99_000_000_007, 99_010_000_007]
    assert from_f64(message.values).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert (message.channels, message.units, message.bound_ns) == (["x", "channel 1"], ["mm", ""], 500)
    assert message.source == "name Eye, type Gaze, source_id e1, host pc"
    assert (message.gap, message.lost) == ("", 0)


def test_a_stream_that_goes_is_told_at_once_and_when_it_is_back() -> None:
    core = Incoming("eye")
    assert core.gone("never was there") == []
    core.opened(found())
    (told,) = core.gone("unplugged")
    assert (told.t_ns, told.gap) == (b"", "unplugged")
    assert core.gone("still") == []
    core.opened(found())
    first, second = (take(core, [[1.0, 2.0]], [99.0])[0] for _ in range(2))
    assert (first.gap, second.gap) == ("unplugged", "")


def test_stamps_by_another_clock_are_lost_and_said_so() -> None:
    core = Incoming("eye")
    core.opened(found(1))
    assert take(core, [[1.0]], [1.8e9]) == []
    (message,) = take(core, [[1.0], [2.0], [3.0]], [float("nan"), 99.0, float("inf")])
    assert from_f64(message.values).tolist() == [2.0]
    assert (message.lost, core.lost) == (3, 3)
    assert "time stamps such as 1.8e+09, expected LSL's clock, now 100" in message.gap


def test_a_wide_chunk_is_cut() -> None:
    core = Incoming("eeg")
    core.opened(found(1000))
    n = 3 * MOST_VALUES // 1000
    messages = take(core, np.zeros((n, 1000)), np.full(n, 99.0))
    assert [len(m.t_ns) // 8 for m in messages] == [n // 3] * 3


def test_texts_are_texts_whatever_their_bytes() -> None:
    core = Incoming("words")
    core.opened(found(1, 0.0, is_text=True))
    (message,) = take(core, np.array([[b"hit"], [b"\xff\x00"]], dtype=object), [99.0, 99.1])
    assert message.texts == ["hit", "\ufffd\x00"]
    long = np.array([[b"a" * 60_000], [b"b" * 60_000], [b"c" * 200_000]], dtype=object)
    messages = take(core, long, [99.0, 99.1, 99.2])
    assert [m.texts[0][0] for m in messages] == ["a", "b"]
    assert core.lost == 1


@given(
    values=arrays.arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 4))),
    stamps_s=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5),
)
def test_nothing_that_a_stream_sends_makes_it_raise(values: Any, stamps_s: list[float]) -> None:
    core = Incoming("eye")
    core.opened(found(2))
    messages = take(core, values, stamps_s)
    kept = sum(len(m.t_ns) // 8 for m in messages)
    assert kept + core.lost == len(stamps_s)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (found(0), "has 0 channels"),
        (found(5000), "has 5000 channels, expected 1 to 4096"),
        (found(3), "has 3 channels, expected 2 as in the rig file"),
        (found(2, float("nan")), "announces a rate of nan Hz"),
        (found(2, -1.0), "announces a rate of -1.0 Hz"),
        (found(2, 1e9), "announces 1e+09 Hz of 2 channels"),
        (found(2), ""),
    ],
)
def test_a_stream_that_can_not_be_is_refused(one: Found, words: str) -> None:
    problem = problem_of(one, Wanted(name="Eye", channels=2))
    assert problem.startswith(words)
    assert bool(problem) == bool(words)


# ---------------------------------------------------------------- the queue


def samples(n: int, stream: str = "eye") -> External:
    return External(stream=stream, channels=["x"], t_ns=b"\0" * 8 * n, values=b"\0" * 8 * n)


def body(request: control.Ask | None) -> External:
    assert request is not None
    return msgspec.json.decode(request.args["message"], type=External)


def test_what_is_not_answered_comes_again_with_the_same_id() -> None:
    queue = Queue("inlet")
    queue.add(samples(1))
    queue.add(samples(2))
    first = queue.request()
    assert first is not None
    assert not queue.answered(first, None)
    assert queue.request() == first
    assert queue.answered(first, control.Answer(True))
    second = queue.request()
    assert second is not None
    assert second.args["id"] != first.args["id"]
    assert body(second) == samples(2)
    assert queue.answered(second, control.Answer(True))
    assert (queue.request(), queue.bytes, queue.lost) == (None, 0, 0)


def test_what_there_is_no_room_for_is_told_by_the_next_of_its_stream() -> None:
    queue = Queue("inlet", most_bytes=3 * len(msgspec.json.encode(samples(4))))
    for _ in range(5):
        queue.add(samples(4))
    assert (len(queue), queue.lost, queue.lost_of) == (3, 8, {"eye": 8})
    message = body(queue.request())
    assert message.lost == 8
    assert "had no room" in message.gap


def test_what_is_refused_again_and_again_is_given_up() -> None:
    queue = Queue("inlet")
    queue.add(samples(3))
    queue.add(samples(1))
    for _ in range(TRIES):
        request = queue.request()
        assert request is not None
        assert not queue.answered(request, control.Answer(False, "the disk is full"))
    message = body(queue.request())
    assert (message.lost, message.gap, len(message.t_ns)) == (3, "the disk is full", 8)
