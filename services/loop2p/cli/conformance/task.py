"""Task: takes what is asked of it or refuses with a reason, runs trials on control values, commands rewards."""

from typing import Any

from loop2p.cli.conformance.role import RoleTest
from loop2p.cli.conformance.verdict import BrokenError, Clause
from loop2p.protocol import (
    Accepted,
    Output,
    Phase,
    PlaneRois,
    RequestLog,
    RewardCommand,
    Rois,
    Selection,
    Session,
    Show,
    Trial,
    control,
    i32,
)

TASK = """
day = 1
[selection]
plus = [0, 1]
minus = [2, 3]
[baseline]
duration_s = 0
[trial]
loop_s = 4
[closed_loop]
duration_s = 300
[calibration]
fixed = { minimum = 0.0, threshold = 0.1 }
"""
N_ROIS = 6


class TaskTest(RoleTest):
    hears = (("decoding", "decoding.output"), ("actuation", "actuation.accepted"), ("imaging", "imaging.rois"))

    def options(self) -> dict[str, Any]:
        return {"start_timeout_s": 20}

    def begin(self) -> None:
        stage = self.stage
        for name, topic in self.hears:
            stage.wait(lambda n=name, t=topic: stage.listens_to(n, t), f"its subscription to {topic}", 20.0)  # type: ignore[misc]
        planes = [
            PlaneRois(plane=p, names=[f"r{k}" for k in range(N_ROIS)], lengths=i32([1] * N_ROIS),
                      rows=i32(range(N_ROIS)), cols=i32(range(N_ROIS)))
            for p in range(2)
        ]  # fmt: skip
        stage.publish("imaging", Rois(set_id="stage", height=96, width=128, planes=planes))

    def clauses(self) -> list[Clause]:
        return [
            Clause("a start with a task file that is wrong is refused with place and reason", self.wrong_start),
            Clause("a start gives rig.session and task.selection, and a closed loop once all are ready", self.start),
            Clause("a control value sets the picture, with the frame's cause", self.picture),
            Clause("the target is a hit, and its reward is commanded one second later", self.hit),
            Clause("a command that nobody acknowledges is repeated, with its id, until its expiry", self.repeats),
            Clause("pause and resume are obeyed and on the record; what can't be is refused with a reason", self.pause),
            Clause("a stop ends the session", self.stop),
        ]  # fmt: skip

    # ------------------------------------------------------------ clauses

    def wrong_start(self) -> str:
        answer = self.ask("start", task="day = 'one'", run_id="wrong", task_path="wrong.toml")
        if answer.accepted or "wrong.toml" not in answer.reason:
            raise BrokenError(f"accepted {answer.accepted}: {answer.reason!r}, expected the file and the line")
        return answer.reason.splitlines()[0]

    def start(self) -> str:
        mark = self.stage.mark()
        answer = self.ask("start", task=TASK, run_id="conform", task_path="conform.toml", by="conform")
        if not answer.accepted:
            raise BrokenError(f"refused: {answer.reason}")
        session = self.stage.next(mark, Session, "rig.session")
        self.stage.run_id = session.run_id
        selection = self.stage.next(mark, Selection, "task.selection")
        if (session.run_id, selection.plus, selection.minus) != ("conform", [0, 1], [2, 3]):
            raise BrokenError(f"run {session.run_id!r}, plus {selection.plus}, minus {selection.minus}")
        self.loop(mark)
        return f"run {session.run_id}"

    def loop(self, mark: int) -> None:
        self.feed_until(lambda: self.phases(mark)[-1:] == ["closed_loop"], "phase closed_loop", 0.0, 30.0)

    def picture(self) -> str:
        mark = self.stage.mark()
        self.feed_until(lambda: any(m.what == "grating" for m in self.stage.since(mark, Show)), "a grating", 0.05)
        show = next(m for m in self.stage.since(mark, Show) if m.what == "grating")
        if show.cause is None or show.cause.frame not in self.sent:
            raise BrokenError(f"a picture with cause {show.cause}, expected that of its control value")
        return f"{show.angle_deg:g} deg for half the threshold"

    def hit(self) -> str:
        self.new_trial()
        mark = self.stage.mark()
        self.feed_until(lambda: self.edge(mark, "hit"), "a hit", 0.2)
        self.feed_until(lambda: bool(self.stage.since(mark, RewardCommand)), "its reward", 0.0)
        command = self.stage.since(mark, RewardCommand)[0]
        hit = next(m for m in self.stage.since(mark, Trial) if m.edge == "hit")
        if command.cause is None or not 0.9 < command.cause.time_s - hit.t_s < 1.2:
            raise BrokenError(f"reward with cause {command.cause} for a hit at {hit.t_s} s, expected one second later")
        if command.target != self.stage.others["actuation"].instance or command.expires_ns <= 0:
            raise BrokenError(f"target {command.target!r}, expires_ns {command.expires_ns}")
        self.stage.publish("actuation", Accepted(id=command.id, received_ns=0, cause=command.cause))
        return f"trial {hit.trial}: {command.volume_ul:g} ul, command {command.id}"

    def repeats(self) -> str:
        self.new_trial()
        mark = self.stage.mark()
        self.feed_until(lambda: self.edge(mark, "hit"), "a hit", 0.2)
        self.feed_until(lambda: bool(self.stage.since(mark, RewardCommand)), "its reward", 0.0)
        self.stage.passing(0.6)
        commands = self.stage.envelopes(mark, RewardCommand)
        ids = {e.message.id for e in commands}  # type: ignore[attr-defined]
        late = [e for e in commands if e.header.sent_ns > e.message.expires_ns]  # type: ignore[attr-defined]
        if len(commands) < 2 or len(ids) != 1 or late:
            raise BrokenError(f"sent {len(commands)} times with ids {sorted(ids)}, {len(late)} after the expiry")
        return f"sent {len(commands)} times"

    def pause(self) -> str:
        self.new_trial()
        for kind, phase in (("pause", "paused"), ("resume", "closed_loop")):
            mark = self.stage.mark()
            answer = self.ask(kind)
            if not answer.accepted:
                raise BrokenError(f"{kind} refused: {answer.reason}")
            self.feed_until(lambda m=mark, p=phase: self.phases(m)[-1:] == [p], f"phase {phase}", 0.0)
            if not any(m.kind == kind and m.accepted for m in self.stage.since(mark, RequestLog)):
                raise BrokenError(f"{kind} is not on the record (task.request)")
        answer = self.ask("resume")
        if answer.accepted or not answer.reason:
            raise BrokenError(f"a resume while it runs: accepted {answer.accepted}, reason {answer.reason!r}")
        return answer.reason

    def stop(self) -> str:
        mark = self.stage.mark()
        answer = self.ask("stop")
        if not answer.accepted:
            raise BrokenError(f"refused: {answer.reason}")
        self.feed_until(lambda: self.phases(mark)[-1:] == ["ended"], "phase ended", 0.0)
        return "ended"

    # ------------------------------------------------------------ helpers

    def works(self) -> None:
        answer = self.ask("status")
        if not answer.accepted:
            raise BrokenError(f"a status is refused: {answer.reason}")
        answer = self.ask("dance")
        if answer.accepted or not answer.reason:
            raise BrokenError("nonsense is accepted, or refused without a reason")

    def ask(self, kind: str, **args: str) -> control.Answer:
        reply = self.stage.ask(control.Ask(kind, "conform", args), 5.0)
        if not isinstance(reply, control.Answer):
            raise BrokenError(f"{kind} is answered by {reply}, expected `answer`: task's control socket must be there")
        return reply

    def new_trial(self) -> None:
        mark = self.stage.mark()
        self.feed_until(lambda: self.edge(mark, "start"), "the next trial", 0.0, 30.0)

    def edge(self, mark: int, edge: str) -> bool:
        return any(m.edge == edge for m in self.stage.since(mark, Trial))

    def phases(self, mark: int) -> list[str]:
        return [m.phase for m in self.stage.since(mark, Phase)]

    def feed_until(self, done: Any, what: str, value: float, timeout_s: float = 10.0) -> None:
        """Control values, three times as fast as life, until that has come."""

        def fed() -> bool:
            if done():
                return True
            cause = self.stage.cause()
            self.sent.add(cause.frame)
            self.stage.publish("decoding", Output(cause=cause, d=value, value=value))
            return False

        self.stage.wait(fed, what, timeout_s)

    sent: set[int] = set()


