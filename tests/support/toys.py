"""Small services that fill a role in tests of the runtime."""

from collections import deque
from collections.abc import Iterable
from typing import Any

from loop2p.protocol import Alarm, Cause, Message, Output, Phase, Rois, Show, Traces, control, f32, from_f32
from loop2p.runtime import Service


class Quiet(Service):
    """Fills a role and does nothing."""


class Feeder(Service):
    """Imaging's place: publishes frames when asked over the control socket, `args["frames"]` of them."""

    publishes = (Traces, Rois)

    def __init__(self) -> None:
        self.next = 0
        self.told = False

    def tick(self) -> Iterable[Message]:
        if not self.told:
            self.told = True
            yield Rois(set_id="toy", height=2, width=2, planes=[], buffers=(b"\x00" * 16,))
            yield Alarm(code="first", active=True, detail="one")
            yield Alarm(code="second", active=True, detail="two")

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        n = int(ask.args["frames"])
        first, self.next = self.next, self.next + n
        return control.Answer(True), [frame(k) for k in range(first, first + n)]


def frame(k: int) -> Traces:
    """A frame whose values tell its index."""
    return Traces(
        plane=k % 2, f=f32([k, 2 * k, 100.0]), cause=Cause(frame=k, plane=k % 2, time_s=k / 30.92, arrival_ns=k)
    )


class Adder(Service):
    """Decoding's place: sums the ROIs; an impossible frame (index 666) is a fault."""

    subscribes = (Traces, Rois, Alarm)
    publishes = (Output,)

    def __init__(self) -> None:
        self.sum = 0.0
        self.seen: deque[Any] = deque(maxlen=1000)
        self.added = 0

    def handle(self, message: Message) -> Iterable[Message]:
        self.seen.append(message)
        self.added += isinstance(message, Traces)
        if not isinstance(message, Traces) or message.cause is None:
            return
        if message.cause.frame == 666:
            raise ArithmeticError("frame 666: found nothing sensible, expected a number")
        self.sum += float(from_f32(message.f).sum())
        yield Output(d=self.sum, value=self.sum / 3)

    def counters(self) -> dict[str, int]:
        return {"frames_added": self.added}


class Pointer(Service):
    """Task's place: an angle for each output."""

    subscribes = (Output,)
    publishes = (Show, Phase)

    def handle(self, message: Message) -> Iterable[Message]:
        assert isinstance(message, Output)
        yield Show(what="grating", angle_deg=message.value % 90)
