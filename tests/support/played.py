"""A session's core played by hand: frames by number, requests by name, and all that came out."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from rigs import rig_text

from loop2p.protocol import Cause, Output, Phase, RequestLog, Show, Stall, Trial
from loop2p.task import SessionCore, make_plan
from loop2p.task.core import Effect

RATE_HZ = 15.46
BASELINE_N = 155
TASK = """
[selection]
plus = [0, 1]
minus = [2, 3]
[baseline]
duration_s = 10
[calibration]
window_s = 5
[trial]
loop_s = 5
[closed_loop]
duration_s = 30
"""
FIXED = TASK.replace("duration_s = 10", "duration_s = 0").replace(
    "window_s = 5", "fixed = {minimum = 0, threshold = 1}"
)
OPTO = FIXED + "[opto]\narmed = true\nbaseline = true\n"
GREY = Show(what="grey")
RIG = rig_text(list(range(5500, 5600)), "runs")


def output(k: int, value: float, valid: bool = True, t_s: float | None = None) -> Output:
    """The k-th proximal frame of a two-plane microscope."""
    cause = Cause(frame=2 * k, plane=0, time_s=k / RATE_HZ if t_s is None else t_s, arrival_ns=k)
    return Output(cause=cause, d=value, value=value, valid=valid)


def request(kind: str, by: str = "anna", **fields: Any) -> RequestLog:
    return RequestLog(kind=kind, by=by, accepted=True, **fields)


class Played:
    """A core, its frames counted, and all that was seen by it and came out."""

    def __init__(self, task: str = FIXED, animal: str = "", given_ul: float = 0.0) -> None:
        self.core = SessionCore(make_plan(task, animal), RATE_HZ, given_ul)
        self.k = 0
        self.events: list[Any] = []
        self.out: list[Effect] = []

    def do(self, event: Output | Stall | RequestLog) -> list[Effect]:
        self.events.append(event)
        out = self.core.step(event)
        self.out += out
        return out

    def ask(self, kind: str, **fields: Any) -> list[Effect]:
        return self.do(request(kind, last_frame=self.core.last_frame, **fields))

    def stall(self, what: str = "frames") -> list[Effect]:
        return self.do(Stall(waited_s=0.5, last_frame=self.core.last_frame, what=what))

    def frames(self, values: Iterable[float]) -> list[Effect]:
        out: list[Effect] = []
        for value in values:
            out += self.do(output(self.k, value, valid=not math.isnan(value)))
            self.k += 1
        return out


def noise(n: int, seed: int = 1) -> list[float]:
    return [float(v) for v in np.random.default_rng(seed).normal(0, 0.1, n)]


def phases(out: Iterable[Effect]) -> list[str]:
    return [m.phase for m in out if isinstance(m, Phase)]


def edges(out: Iterable[Effect]) -> list[tuple[int, str]]:
    return [(m.trial, m.edge) for m in out if isinstance(m, Trial)]


def of(kind: type, out: Iterable[Effect]) -> list[Any]:
    return [m for m in out if isinstance(m, kind)]
