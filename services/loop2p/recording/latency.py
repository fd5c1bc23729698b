"""How long each step took, from the stamps every message carries. All in ms.

Where two machines stamped, the difference is as good as their clocks: each step has a bound (docs/time.md).

A frame's way: last byte in (cause.arrival_ns) -> traces sent -> output sent -> show or command sent -> picture on
the screen (flip_ns), command in actuation's hands (received_ns), valve open or LED armed (open_ns).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import (
    Accepted,
    Cause,
    Clock,
    Done,
    Envelope,
    Message,
    OptoCommand,
    Output,
    RewardCommand,
    Show,
    Shown,
    Traces,
)  # fmt: skip
from loop2p.recording.clock_bounds import ClockBounds
from loop2p.recording.run import Run

M = TypeVar("M", bound=Message)
Steps = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Frame times (s) and how long the step took (ms), both (n,)."""
Pairs = list[tuple[Cause, int]]
"""Causes, and how long the step took, ns."""
Reached = tuple[Cause | None, int]
"""What a command follows from, and when something came of it, rig clock ns."""
MS = 1e6
LOOPS = {
    "command": "command in hand",
    "shown": "picture on screen",
    "valve": "valve open",
    "led": "LED armed or off",
}
"""What a frame's last byte leads to, in words."""
HOPS = {
    "imaging": "last byte to traces",
    "decoding": "traces to output",
    "task": "output to decision",
    "stimulus": "decision to flip",
    "command": "decision to command in hand",
    "valve": "command in hand to valve open",
    "led": "command in hand to LED armed or off",
}
STAMPED = {
    "command": ("imaging", "actuation"),
    "shown": ("imaging", "stimulus"),
    "valve": ("imaging", "actuation"),
    "led": ("imaging", "actuation"),
    "hop imaging": ("imaging", "imaging"),
    "hop decoding": ("imaging", "decoding"),
    "hop task": ("decoding", "task"),
    "hop stimulus": ("task", "stimulus"),
    "hop command": ("task", "actuation"),
    "hop valve": ("actuation", "actuation"),
    "hop led": ("actuation", "actuation"),
}
"""Whose clocks stamped the two ends of a step."""


class Latencies:
    """Of each step, the frames (by frame time) and how long it took: name -> ((n,) s, (n,) ms).

    "led" is there where a frame switched the LED; the others always.

    `bounds_ms`: of each loop, and of each hop as "hop NAME", how far any of its values may be off because two clocks
    were compared: 0 on one machine, None if one never told. The controller's own clock is not in it.
    """

    def __init__(self, run: Run) -> None:
        traces = _first(run.with_headers(Traces), _sent)
        outputs = _first(run.with_headers(Output), _sent)
        shows = _first(run.with_headers(Show), _sent)
        rewards, optos = run.commands(RewardCommand), run.commands(OptoCommand)
        sent = {key: record.header.sent_ns for key, (record, _) in (optos | rewards).items()}
        cause_of = {key: record.header.cause for key, (record, _) in (optos | rewards).items()}

        def cause(record: Envelope, key: int) -> Cause | None:
            return record.header.cause or cause_of.get(key)

        accepted = {m.id: (cause(r, m.id), m.received_ns) for r, m in reversed(run.with_headers(Accepted))}
        done = [(cause(r, m.id), m) for r, m in run.with_headers(Done)]
        opened = {m.id: (c, m.open_ns) for c, m in done if m.volume_ul > 0}
        lit = {m.id: (c, m.open_ns) for c, m in done if m.id in optos}
        shown = _first(run.with_headers(Shown), lambda _, m: m.flip_ns)
        decided = dict(shows)
        for key, (record, _) in rewards.items():
            command_cause = record.header.cause
            if command_cause is not None:
                decided.setdefault(command_cause.frame, (command_cause, sent[key]))
        loops: dict[str, Pairs] = {
            "command": _since_arrival(accepted.values()),
            "shown": _since_arrival(shown.values()),
            "valve": _since_arrival(opened.values()),
        }
        hops: dict[str, Pairs] = {
            "imaging": _since_arrival(traces.values()),
            "decoding": _between(traces, outputs),
            "task": _between(outputs, decided),
            "stimulus": _between(shows, shown),
            "command": [(c, ns - sent[k]) for k, (c, ns) in accepted.items() if k in sent and c is not None],
            "valve": _after(accepted, opened),
        }
        if any(c is not None for c, _ in lit.values()):
            loops["led"], hops["led"] = _since_arrival(lit.values()), _after(accepted, lit)
        self.loops: dict[str, Steps] = {name: _arrays(pairs) for name, pairs in loops.items()}
        self.hops: dict[str, Steps] = {name: _arrays(pairs) for name, pairs in hops.items()}
        bounds = ClockBounds(run.with_headers(Clock))
        every = loops | {f"hop {name}": pairs for name, pairs in hops.items()}
        self.bounds_ms = {name: _bound_ms(bounds, name, pairs) for name, pairs in every.items()}


def _after(accepted: Mapping[int, Reached], reached: Mapping[int, Reached]) -> Pairs:
    """From a command in hand to what it did, by its id; nothing without a cause."""
    return [(c, ns - accepted[k][1]) for k, (c, ns) in reached.items() if k in accepted and c is not None]


def quantiles(values_ms: NDArray[np.float64]) -> dict[str, float | int | None]:
    """n and quantiles of a latency. Each is a value that occurred (nearest rank), so that a tail isn't smoothed."""
    if not len(values_ms):
        return {"n": 0, "p50": None, "p99": None, "p999": None, "max": None}
    p50, p99, p999 = np.quantile(values_ms, [0.5, 0.99, 0.999], method="inverted_cdf")
    return {
        "n": len(values_ms),
        "p50": round(float(p50), 4),
        "p99": round(float(p99), 4),
        "p999": round(float(p999), 4),
        "max": round(float(values_ms.max()), 4),
    }


def _first(records: Iterable[tuple[Envelope, M]], when: Callable[[Envelope, M], int]) -> dict[int, tuple[Cause, int]]:
    """Frame -> (cause, time) of the first message it caused.

    A later one with the same cause (a state sent again, a picture drawn by a successor) is late for other reasons
    and is no latency of the loop.
    """
    first: dict[int, tuple[Cause, int]] = {}
    for record, message in records:
        cause = record.header.cause
        if cause is not None and not record.header.resent:
            first.setdefault(cause.frame, (cause, when(record, message)))
    return first


def _sent(record: Envelope, _message: Message) -> int:
    return record.header.sent_ns


def _since_arrival(items: Iterable[tuple[Cause | None, int]]) -> Pairs:
    return [(cause, ns - cause.arrival_ns) for cause, ns in items if cause is not None]


def _between(before: dict[int, tuple[Cause, int]], after: dict[int, tuple[Cause, int]]) -> Pairs:
    return [(cause, ns - before[frame][1]) for frame, (cause, ns) in after.items() if frame in before]


def _arrays(pairs: Pairs) -> Steps:
    table = np.array(sorted((cause.time_s, ns / MS) for cause, ns in pairs), dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _bound_ms(bounds: ClockBounds, name: str, pairs: Pairs) -> float | None:
    if not pairs:
        return None
    arrivals = [cause.arrival_ns for cause, _ in pairs]
    bound_ns = bounds.between_ns(*STAMPED[name], min(arrivals), max(arrivals))
    return None if bound_ns is None else round(bound_ns / MS, 4)
