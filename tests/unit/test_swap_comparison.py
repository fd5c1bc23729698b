"""Two decoders that answer the same frames, compared frame by frame."""

import pytest

from loop2p.cli.swapping.comparison import LAG_FRAMES, Comparison
from loop2p.cli.swapping.newcomer import fill_in, free_endpoints, split_command
from loop2p.protocol import Cause, Endpoints, Envelope, Heartbeat, Output, seal


def output(frame: int, d: float, late_ms: float = 1.0) -> Envelope:
    cause = Cause(frame=frame, plane=0, time_s=frame / 30.92, arrival_ns=1_000_000 * frame)
    message = Output(cause=cause, d=d, value=d / 2)
    return seal(message, "decoding", "x", frame, cause.arrival_ns + round(late_ms * 1e6))


def test_differences_are_by_frame_whatever_the_order() -> None:
    c = Comparison()
    for frame in range(0, 20, 2):
        c.take("old", output(frame, 1.0))
    for frame in range(0, 20, 2):
        c.take("new", output(frame, 1.0 + frame / 100))
    assert c.compared == 10
    assert c.largest == pytest.approx(0.18)
    assert c.mean == pytest.approx(0.09)


def test_a_frame_that_one_never_answers_is_missing_there() -> None:
    c = Comparison()
    for frame in range(2 * LAG_FRAMES):
        c.take("old", output(frame, 0.0))
        if frame >= 10 and frame != 50:
            c.take("new", output(frame, 0.0))
    assert c.result()["missing"] == {"old": 0, "new": 1}  # those before it came are nobody's fault


def test_latencies_of_both_are_quantiles_in_ms() -> None:
    c = Comparison()
    for frame in range(101):
        c.take("old", output(frame, 0.0, late_ms=frame / 10))
        c.take("new", output(frame, 0.0, late_ms=3.0))
    latency = c.result()["latency_ms"]
    assert latency["old"]["p50"] == pytest.approx(5.0)
    assert latency["old"]["p99"] == pytest.approx(9.9)
    assert latency["new"] == {"n": 101, "p50": 3.0, "p99": 3.0, "max": 3.0}
    assert "101 compared" in c.line()


def test_what_has_no_frame_is_not_compared() -> None:
    c = Comparison()
    c.take("old", seal(Heartbeat(health="ready"), "decoding", "x", 0, 0))
    assert c.result()["latency_ms"]["old"] == {"n": 0, "p50": None, "p99": None, "max": None}


def test_a_commands_braces_are_filled_and_others_left() -> None:
    values = {"LOOP2P_PUBLISH": "tcp://127.0.0.1:1", "LOOP2P_RIG": "a rig.toml"}
    command = split_command("dec --at {LOOP2P_PUBLISH} '{LOOP2P_RIG}' {other}")
    assert fill_in(command, values) == ["dec", "--at", "tcp://127.0.0.1:1", "a rig.toml", "{other}"]


def test_endpoints_are_on_the_same_address_and_differ() -> None:
    at = free_endpoints(Endpoints("tcp://127.0.0.1:1", "x", "x"))
    ports = {e.rpartition(":")[2] for e in (at.publish, at.bulk, at.control)}
    assert len(ports) == 3
    assert all(e.startswith("tcp://127.0.0.1:") for e in (at.publish, at.bulk, at.control))
    assert free_endpoints(at, 6000) == Endpoints(*(f"tcp://127.0.0.1:{6000 + k}" for k in range(3)))
