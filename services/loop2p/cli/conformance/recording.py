"""Recording: everything is in the journal, and its heartbeats say up to where that is safe."""

import time
from pathlib import Path

from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.verdict import BrokenError, Clause, NotThereError
from loop2p.protocol import Audit, Heartbeat, Lick, Output, Phase, Shown, Traces, Wheel, f32

ROUNDS = 100
SAFE_S = 5.0


class RecordingTest(RoleTest):
    ends_last = True
    hears = (("imaging", "imaging.traces"), ("decoding", "decoding.output"), ("actuation", "actuation.lick"))

    def begin(self) -> None:
        stage = self.stage
        for name in stage.others:
            stage.wait(lambda n=name: stage.listens_to(n, "rig.heartbeat"), f"its subscription to {name}", 20.0)  # type: ignore[misc]
        super().begin()
        stage.publish("task", Phase(phase="closed_loop", day=1))

    def clauses(self) -> list[Clause]:
        return [
            Clause("its heartbeats say that what was sent is safe in the journal", self.flushed),
            Clause("the journal is in the run's folder, and grows", self.journal, optional=True),
            Clause("at the end of a session its audit finds every message", self.audit),
        ]

    def flushed(self) -> str:
        worst_s = 0.0
        for _ in range(5):
            self.send(ROUNDS // 5)
            since_s = time.monotonic()
            self.wait_until_safe()
            worst_s = max(worst_s, time.monotonic() - since_s)
        return f"measured: {ROUNDS} rounds of five topics, the last safe after {1e3 * worst_s:.0f} ms at most"

    def journal(self) -> str:
        folder = Path(self.stage.rig_file.rig.data.folder) / self.stage.run_id
        files = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
        if not files:
            raise NotThereError(f"nothing in {folder.name}/: it writes elsewhere")
        return ", ".join(sorted(p.name for p in files))

    def audit(self) -> str:
        """A session that is followed by another one has ended."""
        stage, mark = self.stage, self.stage.mark()
        self.wait_until_safe()
        stage.publish("task", Phase(phase="ended", day=1))
        stage.publish("task", self.session("conform-2"))
        stage.run_id = "conform-2"
        stage.publish("task", Phase(phase="closed_loop", day=1))
        audit = stage.next(mark, Audit, "an audit")
        if not audit.complete:
            raise BrokenError(f"not complete: {'; '.join(audit.notes)[:500]}")
        written = sum(topic.written for topic in audit.topics.values())
        return f"complete, {written} messages of {len(audit.topics)} topics"

    def works(self) -> None:
        self.send(1)
        self.wait_until_safe()

    def send(self, rounds: int) -> None:
        """What a rig says in so many volumes."""
        for _ in range(rounds):
            cause = self.stage.cause()
            now_ns = time.perf_counter_ns()
            self.stage.publish("imaging", Traces(cause=cause, plane=0, f=f32([1.0, 2.0])))
            self.stage.publish("decoding", Output(cause=cause, d=0.1, value=0.1))
            self.stage.publish("stimulus", Shown(cause=cause, what="grey", flip_ns=now_ns))
            self.stage.publish("actuation", Wheel(count=1, speed_cm_s=1.0, t_ns=now_ns))
            self.stage.publish("actuation", Lick(count=1, t_ns=now_ns))
            self.stage.pump(0.001)

    def wait_until_safe(self) -> None:
        topics = {
            "imaging": "imaging.traces", "decoding": "decoding.output", "stimulus": "stimulus.shown",
            "actuation": "actuation.lick",
        }  # fmt: skip
        buses = self.stage.others
        sent = {(buses[n].instance, t): buses[n].published.get(t, 0) for n, t in topics.items()}
        wanted = {key: n - 1 for key, n in sent.items() if n}

        def safe() -> bool:
            beats = self.stage.since(max(0, len(self.stage.heard) - 50), Heartbeat)
            flushed = beats[-1].flushed if beats else {}
            return all(flushed.get(i, {}).get(t, -1) >= seq for (i, t), seq in wanted.items())

        self.stage.wait(safe, f"`flushed` up to {wanted}", SAFE_S)
