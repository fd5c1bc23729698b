"""Old frames decide nothing: a slow link shows as age, never as gaps, and must not drive a reward."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from played import edges, of
from test_task_service import FIXED, PERIOD_NS, Bench

from loop2p.protocol import Cause, Message, Output, RequestLog, RewardCommand, Session, Show, Stall, Trial, convert
from loop2p.task.core import FRESH, Drop
from loop2p.task.replay import replay
from loop2p.task.service import TaskOptions

HIT = 9.0


class LaggedBench(Bench):
    """The task's rig, and a link that holds frames up."""

    lag_ns = 0

    def lagged(self, values: list[float], lag_s: float) -> list[Message]:
        """Frames whose last byte was in `lag_s` before their control value is in the task's hands."""
        out: list[Message] = []
        for value in values:
            self.clock.ns += PERIOD_NS
            self.beat()
            cause = Cause(2 * self.frame, 0, self.frame / 15.46, self.clock.ns - round(lag_s * 1e9))
            self.frame += 1
            self.outputs.append(Output(cause=cause, d=value, value=value))
            self.hear(self.outputs[-1], "decoding")
            new = self._new()
            self.act(new)
            self.bus.tick()
            out += new + self._new()
        return out


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LaggedBench]]:
    benches: list[LaggedBench] = []

    def start(task: str = FIXED, **rig: Any) -> LaggedBench:
        bench = LaggedBench(tmp_path / "runs", **rig)
        benches.append(bench)
        bench.wait(0.1)
        bench.start(task)
        return bench

    yield start
    for bench in benches:
        bench.kill()


def test_frames_two_seconds_old_reward_nothing(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    bench.frames([0.0] * 12)
    out = bench.lagged([0.0] * 10 + [HIT] * 40, 2.0)
    assert edges(out) == [(0, "void")]
    assert of(RewardCommand, out) == []
    (void,) = of(Trial, out)
    assert void.reason == "frames came 2.00 s late"
    (stall,) = of(Stall, out)
    assert (stall.what, stall.waited_s) == (FRESH, 2.0)
    assert of(Show, out)[-1].what == "grey"


def test_a_hit_whose_reward_is_due_in_old_frames_has_none(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    assert edges(bench.frames([0.0] * 12 + [HIT] * 3)) == [(0, "start"), (0, "hit")]
    out = bench.lagged([HIT] * 40, 0.6)
    assert edges(out) == [(0, "void")]
    assert of(RewardCommand, out) == []


def test_it_goes_on_with_a_new_trial_once_frames_are_fresh(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    bench.frames([0.0] * 12)
    bench.lagged([0.0] * 5, 2.0)
    assert edges(bench.lagged([0.0] * 10, 0.4)) == [], "between half the limit and the limit nothing changes"
    out = bench.frames([0.0] * 12 + [HIT] * 3 + [0.0] * 20)
    (back,) = of(RequestLog, out)
    assert (back.kind, back.detail) == ("back", FRESH)
    assert edges(out)[:2] == [(1, "start"), (1, "hit")]
    assert [m.trial for m in of(RewardCommand, out)] == [1]


def test_a_replay_of_old_frames_decides_alike(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    bench.frames([0.0] * 12)
    bench.lagged([HIT] * 30, 1.0)
    bench.frames([0.0] * 12 + [HIT] * 3 + [0.0] * 20)
    events = [*bench.runs, *bench.outputs]
    again = replay(bench.state(Session), events)
    live = [structs.replace(m, cause=None) for m in bench.runs if isinstance(m, Trial)]
    assert [m for m in again if isinstance(m, Trial)] == live
    assert [m.edge for m in live] == ["start", "void", "start", "hit"]
    assert len([m for m in again if isinstance(m, Drop)]) == 1


@pytest.mark.parametrize("lag_s", [0.45, -0.45])
def test_within_the_limit_a_late_frame_is_a_number_alone(make: Callable[..., LaggedBench], lag_s: float) -> None:
    bench = make()
    out = bench.lagged([0.0] * 12 + [HIT] * 20, lag_s)
    assert edges(out) == [(0, "start"), (0, "hit")]
    assert len(of(RewardCommand, out)) == 1
    assert bench.task.counters()["deadline_misses"] == (32 if lag_s > 0 else 0)


def test_an_arrival_in_the_future_tells_no_age(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    bench.frames([0.0] * 12)
    assert edges(bench.lagged([HIT] * 10, -5.0)) == [(0, "void")]


def test_limit_and_budget_are_the_rig_files(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    gauges = bench.task.gauges()
    assert gauges["decision_budget_s"] == pytest.approx(1 / 30.92), "one frame period, where the rig file says nothing"
    assert gauges["frame_age_limit_s"] == 0.5
    options = convert({"frame_age_limit_ms": 200, "decision_budget_ms": 5}, TaskOptions, "rig.toml", "", "options")
    gauges = type(bench.task).from_rig(options, bench.task.context).gauges()
    assert (gauges["decision_budget_s"], gauges["frame_age_limit_s"]) == (0.005, 0.2)


def test_the_gauges_say_whether_the_session_runs(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    states = ("session_running", "session_paused")
    assert [bench.task.gauges()[name] for name in states] == [1.0, 0.0]
    bench.ask("pause")
    assert [bench.task.gauges()[name] for name in states] == [0.0, 1.0]
    bench.ask("stop")
    assert [bench.task.gauges()[name] for name in states] == [0.0, 0.0]


def test_a_paused_session_does_not_resume_on_old_frames(make: Callable[..., LaggedBench]) -> None:
    bench = make()
    bench.frames([0.0] * 12)
    bench.ask("pause")
    bench.lagged([0.0] * 3, 2.0)
    answer = bench.ask("resume")
    assert (answer.accepted, answer.reason) == (False, "fresh frames lost and not back yet")
    bench.frames([0.0])
    assert bench.ask("resume").accepted
