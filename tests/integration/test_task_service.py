"""The task service on the in-process bus: a rig of hand-made messages around it, time passed in by hand."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from played import edges, noise, of, phases
from rigs import rig_text

from loop2p.protocol import (
    Accepted,
    Alarm,
    Calibration,
    Cause,
    Clock,
    Done,
    Fault,
    Heartbeat,
    Message,
    OptoCommand,
    Output,
    Phase,
    PlaneRois,
    Refused,
    RequestLog,
    RewardCommand,
    RigFile,
    Rois,
    Selection,
    Session,
    Show,
    Stall,
    Trial,
    control,
    parse_rig,
    seal,
)
from loop2p.runtime import Context, LocalBus, RigClock
from loop2p.task import replay
from loop2p.task.bench_task import EchoTask
from loop2p.task.service import Task, TaskOptions

MS = 1_000_000
PERIOD_NS = 64_683_053
"""One proximal frame at 15.46 Hz."""
PEERS = ["imaging", "decoding", "stimulus", "actuation", "recording"]
GREY = Show(what="grey")
TASK = """
[selection]
rois = [0, 1, 2, 3]
seed = 5
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
OPTO = FIXED + "[opto]\narmed = true\n"


class HandClock(RigClock):
    """A rig clock that is set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.ns = 0

    def now_ns(self) -> int:
        return self.ns


class Bench:
    """Task alone on a bus; plays all the others. The actuator accepts each command at once while `answers` is true."""

    def __init__(self, folder: Path, kind: type[Task] = Task, **rig: Any) -> None:
        text = rig_text(list(range(5500, 5600)), str(folder), **rig)
        self.rig_file: RigFile = parse_rig(text, "rig.toml")
        self.clock = HandClock()
        self.kind = kind
        self.instances = {name: f"{name}-1" for name in PEERS}
        self.silent: set[str] = set()
        self.starting: set[str] = set()
        self.unrecorded = ""
        self.answers = True
        self.frame = 0
        self.outputs: list[Output] = []
        self.runs: list[Message] = []
        """Everything that was published in the rig's life, by every task."""
        self.task: Any = None
        self.start_task("task-1")

    def kill(self) -> None:
        """The process is gone; the kernel closes its files, nothing else happens."""
        if self.task is not None and self.task.run is not None:
            self.task.run.leave()

    def start_task(self, instance: str) -> None:
        """A fresh process of task, nothing left of an older one but its files."""
        self.kill()
        context = Context("task", instance, self.rig_file, self.clock, logging.getLogger("test"))
        self.task = self.kind.from_rig(TaskOptions(start_timeout_s=2.0), context)
        self.task_instance = instance
        self.bus = LocalBus(self.task, wire=True, now_ns=self.clock.now_ns)
        self._seen = 0

    # ------------------------------------------------------------ the others

    @property
    def run_id(self) -> str:
        sessions = [m for m in self.runs if isinstance(m, Session)]
        return sessions[-1].run_id if sessions else ""

    def hear(self, message: Message, source: str) -> None:
        """The task hears a message of a certain instance."""
        envelope = seal(message, source, self.instances.get(source, source), 0, self.clock.ns)
        self.bus._take(self.task, lambda: self.task.receive(envelope), message.cause)
        self.bus._drain()

    def beat(self) -> None:
        instances = [self.task_instance, *(self.instances.get(name, name) for name in PEERS if name != self.unrecorded)]
        flushed = {instance: {"rig.heartbeat": 0} for instance in instances}
        for name in PEERS:
            if name in self.silent:
                continue
            self.hear(
                Heartbeat(
                    health="ready",
                    rig_hash=self.rig_file.hash,
                    run_id=self.run_id,
                    why_not_ready=["not yet"] if name in self.starting else [],
                    flushed=flushed if name == "recording" else {},
                ),
                name,
            )
            self.hear(Clock(offset_ns=0, bound_ns=50_000, round_trip_ns=100_000), name)

    def act(self, messages: Iterable[Message]) -> None:
        """What a sound actuator does."""
        for m in messages:
            if isinstance(m, RewardCommand | OptoCommand) and self.answers and m.target == self.instances["actuation"]:
                self.hear(Accepted(cause=m.cause, id=m.id, received_ns=self.clock.ns), "actuation")
                if isinstance(m, RewardCommand):
                    done = Done(id=m.id, open_ns=0, close_ns=1, volume_ul=m.volume_ul, cause=m.cause)
                    self.hear(done, "actuation")

    # ------------------------------------------------------------ time

    def _new(self) -> list[Message]:
        new = self.bus.messages[self._seen :]
        self._seen += len(new)
        own = [m for e, m in zip(self.bus.sent[self._seen - len(new) :], new, strict=True) if e.header.source != "test"]
        self.runs += own
        return own

    def wait(self, seconds: float) -> list[Message]:
        """Let time pass without frames."""
        out: list[Message] = []
        for _ in range(round(seconds / 0.02)):
            self.clock.ns += 20 * MS
            self.beat()
            self.bus.tick()
            new = self._new()
            self.act(new)
            out += new + self._new()
        return out

    def frames(self, values: Iterable[float]) -> list[Message]:
        """Frames at 15.46 Hz, the others alive, the task ticking."""
        out: list[Message] = []
        for value in values:
            self.clock.ns += PERIOD_NS
            self.beat()
            cause = Cause(2 * self.frame, 0, self.frame / 15.46, self.clock.ns)
            self.frame += 1
            self.outputs.append(Output(cause=cause, d=float(value), value=float(value)))
            self.hear(self.outputs[-1], "decoding")
            new = self._new()
            self.act(new)
            self.bus.tick()
            late = self._new()
            self.act(late)
            out += new + late + self._new()
        return out

    def ask(self, kind: str, **args: str) -> control.Answer:
        answer = self.bus.ask(self.task, control.Ask(kind, "anna", args))
        self._new()
        return answer

    def start(self, task: str = FIXED, run_id: str = "run-1", **args: str) -> None:
        assert self.ask("start", task=task, task_path="t.toml", run_id=run_id, **args).accepted
        out = self.wait(0.06)
        assert phases(out)[-1] in ("baseline", "closed_loop"), out

    def state(self, kind: type[Message]) -> Any:
        """The newest message of a kind."""
        return next(m for m in reversed(self.runs) if isinstance(m, kind))


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**how: Any) -> Bench:
        benches.append(Bench(tmp_path / "runs", **how))
        return benches[-1]

    yield make
    for bench in benches:
        bench.kill()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


