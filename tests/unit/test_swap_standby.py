"""Whose word counts around an exchange: decided by the frame, the same for every listener, in order."""

import pytest

from loop2p.protocol import Alarm, Cause, Envelope, Heartbeat, Message, Output, seal
from loop2p.runtime.standby import KEPT, OPEN_NS, PATIENCE_NS, Standby


def output(frame: int, instance: str = "new") -> Envelope:
    cause = Cause(frame=frame, plane=0, time_s=frame / 30.92, arrival_ns=0)
    return seal(Output(cause=cause, d=0.0, value=0.0), "decoding", instance, frame, 0)


def other(message: Message) -> Envelope:
    return seal(message, "decoding", "new", 0, 0)


class Listener:
    """Takes what both say, as the runtime does."""

    def __init__(self) -> None:
        self.standby, self.taken, self.now_ns = Standby(), list[tuple[str, int]](), 0

    def hear(self, envelope: Envelope, acting: bool) -> None:
        verdict = self.standby.judge(envelope, acting, self.now_ns)
        if verdict == "take":
            self.release()
            self._take(envelope)
        elif verdict == "hold":
            self.standby.hold(envelope, self.now_ns)
        elif not acting:
            self.standby.keep(envelope)
        self.release()

    def exchange(self, at: int) -> None:
        for envelope in self.standby.exchange(at, self.now_ns):
            self._take(envelope)
        self.release()

    def release(self) -> None:
        for envelope in self.standby.released(self.now_ns):
            self._take(envelope)

    def _take(self, envelope: Envelope) -> None:
        if envelope.header.cause is not None:
            self.taken.append((envelope.header.instance, envelope.header.cause.frame))


def test_before_any_exchange_the_acting_one_counts_and_the_other_is_kept() -> None:
    standby = Standby()
    for envelope in (output(7), other(Heartbeat(health="ready"))):
        assert standby.judge(envelope, True, 0) == "take"
        assert standby.judge(envelope, False, 0) == "keep"


@pytest.mark.parametrize("lead", range(-6, 7))
@pytest.mark.parametrize("heard_at", range(92, 100))
def test_every_frame_is_decided_once_and_in_order_however_the_two_run_apart(lead: int, heard_at: int) -> None:
    """`lead`: by how many frames the newcomer is ahead. `heard_at`: the old one's frame at which the word comes."""
    listener = Listener()
    for frame in range(90, 120):
        if frame == heard_at:
            listener.exchange(100)
        turned = frame >= heard_at
        listener.hear(output(frame, "old"), acting=not turned)
        if frame + lead >= 90:
            listener.hear(output(frame + lead), acting=turned)
    last = min(119, 119 + lead)
    expected = [("old" if frame < 100 else "new", frame) for frame in range(90, last + 1)]
    assert listener.taken[: len(expected)] == expected


def test_the_new_ones_word_does_not_wait_long_for_one_that_has_died() -> None:
    listener = Listener()
    listener.exchange(100)
    listener.hear(output(100), acting=True)
    assert listener.taken == []
    listener.now_ns = PATIENCE_NS
    listener.hear(output(102), acting=True)
    assert listener.taken == [("new", 100), ("new", 102)]
    listener.hear(output(98, "old"), acting=False)  # too late: time does not run back
    assert listener.taken == [("new", 100), ("new", 102)]


def test_messages_without_a_frame_are_the_acting_ones_at_once() -> None:
    standby = Standby()
    standby.exchange(1000, 0)
    beat = other(Heartbeat(health="ready"))
    assert standby.judge(beat, True, 0) == "take"
    assert standby.judge(beat, False, 0) == "keep"


def test_state_is_there_at_the_exchange_newest_alone() -> None:
    standby = Standby()
    for code, active in (("a", True), ("b", True), ("a", False)):
        standby.keep(other(Alarm(code=code, active=active, detail="x")))
    found = [e.message for e in standby.exchange(5, 0)]
    assert {(m.code, m.active) for m in found} == {("a", False), ("b", True)}


def test_what_is_kept_is_bounded() -> None:
    standby = Standby()
    for frame in range(10 * KEPT):
        standby.keep(output(frame))
    standby.exchange(0, 0)
    assert len(standby.released(PATIENCE_NS)) == KEPT


def test_an_imaging_that_counts_anew_is_not_shut_out_for_long() -> None:
    standby = Standby()
    standby.exchange(50_000, 0)
    assert standby.judge(output(3), True, OPEN_NS - 1) == "drop"
    assert standby.judge(output(4), True, OPEN_NS) == "take"
    assert standby.judge(output(5), True, OPEN_NS + 1) == "take"


def test_a_second_exchange_is_the_first_one_the_other_way() -> None:
    listener = Listener()
    listener.exchange(10)
    for frame in range(8, 14):
        listener.hear(output(frame, "old"), acting=False)
        listener.hear(output(frame), acting=True)
    listener.exchange(16)
    for frame in range(14, 20):
        listener.hear(output(frame), acting=False)
        listener.hear(output(frame, "old"), acting=True)
    who = {8: "old", 9: "old", **dict.fromkeys(range(10, 16), "new"), **dict.fromkeys(range(16, 20), "old")}
    assert listener.taken == [(who[frame], frame) for frame in range(8, 20)]
