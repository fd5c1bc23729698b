"""Decoding: a value for each proximal frame, with that frame's cause."""

import time

import numpy as np
from numpy.typing import NDArray

from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.verdict import BrokenError, Clause, NotThereError
from loop2p.decoding.core import ControlSignal, DifferenceDecoder
from loop2p.protocol import DISTAL, PROXIMAL, Cause, Output, Selection, Traces, f32

N_ROIS, PLUS, MINUS = 12, [0, 1, 2, 3], [4, 5, 6, 7]
N_FRAMES, SEED = 620, 20
"""More than the 464 of F0's window."""
TOLERANCE = 1e-4
AT_RATE = 100
WAIT_S = 2.0


class DecodingTest(RoleTest):
    hears = (("imaging", "imaging.traces"), ("task", "task.selection"), ("task", "rig.session"))

    def begin(self) -> None:
        stage = self.stage
        for name, topic in self.hears:
            stage.wait(lambda n=name, t=topic: stage.listens_to(n, t), f"its subscription to {topic}", 20.0)  # type: ignore[misc]
        self.rng = np.random.default_rng(SEED)
        self.reference = ControlSignal(stage.rig_file.rig.microscope.plane_rate_hz)
        self.reference.use(DifferenceDecoder(PLUS, MINUS, stage.rig_file.rig.microscope.plane_rate_hz), PLUS + MINUS)
        super().begin()
        stage.publish("task", Selection(plus=PLUS, minus=MINUS, seed=1))

    def clauses(self) -> list[Clause]:
        return [
            Clause("each proximal frame, and no distal one, is answered once, with its cause, in order", self.frames),
            Clause(f"its values are the published decoder's within {TOLERANCE:g}", self.values),
            Clause("a frame whose traces are not valid gives no valid value", self.not_valid),
            Clause("it goes on behind frames that were lost", self.gap),
            Clause("it goes on when imaging was started again", self.imaging_again),
            Clause("it keeps up with 15.46 frames a second of each plane", self.speed),
        ]  # fmt: skip

    # ------------------------------------------------------------ clauses

    def frames(self) -> str:
        mark = self.stage.mark()
        self.sent: list[tuple[Traces, Output | None]] = []
        for _ in range(N_FRAMES):
            self.exchange()
        self.stage.passing(0.2)
        causes = [e.header.cause for e in self.stage.envelopes(mark, Output)]
        expected = [traces.cause for traces, _ in self.sent]
        if causes != expected:
            odd = next((c for c in causes if c not in expected), None)
            twice = len(causes) - len({c.frame for c in causes if c is not None})
            raise BrokenError(
                f"{len(causes)} outputs for {len(expected)} proximal frames ({twice} twice), expected one each with "
                f"the frame's cause; the first that is none of theirs: {odd}"
            )
        return f"{len(causes)} of {len(expected)}, seed {SEED}"

    def values(self) -> str:
        answers = [e.message for e in self.stage.envelopes(0, Output)]
        theirs = {m.cause.frame: m for m in answers if isinstance(m, Output) and m.cause is not None}
        compared, worst = 0, 0.0
        for traces, ours in self.sent:
            assert traces.cause is not None
            mine = theirs.get(traces.cause.frame)
            if mine is None or ours is None or not (mine.valid and ours.valid):
                continue
            compared += 1
            worst = max(worst, abs(mine.d - ours.d), abs(mine.value - ours.value))
            if not np.isfinite([mine.d, mine.value]).all():
                raise BrokenError(f"frame {traces.cause.frame}: d {mine.d}, value {mine.value}, expected numbers")
        if not compared:
            raise BrokenError(f"no valid value in {len(self.sent)} frames, expected them from 10 s on")
        found = f"{compared} valid values compared, largest difference {worst:.3g}"
        if self.own_values:
            raise NotThereError(f"a decoder of its own, so only its form is judged; {found}")
        if worst > TOLERANCE:
            raise BrokenError(f"{found}; a decoder of its own is tested with --own-values")
        return found

    def not_valid(self) -> str:
        cause = self.stage.cause()
        self.stage.publish("imaging", self.traces(cause, self.f(), valid=False))
        outputs = self.exchange()
        answered = [m for m in self.stage.since(0, Output) if m.cause == cause]
        if any(m.valid for m in answered):
            raise BrokenError(f"frame {cause.frame}: valid, although its traces were not")
        return f"{'not valid' if answered else 'not answered'}; the next one is ({outputs.value:.3g})"

    def gap(self) -> str:
        self.stage.cause(step=5)
        self.stage.others["imaging"].published["imaging.traces"] += 10
        self.exchange()
        return "5 volumes and their numbers left out"

    def imaging_again(self) -> str:
        bus = self.stage.others["imaging"]
        bus.instance = "imaging-stage-again"
        bus.published.clear()
        self.stage.cause(step=30)
        self.exchange()
        return "another instance, numbers from 0, 2 s later"

    def speed(self) -> str:
        """At the rate of the rig, both planes in turn."""
        stage, sent_s, late_ms = self.stage, {}, []
        rate_hz, mark, start_s = stage.rig_file.rig.microscope.rate_hz, stage.mark(), time.monotonic()
        for k in range(2 * AT_RATE):
            while time.monotonic() < start_s + k / rate_hz:
                stage.pump(start_s + k / rate_hz - time.monotonic())
            plane = k % 2
            cause = self.cause_of(plane)
            stage.publish("imaging", self.traces(cause, self.f()))
            if plane == PROXIMAL:
                sent_s[cause.frame] = time.monotonic()

        def all_answered() -> bool:
            answered = {m.cause.frame for m in stage.since(mark, Output) if m.cause is not None}
            return sent_s.keys() <= answered

        stage.wait(all_answered, f"outputs for {AT_RATE} frames at {rate_hz / 2:.2f} Hz")
        for envelope, heard_s in zip(stage.heard[mark:], stage.heard_s[mark:], strict=True):
            frame = envelope.header.cause.frame if envelope.header.cause else -1
            if isinstance(envelope.message, Output) and frame in sent_s:
                late_ms.append(1e3 * (heard_s - sent_s[frame]))
        p50, p99 = np.quantile(late_ms, (0.5, 0.99))
        found = f"from frame out to value in: p50 {p50:.2f}, p99 {p99:.2f} ms"
        if self.budget_ms is not None and p99 > self.budget_ms:
            raise BrokenError(f"{found}, expected p99 of at most {self.budget_ms:g} ms")
        return f"measured: {found}" if self.budget_ms is None else found

    # ------------------------------------------------------------ helpers

    def works(self) -> None:
        self.exchange()

    def exchange(self) -> Output:
        """A frame of each plane; the output of the proximal one."""
        mark = self.stage.mark()
        near = self.traces(self.cause_of(PROXIMAL), self.f())
        self.stage.publish("imaging", near)
        if hasattr(self, "sent"):
            self.sent.append((near, self.reference.step(near)))
        self.stage.publish("imaging", self.traces(self.cause_of(DISTAL), self.f()))
        return self.stage.next(mark, Output, f"an output for {near.cause}", lambda m: m.cause == near.cause)

    def cause_of(self, plane: int) -> Cause:
        """The proximal plane comes first in each volume."""
        return self.stage.cause(plane, step=1 if plane == PROXIMAL else 0)

    def traces(self, cause: Cause, f: NDArray[np.float32], valid: bool = True) -> Traces:
        return Traces(cause=cause, plane=cause.plane, f=f32(f), valid=valid)

    def f(self) -> NDArray[np.float32]:
        """(N_ROIS,) counts over a baseline, with transients."""
        f = self.rng.normal(200, 10, N_ROIS) + 150 * (self.rng.random(N_ROIS) < 0.01)
        return f.astype(np.float32)