# ---------------------------------------------------------------- a whole session


def test_a_whole_session_from_start_to_end(bench: Bench, tmp_path: Path):
    bench.wait(0.1)
    answer = bench.ask("start", task=TASK, task_path="t.toml", run_id="run-1", overrides="task.disk")
    assert answer == control.Answer(True, "preparing")
    session, selection = bench.state(Session), bench.state(Selection)
    assert (session.run_id, session.task, session.rig_hash) == ("run-1", TASK, bench.rig_file.hash)
    assert (session.simulated, session.overrides) == (True, ["task.disk"])
    assert session.seeds == {"selection": 5, "baseline": 0, "calibration": 0}
    assert sorted(selection.plus + selection.minus) == [0, 1, 2, 3]
    assert selection.confirmed_by == "anna"
    assert phases(bench.wait(0.04)) == ["baseline"]

    baseline = bench.frames(noise(155))
    assert phases(baseline) == ["calibration", "closed_loop"]
    (calibration,) = of(Calibration, baseline)
    assert (calibration.first_frame, calibration.last_frame) == (0, 308)

    out = bench.frames([0.0] * 20 + [9.0] * 4 + [0.0] * 60)
    assert edges(out) == [(0, "start"), (0, "hit"), (1, "start")]
    (command,) = of(RewardCommand, out)
    hit = of(Trial, out)[1]
    assert (command.volume_ul, command.trial, command.target) == (4.0, 0, "actuation-1")
    assert command.cause.time_s == pytest.approx(hit.t_s + 1.0, abs=0.07)
    assert command.expires_ns - command.cause.arrival_ns == 250 * MS
    assert of(Show, out)[-1].cause is not None
    assert of(Alarm, out) == []

    out = bench.frames([0.0] * 500)
    assert phases(out) == ["ended"]
    assert bench.state(Show).what == "grey"
    assert bench.task.counters()["rewards_done"] == 1
    assert bench.ask("start", task=FIXED, run_id="run-1").reason.startswith("run run-1 exists already")
    assert "z_star" in (tmp_path / "runs" / "run-1" / "animal.toml").read_text()
    bench.start(run_id="run-2")
    assert bench.state(Session).run_id == "run-2"


