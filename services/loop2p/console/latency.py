"""How long each step from a frame to its effect takes, as the messages pass by. Pure. All in ms.

A frame's way: last byte in -> traces sent -> control value sent -> picture or command sent -> picture on the screen, or
command in actuation's hands -> valve open. Of two machines, a step is as good as their clocks (docs/time.md).
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

from msgspec import Struct

from loop2p.protocol import (
    Accepted,
    Done,
    Envelope,
    OptoCommand,
    Output,
    RewardCommand,
    Show,
    Shown,
    Traces,
)

KEPT = 500
"""Newest values of each step that quantiles are taken of."""
WAITING = 200
"""Frames and commands of which one end of a step is known and the other is still to come."""
STEPS = (
    "imaging", "decoding", "task", "stimulus", "command", "valve", "frame to decision", "frame to command",
    "frame to picture", "frame to valve",
)  # fmt: skip
BUDGETED = ("frame to decision", "frame to command")
"""What has to be done before the next frame is in."""


class Step(Struct, frozen=True):
    """One step: quantiles of its newest values, ms; None where there are none."""

    name: str
    n: int
    last: float | None
    p50: float | None
    p99: float | None
    budgeted: bool
    """It is this that has a budget; the others are parts of the way, or go on behind it."""


class _Join:
    """The two ends of a step, in whichever order they are heard: they come from different services. The first of each
    counts."""

    def __init__(self) -> None:
        self._ends: dict[int, list[int | None]] = {}
        self.values: deque[float] = deque(maxlen=KEPT)

    def put(self, key: int, end: int, at_ns: int) -> None:
        """`end`: 0 where the step begins, 1 where it ends."""
        ends = self._ends.setdefault(key, [None, None])
        if ends[end] is None:
            ends[end] = at_ns
            if ends[0] is not None and ends[1] is not None:
                self.values.append((ends[1] - ends[0]) / 1e6)
        if len(self._ends) > WAITING:
            del self._ends[next(iter(self._ends))]


class Latencies:
    """Keeps the newest values of every step. The first message that a frame caused counts, none that was sent again."""

    def __init__(self) -> None:
        self._steps = {name: _Join() for name in STEPS}

    def take(self, envelope: Envelope) -> None:
        """Take a message; of most nothing is taken."""
        header, message, cause = envelope.header, envelope.message, envelope.header.cause
        if header.resent:
            return
        frame = cause.frame if cause is not None else -1
        match message:
            case Traces() if cause is not None:
                self._whole("imaging", frame, cause.arrival_ns, header.sent_ns)
                self._begin("decoding", frame, header.sent_ns)
            case Output() if cause is not None:
                self._end("decoding", frame, header.sent_ns)
                self._begin("task", frame, header.sent_ns)
            case Show() if cause is not None:
                self._decided(frame, cause.arrival_ns, header.sent_ns)
                self._begin("stimulus", header.seq, header.sent_ns)
            case Shown() if cause is not None and message.show_seq >= 0:
                self._end("stimulus", message.show_seq, message.flip_ns)
                self._whole("frame to picture", frame, cause.arrival_ns, message.flip_ns)
            case RewardCommand() | OptoCommand():
                self._begin("command", message.id, header.sent_ns)
                if cause is not None:
                    self._decided(frame, cause.arrival_ns, header.sent_ns)
                    self._begin("frame to command", message.id, cause.arrival_ns)
                    self._begin("frame to valve", message.id, cause.arrival_ns)
            case Accepted():
                self._end("command", message.id, message.received_ns)
                self._end("frame to command", message.id, message.received_ns)
                self._begin("valve", message.id, message.received_ns)
            case Done() if message.volume_ul > 0:
                self._end("valve", message.id, message.open_ns)
                self._end("frame to valve", message.id, message.open_ns)

    def _decided(self, frame: int, arrival_ns: int, sent_ns: int) -> None:
        self._end("task", frame, sent_ns)
        self._whole("frame to decision", frame, arrival_ns, sent_ns)

    def _begin(self, name: str, key: int, at_ns: int) -> None:
        self._steps[name].put(key, 0, at_ns)

    def _end(self, name: str, key: int, at_ns: int) -> None:
        self._steps[name].put(key, 1, at_ns)

    def _whole(self, name: str, key: int, begin_ns: int, end_ns: int) -> None:
        self._begin(name, key, begin_ns)
        self._end(name, key, end_ns)

    def steps(self) -> Iterator[Step]:
        """Every step, in the order of a frame's way."""
        for name, step in self._steps.items():
            ordered = sorted(step.values)
            last = round(step.values[-1], 3) if ordered else None
            yield Step(name, len(ordered), last, quantile(ordered, 0.5), quantile(ordered, 0.99), name in BUDGETED)


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """A value that occurred (nearest rank), of values in rising order; None of none."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(q * len(ordered)) - 1)], 3)
