"""Stimulus: what task asks for, on the screen, and a report of every change."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.verdict import BrokenError, Clause
from loop2p.protocol import Cause, Show, Shown

PICTURES = [("grey", None), ("grating", 0.0), ("grating", 45.0), ("black", None), ("grating", 90.0), ("grey", None)]
BURST = 20
SILENCE_S = 3.0


class StimulusTest(RoleTest):
    hears = (("task", "task.show"),)

    def options(self) -> dict[str, Any]:
        return {"renderer": "software", "width_px": 160, "height_px": 90}

    def begin(self) -> None:
        stage = self.stage
        stage.wait(lambda: stage.listens_to("task", "task.show"), "its subscription to task.show", 20.0)
        super().begin()
        self.angle = 0.0

    def clauses(self) -> list[Clause]:
        return [
            Clause("each picture is reported when it is shown, with the cause of the wish", self.pictures),
            Clause("of many wishes at once the last is shown, and those overtaken are counted and named", self.burst),
            Clause("a grating without an angle changes nothing", self.no_angle),
            Clause("task's silence turns the screen grey", self.silence),
            Clause("a wish for the grey that is there by itself is answered like any other", self.grey_again),
        ]  # fmt: skip

    def pictures(self) -> str:
        late_ms = []
        for what, angle in PICTURES[1:]:
            shown = self.show(what, angle)
            if abs(shown.flip_ns - time.perf_counter_ns()) > 5e9:
                raise BrokenError(f"flip_ns {shown.flip_ns} is not the rig clock's present time")
            late_ms.append((shown.flip_ns - (shown.cause.arrival_ns if shown.cause else 0)) / 1e6)
        return f"measured: wish to flip {min(late_ms):.1f} to {max(late_ms):.1f} ms"

    def burst(self) -> str:
        stage, mark = self.stage, self.stage.mark()
        first = stage.others["task"].published.get(Show.topic, 0)
        last = self.show_angles([10.0 + k for k in range(BURST)])
        stage.next(mark, Shown, f"the last of {BURST}", lambda m: m.cause == last)
        shown = stage.since(mark, Shown)
        accounted = len(shown) + sum(m.superseded for m in shown)
        if accounted != BURST:
            raise BrokenError(f"{len(shown)} shown and {accounted - len(shown)} superseded, expected {BURST} in all")
        named = {m.show_seq for m in shown}.union(*(m.overtaken for m in shown))
        if named != (wanted := set(range(first, first + BURST))):
            raise BrokenError(
                f"show_seq and overtaken name {sorted(named)}, expected the sequence numbers {sorted(wanted)}"
            )
        return f"{len(shown)} of {BURST} shown"

    def no_angle(self) -> str:
        mark = self.stage.mark()
        self.stage.publish("task", Show(what="grating", cause=self.stage.cause()))
        self.stage.passing(0.2)
        odd = [m for m in self.stage.since(mark, Shown) if m.what == "grating" and m.angle_deg is None]
        if odd:
            raise BrokenError("a grating of no angle was reported as shown")
        self.works()
        return "not shown"

    def silence(self) -> str:
        with self.silent_task() as took_s:
            pass
        return f"after {took_s:.2f} s"

    def grey_again(self) -> str:
        with self.silent_task():
            self.show("grey", None)
        return "answered"

    @contextmanager
    def silent_task(self) -> Iterator[float]:
        """A grating, then no heartbeat of the task; the block begins when the screen is grey, after so many seconds."""
        self.works()
        stage, mark, since_s = self.stage, self.stage.mark(), time.monotonic()
        stage.silent.add("task")
        try:
            stage.wait(lambda: any(m.what == "grey" for m in stage.since(mark, Shown)) or None, "grey", SILENCE_S)
            yield time.monotonic() - since_s
        finally:
            stage.silent.discard("task")
        stage.passing(0.3)

    def works(self) -> None:
        self.angle = (self.angle + 15.0) % 90 + 1.0
        self.show("grating", self.angle)

    def show(self, what: Any, angle: float | None) -> Shown:
        mark, cause = self.stage.mark(), self.stage.cause()
        self.stage.publish("task", Show(what=what, angle_deg=angle, cause=cause))
        shown = self.stage.next(mark, Shown, f"{what} {angle} as shown", lambda m: m.cause == cause)
        if (shown.what, shown.angle_deg) != (what, angle):
            raise BrokenError(f"shown: {shown.what} {shown.angle_deg}, expected {what} {angle}")
        return shown

    def show_angles(self, angles: list[float]) -> Cause:
        for angle in angles:
            cause = self.stage.cause()
            self.stage.publish("task", Show(what="grating", angle_deg=angle, cause=cause))
        return cause