def test_the_published_record_replays_to_what_was_published(bench: Bench):
    bench.wait(0.1)
    bench.start(TASK)
    bench.frames(noise(155))
    bench.frames(np.random.default_rng(2).normal(0, 0.3, 100))
    bench.wait(0.7)
    bench.frames([0.0] * 30)
    bench.ask("pause")
    bench.ask("resume")
    bench.frames([9.0] * 80)
    bench.ask("stop")
    bench.frames([0.0] * 40)
    record = [*bench.bus.messages, *bench.outputs]
    kinds = (Phase, Trial, Show, Calibration)
    replayed = [m for m in replay(bench.state(Session), record) if isinstance(m, kinds)]
    published = [m for m in record if isinstance(m, kinds)][2:]  # but for the idle phase and grey of the start
    assert replayed == [structs.replace(m, cause=None) for m in published]
    assert {"hit", "void"} <= {m.edge for m in of(Trial, published)}


# ---------------------------------------------------------------- the start barrier


def test_a_start_that_waits_too_long_is_refused_with_a_line_for_each_lack(bench: Bench):
    bench.silent, bench.starting = {"stimulus"}, {"actuation"}
    bench.wait(0.1)
    assert bench.ask("start", task=FIXED, run_id="run-1").accepted
    assert bench.wait(1.9) == []
    out = bench.wait(0.2)
    (log,) = of(RequestLog, out)
    assert (log.kind, log.accepted) == ("start", False)
    assert "stimulus.absent: stimulus on local: no heartbeat so far" in log.reason
    assert "actuation.not-ready: actuation on local: not yet" in log.reason
    assert [(p.phase, p.reason) for p in of(Phase, out)] == [("idle", log.reason)]
    assert not of(RewardCommand, bench.runs)
    bench.silent, bench.starting = set(), set()
    bench.start(run_id="run-2")


def test_what_a_start_would_lack_is_told_without_one_and_leaves_no_trace(bench: Bench):
    bench.silent, bench.starting = {"stimulus"}, {"actuation"}
    bench.wait(0.1)
    before = len(bench.runs)
    told = bench.ask("check")
    assert not told.accepted
    assert told.reason.split("\n") == [
        "stimulus.absent: stimulus on local: no heartbeat so far, expected 20 a second of protocol 1: run `loop2p up` "
        "there, or `loop2p serve stimulus`",
        "actuation.not-ready: actuation on local: not yet",
    ]
    bench.silent, bench.starting = set(), set()
    bench.wait(0.1)
    assert bench.ask("check") == control.Answer(True, "")
    assert not of(RequestLog, bench.runs[before:])


def test_check_in_a_session_tells_what_that_session_lacks(bench: Bench):
    bench.silent = {"imaging"}
    bench.wait(0.1)
    bench.ask("start", task=FIXED, run_id="run-1", overrides="actuation.not-ready")
    bench.starting = {"actuation"}
    bench.wait(0.1)
    assert [line.partition(":")[0] for line in bench.ask("check").reason.split("\n")] == ["imaging.absent"]
    bench.ask("abort")


def test_the_session_tells_the_days_ration(bench: Bench):
    bench.ask("start", task=FIXED + "[reward]\nday_limit_ul = 900\n", run_id="run-1")
    assert bench.state(Session).day_limit_ul == 900
    bench.ask("abort")


def test_a_start_is_called_off_by_stop(bench: Bench):
    bench.silent = {"imaging"}
    bench.ask("start", task=FIXED, run_id="run-1")
    assert bench.ask("stop").accepted
    assert bench.state(Phase).reason == "start called off by anna"
    bench.silent = set()
    assert bench.wait(0.5) == []


def test_an_override_lets_it_start_and_is_on_record(bench: Bench):
    bench.starting = {"actuation"}
    bench.wait(0.1)
    bench.ask("start", task=FIXED, run_id="run-1", overrides="actuation.not-ready, imaging.absent")
    (begin,) = [m for m in of(RequestLog, bench.wait(0.06)) if m.kind == "begin"]
    assert begin.detail == "overridden: actuation.not-ready: actuation on local: not yet"


