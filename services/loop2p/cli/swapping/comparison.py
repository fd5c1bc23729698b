"""Two that answer the same frames: how much they differ, what is missing, how late they are. Pure."""

from collections import deque
from typing import Any, Literal

import numpy as np

from loop2p.protocol import Envelope, Message, Output

Side = Literal["old", "new"]
LAG_FRAMES = 128
"""A frame that one of the two has answered so long before the other's newest answer is missing there."""
WAITING = 1000
"""Answers that wait for the other's."""
LATENCIES = 100_000
"""Of each side, kept for quantiles: an hour and three quarters of decoder outputs."""


def numbers(message: Message) -> tuple[float, ...]:
    """What of a message is compared; nothing where only its coming is."""
    return (message.d, message.value) if isinstance(message, Output) else ()


class Comparison:
    """Takes what both say, pairs it by the frame of its cause. Frames before both were heard count for nobody."""

    def __init__(self) -> None:
        self.compared = 0
        self.largest = 0.0
        self.missing: dict[str, int] = {"old": 0, "new": 0}
        self._sum = 0.0
        self._waiting: dict[str, dict[tuple[str, int], tuple[float, ...]]] = {"old": {}, "new": {}}
        self._newest: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._late_s: dict[str, deque[float]] = {side: deque(maxlen=LATENCIES) for side in ("old", "new")}

    @property
    def mean(self) -> float:
        return self._sum / self.compared if self.compared else 0.0

    def take(self, side: Side, envelope: Envelope) -> None:
        """An answer of one of the two; messages without a cause tell nothing here."""
        cause = envelope.header.cause
        if cause is None:
            return
        other: Side = "new" if side == "old" else "old"
        self._late_s[side].append((envelope.header.sent_ns - cause.arrival_ns) / 1e9)
        self._first.setdefault(side, cause.frame)
        self._newest[side] = max(cause.frame, self._newest.get(side, cause.frame))
        key, mine = (envelope.topic, cause.frame), numbers(envelope.message)
        theirs = self._waiting[other].pop(key, None)
        if theirs is None:
            self._waiting[side][key] = mine
        else:
            self._compare(mine, theirs)
        self._give_up()

    def _compare(self, a: tuple[float, ...], b: tuple[float, ...]) -> None:
        self.compared += 1
        difference = max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)
        self.largest = max(self.largest, difference)
        self._sum += difference

    def _give_up(self) -> None:
        """What waits for an answer that will not come."""
        for side, other in (("old", "new"), ("new", "old")):
            waiting = self._waiting[side]
            if len(waiting) > WAITING:
                del waiting[next(iter(waiting))]  # the other one has fallen silent
            if other not in self._newest:
                continue
            for key in [k for k in waiting if k[1] + LAG_FRAMES < self._newest[other]]:
                del waiting[key]
                if key[1] >= self._first[other]:
                    self.missing[other] += 1

    def result(self) -> dict[str, Any]:
        """Figures: differences in the values' own units, latencies in ms from the frame's last byte."""
        return {
            "compared": self.compared,
            "largest_difference": self.largest,
            "mean_difference": self.mean,
            "missing": dict(self.missing),
            "latency_ms": {side: _quantiles(late_s) for side, late_s in self._late_s.items()},
        }

    def line(self) -> str:
        """The figures in one line, for a person and for the record."""
        parts = [f"{self.compared} compared, largest difference {self.largest:.3g}, mean {self.mean:.3g}"]
        parts.append(f"missing {self.missing['old']} of the old one, {self.missing['new']} of the new one")
        for side, q in self.result()["latency_ms"].items():
            if q["n"]:
                parts.append(f"{side} p50 {q['p50']:.2f} p99 {q['p99']:.2f} ms")
        return "; ".join(parts)


def _quantiles(late_s: deque[float]) -> dict[str, Any]:
    if not late_s:
        return {"n": 0, "p50": None, "p99": None, "max": None}
    p50, p99, most = np.quantile(np.array(late_s) * 1e3, (0.5, 0.99, 1.0))
    return {"n": len(late_s), "p50": float(p50), "p99": float(p99), "max": float(most)}