def test_a_selection_beyond_imaging_s_rois_is_refused(bench: Bench):
    rois = Rois(set_id="s", height=8, width=8, planes=[PlaneRois(0, ["a", "b", "c"], b"", b"", b"")])
    bench.hear(rois, "imaging")
    bench.wait(0.1)
    bench.ask("start", task=FIXED, run_id="run-1")
    (log,) = of(RequestLog, bench.wait(2.1))
    assert "task.selection: ROI 3 is selected, imaging has 0 to 2" in log.reason


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"task": FIXED, "run_id": "../evil"}, "can't name a folder"),
        ({"task": FIXED}, "run_id '' can't name a folder"),
        (
            {"task": "[trial]\nfoo = 1", "run_id": "r", "task_path": "my.toml"},
            "my.toml, line 2: trial.foo: unknown",
        ),
        ({"task": TASK, "animal": "[loop2p]\nday = 1", "run_id": "r"}, "expected the z* of day 1"),
    ],
)
def test_texts_that_are_wrong_are_refused_at_once(bench: Bench, args: dict[str, str], words: str):
    answer = bench.ask("start", **args)
    assert not answer.accepted
    assert words in answer.reason
    assert bench.state(RequestLog).reason == answer.reason
    assert not of(Session, bench.runs)


# ---------------------------------------------------------------- requests


def test_requests_are_accepted_or_refused_with_a_reason_and_logged(bench: Bench):
    bench.wait(0.1)
    assert bench.ask("pause").reason == "no session; start one"
    assert bench.ask("dance").reason.startswith("unknown request 'dance', expected one of start, pause")
    assert not bench.ask("note").accepted
    assert bench.ask("note", text="mouse looks sleepy").accepted
    assert bench.state(RequestLog).detail == "mouse looks sleepy"
    bench.start()
    assert "is going on" in bench.ask("start", task=FIXED, run_id="run-2").reason
    assert bench.ask("resume").reason == "the session is closed_loop, expected paused"
    assert bench.ask("free_reward").accepted
    assert bench.state(RewardCommand).trial == -1
    assert bench.ask("status").reason == "closed_loop, day 1, 0 hits, 0 misses, 0 void, 4 ul given today"
    assert bench.ask("abort").accepted
    assert bench.state(Phase).phase == "ended"
    logs = [(m.kind, m.accepted) for m in of(RequestLog, bench.runs)]
    assert logs == [
        ("pause", False), ("dance", False), ("note", False), ("note", True), ("start", True), ("begin", True),
        ("start", False), ("resume", False), ("free_reward", True), ("abort", True),
    ]  # fmt: skip


# ---------------------------------------------------------------- commands


def test_a_command_is_repeated_until_acknowledged_and_unanswered_counts_as_given(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.answers = False
    bench.frames([0.0] * 9)
    assert bench.ask("free_reward").accepted
    first = bench.state(RewardCommand)
    out = bench.wait(0.4)
    again = of(RewardCommand, out)
    assert len(again) >= 10
    assert all(command == first for command in again)
    (alarm,) = of(Alarm, out)
    assert (alarm.code, alarm.active) == ("command-unanswered", True)
    assert "reward 1 (4 ul, free): no answer from actuation-1 within 250 ms; it counts as given" in alarm.detail
    bench.answers = True
    bench.ask("free_reward")
    out = bench.frames([0.0])
    bench.hear(Accepted(id=2, received_ns=0), "actuation")
    assert bench.task.counters()["commands_unanswered"] == 1
    assert "8 ul given today" in bench.ask("status").reason
    alarms = [(m.code, m.active) for m in of(Alarm, bench.bus.messages)]
    assert alarms == [("command-unanswered", True), ("command-unanswered", False)]


def test_a_refused_command_is_told(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.answers = False
    bench.ask("free_reward")
    bench.hear(Refused(id=bench.state(RewardCommand).id, reason="session limit of 10 ul"), "actuation")
    bench._new()
    assert bench.state(Alarm).detail == "reward 1 (4 ul, free): session limit of 10 ul"
    assert of(RewardCommand, bench.wait(0.1)) == []


def test_an_led_that_was_refused_is_asked_for_again_while_it_should_be_on(bench: Bench):
    bench.wait(0.1)
    bench.answers = False
    bench.start(OPTO)
    first = bench.state(OptoCommand)
    bench.hear(Refused(id=first.id, reason="unarmed: task has been silent"), "actuation")
    assert of(OptoCommand, bench.frames([0.5] * 5)) == []
    (again,) = {m.id: m for m in of(OptoCommand, bench.frames([0.5] * 6))}.values()
    assert again.armed
    assert again.id > first.id
    bench.hear(Refused(id=again.id, reason="unarmed: task has been silent"), "actuation")
    bench.ask("stop")
    assert not any(m.armed for m in of(OptoCommand, bench.wait(1.0)))


def test_the_led_is_armed_again_for_a_new_actuator_and_disarmed_when_the_task_leaves(bench: Bench):
    bench.wait(0.1)
    bench.start(OPTO)
    assert (bench.state(OptoCommand).armed, bench.state(OptoCommand).pulse_ms) == (True, 6.0)
    bench.frames([0.5] * 10)
    bench.instances["actuation"] = "actuation-2"
    out = bench.frames([0.5] * 3)
    (opto,) = of(OptoCommand, out)
    assert (opto.armed, opto.target) == (True, "actuation-2")
    safe = list(bench.task.go_safe())
    assert [m.armed for m in of(OptoCommand, safe)] == [False]
    assert safe[-1] == GREY


def test_the_led_is_armed_again_after_a_lease_that_was_lost_for_a_moment(bench: Bench):
    bench.wait(0.1)
    bench.start(OPTO)
    bench.frames([0.5] * 10)
    bench.hear(Alarm(code="lease-lost", active=True, detail="silent for 201 ms"), "actuation")
    assert bench.frames([0.5] * 3) == []
    bench.hear(Alarm(code="lease-lost", active=False, detail="heard"), "actuation")
    out = bench.frames([0.5] * 3)
    assert bench.state(OptoCommand).armed
    assert len(of(OptoCommand, bench.runs)) == 2
    assert edges(out) == []


def test_a_controller_that_is_lost_holds_the_loop_until_it_is_back(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 10)
    bench.hear(Alarm(code="controller-lost", active=True, detail="cable"), "actuation")
    bench._new()
    assert edges(bench.runs)[-1] == (0, "void")
    assert edges(bench.frames([9.0] * 60)) == []
    bench.hear(Alarm(code="controller-lost", active=False, detail="ok"), "actuation")
    bench._new()
    assert edges(bench.frames([0.5] * 3)) == [(1, "start")]


# ---------------------------------------------------------------- what is lost


def test_frames_that_stop_for_half_a_second_are_a_stall(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    out = bench.wait(0.7)
    (stall,) = of(Stall, out)
    assert stall.what == "frames"
    assert 0.5 < stall.waited_s < 0.6
    assert stall.last_frame == 38
    assert edges(out) == [(0, "void")]
    assert out[-1] == GREY
    assert edges(bench.frames([0.5])) == [(1, "start")]


@pytest.mark.parametrize("name", ["imaging", "decoding", "stimulus", "actuation"])
def test_a_killed_service_voids_the_trial_and_its_successor_lets_the_next_begin(bench: Bench, name: str):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    bench.silent = {name}
    out = bench.frames([0.5] * 12)
    assert [s.what for s in of(Stall, out)] == [name]
    assert edges(out) == [(0, "void")]
    assert phases(out) == []
    bench.silent, bench.starting, bench.instances[name] = set(), {name}, f"{name}-2"
    assert edges(bench.frames([2.0] * 20)) == []
    bench.starting, bench.unrecorded = set(), name
    assert edges(bench.frames([2.0] * 20)) == []  # recording does not hear it yet
    bench.unrecorded = ""
    out = bench.frames([0.5] * 3)
    assert [(m.kind, m.by, m.detail) for m in of(RequestLog, out)] == [("back", "task", name)]
    assert edges(out) == [(1, "start")]


def test_a_crash_that_the_launcher_saw_needs_no_half_second(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    assert bench.ask("lost", service="decoding", how="crash", code="-9").accepted
    bench.silent = {"decoding"}
    assert [s.what for s in of(Stall, bench.wait(0.02))] == ["decoding"]
    assert bench.state(Phase).phase == "closed_loop"


def test_a_fault_pauses_until_the_operator_resumes_and_everybody_is_there(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    bench.hear(Fault(service="decoding", error="ArithmeticError", detail="frame 7: nan"), "decoding")
    bench._new()
    assert bench.state(Phase).reason == "decoding met a fault: ArithmeticError: frame 7: nan"
    bench.silent = {"decoding"}
    bench.ask("lost", service="decoding", how="fault", code="70")
    bench.wait(0.6)
    assert bench.ask("resume").reason == "decoding lost and not back yet"
    bench.silent, bench.instances["decoding"] = set(), "decoding-2"
    assert phases(bench.frames([0.5] * 40)) == []
    assert bench.ask("resume").accepted
    assert edges(bench.frames([0.5])) == [(1, "start")]


def test_recording_s_crash_pauses_and_its_successor_resumes_by_itself(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    bench.silent = {"recording"}
    out = bench.frames([0.5] * 20)
    assert phases(out) == ["paused"]
    assert of(Phase, out)[0].reason == "recording was lost: nothing may happen off the record; goes on when it is back"
    assert edges(out) == [(0, "void")]
    bench.silent, bench.instances["recording"] = set(), "recording-2"
    out = bench.frames([0.5] * 3)
    assert phases(out) == ["closed_loop"]
    assert [m.reason for m in of(RequestLog, out)] == ["recording was lost and has a successor"]


def test_recording_that_only_was_silent_goes_on_when_it_is_back(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    bench.silent = {"recording"}
    assert phases(bench.frames([0.5] * 20)) == ["paused"]
    bench.silent = set()
    out = bench.frames([0.5] * 20)
    assert phases(out) == ["closed_loop"]
    assert [m.reason for m in of(RequestLog, out)] == ["recording was silent and goes on"]


def test_an_operator_s_pause_is_not_undone_by_a_successor(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 5)
    bench.silent = {"recording"}
    bench.frames([0.5] * 20)
    assert bench.ask("pause").accepted
    bench.silent, bench.instances["recording"] = set(), "recording-2"
    assert phases(bench.frames([0.5] * 20)) == []


def test_a_full_disk_pauses_and_resume_is_refused_while_it_is_full(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.hear(Alarm(code="disk-full", active=True, detail="runs: 0.0 GB free"), "recording")
    bench._new()
    assert bench.state(Phase).phase == "paused"
    assert bench.ask("resume").reason == "recording: runs: 0.0 GB free"
    bench.hear(Alarm(code="disk-full", active=False, detail="ok"), "recording")
    assert bench.ask("resume").accepted


def test_a_frame_whose_time_runs_back_is_left_out_and_told(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    bench.frame = 3
    out = bench.frames([0.5] * 10)
    assert [a.code for a in of(Alarm, out)] == ["time-ran-back"]
    assert [s.what for s in of(Stall, out)] == ["frames"]
    assert bench.task.counters()["outputs_left_out"] == 10


def test_a_value_that_is_not_finite_stops_the_service(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 3 + [float("nan")])
    (fault,) = of(Fault, bench.bus.messages)
    assert "frame 6: D nan" in fault.detail
    assert bench.bus.messages[-1].what == "grey"


# ---------------------------------------------------------------- a successor


def crash(bench: Bench, instance: str = "task-2") -> list[Message]:
    bench.start_task(instance)
    return bench.wait(0.1)


def test_after_a_crash_a_successor_takes_over_and_resumes(bench: Bench):
    bench.wait(0.1)
    bench.start(TASK)
    bench.frames(noise(155))
    calibration = bench.state(Calibration)
    bench.frames([0.0] * 10 + [9.0] * 50)
    last_id = bench.state(RewardCommand).id
    running = bench.state(Trial)
    assert running.edge == "start"
    out = crash(bench)
    assert [type(m) for m in out] == [Session, Selection, Calibration, Show, Phase]
    assert (out[2], out[-1].phase) == (structs.replace(calibration, cause=None), "paused")
    assert phases(bench.frames([0.0] * 10)) == []  # nobody has said yet why its predecessor died
    assert bench.ask("lost", service="task", how="crash", code="-9").reason == "resumes when every service is ready"
    out = bench.frames([0.0] * 30)
    assert [m.kind for m in of(RequestLog, bench.runs)][-3:] == ["restart", "lost", "resume"]
    assert phases(out) == ["closed_loop"]
    assert edges(out) == [(running.trial, "void"), (running.trial + 1, "start")]
    assert of(Trial, out)[0].reason == "task crashed and has a successor"
    bench.frames([9.0] * 30)
    assert bench.state(RewardCommand).id > last_id
    assert "8 ul given today" in bench.ask("status").reason
    ended = bench.frames([0.0] * 500)
    assert phases(ended) == ["ended"]
    assert crash(bench, "task-3") == []


def test_a_crash_between_hit_and_reward_makes_the_trial_void_and_gives_nothing(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.0] * 10 + [9.0] * 5)
    assert bench.state(Trial).edge == "hit"
    crash(bench)
    bench.ask("lost", service="task", how="crash", code="-9")
    out = bench.frames([0.0] * 60)
    assert edges(out) == [(0, "void"), (1, "start")]
    assert not of(RewardCommand, bench.runs)


def test_after_a_fault_a_successor_waits_for_resume(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    crash(bench)
    assert bench.ask("lost", service="task", how="fault", code="70").reason == "waits for `resume`"
    assert phases(bench.frames([0.5] * 20)) == []
    assert bench.ask("resume").accepted
    assert edges(bench.frames([0.5] * 2)) == [(1, "start")]
    assert edges(bench.runs)[-2:] == [(0, "void"), (1, "start")]


def test_a_successor_waits_until_everybody_is_there_and_recording_hears_it(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    bench.starting = {"stimulus"}
    crash(bench)
    bench.ask("lost", service="task", how="crash", code="-9")
    assert phases(bench.frames([0.5] * 20)) == []
    assert "stimulus.not-ready" in bench.ask("resume").reason
    bench.starting, bench.task_instance = set(), "task-1"
    assert phases(bench.frames([0.5] * 20)) == []
    assert bench.ask("resume").reason == "recording does not hear this task yet: wait a moment"
    bench.task_instance = "task-2"
    assert phases(bench.frames([0.5] * 2)) == ["closed_loop"]


def test_a_new_start_gives_an_unfinished_run_up(bench: Bench):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    crash(bench)
    bench.start(run_id="run-2")
    ended = [m for m in of(Phase, bench.runs) if m.phase == "ended"]
    assert [m.reason for m in ended] == ["aborted by task"]
    assert crash(bench, "task-3")[0].run_id == "run-2"


def test_a_damaged_state_file_makes_it_not_ready_until_the_run_is_given_up(bench: Bench, tmp_path: Path):
    bench.wait(0.1)
    bench.start()
    state = tmp_path / "runs" / "run-1" / "task-state.jsonl"
    state.write_bytes(b"{}\n" + state.read_bytes())
    assert crash(bench) == []
    assert "task-state.jsonl, line 1" in bench.task.why_not_ready()[0]
    assert "`abort` gives the unfinished run up" in bench.ask("start", task=FIXED, run_id="run-2").reason
    assert bench.ask("abort").accepted
    assert bench.task.why_not_ready() == []
    bench.start(run_id="run-2")


def test_an_orderly_end_of_the_process_leaves_the_session_to_a_successor(bench: Bench, tmp_path: Path):
    bench.wait(0.1)
    bench.start()
    bench.frames([0.5] * 20)
    (phase,) = bench.task.close()
    assert isinstance(phase, Phase)
    assert phase.phase == "paused"
    ledger = json.loads((tmp_path / "runs" / "task-ledger.json").read_text())
    assert ledger["open_run"] == "run-1"
    assert [type(m) for m in crash(bench)][-1] is Phase


# ---------------------------------------------------------------- external peers and the benchmark's task


def test_an_external_imaging_only_has_to_beat(make_bench: Callable[..., Bench]):
    bench = make_bench(external=("imaging",))
    bench.silent = {"imaging"}
    bench.hear(Heartbeat(health="ready", rig_hash=bench.rig_file.hash), "imaging")
    bench.start()


def test_the_echo_task_answers_each_output_with_an_empty_reward(make_bench: Callable[..., Bench]):
    bench = make_bench(kind=EchoTask, external=("stimulus", "recording"))
    bench.silent = {"stimulus", "recording"}
    bench.wait(0.1)
    bench.start("[selection]\nplus = [0]\nminus = [1]\n")
    out = bench.frames([0.5] * 50)
    commands = of(RewardCommand, out)
    assert len(commands) == 50
    assert {c.volume_ul for c in commands} == {0.0}
    assert [c.cause.frame for c in commands] == list(range(0, 100, 2))
    assert len({c.id for c in commands}) == 50
    assert of(Alarm, out) == []
