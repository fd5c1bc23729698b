"""Passive blocks before the loop and without one: names, light, waiting, and what a successor of task repeats."""

import math
from itertools import pairwise

import pytest
from played import BASELINE_N, GREY, RATE_HZ, RIG, TASK, Played, edges, noise, of, output, phases, request

from loop2p.protocol import Calibration, Phase, Session, Show
from loop2p.task import Opto, SessionCore, make_plan, replay
from loop2p.task.core import Effect

NDNF = """
[[passive]]
name = "led-off"
duration_s = 4
[opto]
baseline = true
armed = true
""" + TASK.replace("duration_s = 10", 'duration_s = 10\nname = "led-on"')
OFF_N = 62
ASLEEP = """
[selection]
plus = [0]
minus = [1]
[[passive]]
name = "awake"
duration_s = 4
[[passive]]
name = "anaesthetised"
duration_s = 4
wait = true
[baseline]
duration_s = 0
[closed_loop]
duration_s = 0
"""


def stands(out: list[Effect]) -> list[tuple[str, str]]:
    return [(m.phase, m.reason) for m in of(Phase, out)]


def test_an_ndnf_day_calibrates_on_the_block_with_the_led_on_and_on_no_other():
    s = Played(NDNF)
    assert stands(s.ask("begin")) == [("baseline", "led-off")]
    assert of(Opto, s.out) == []
    loud = s.frames([9.0 * v for v in noise(OFF_N)])
    assert stands(loud) == [("baseline", "led-on")]
    assert of(Opto, loud) == [Opto(True)]
    quiet = noise(BASELINE_N, 2)
    out = s.frames(quiet)
    assert phases(out) == ["calibration", "closed_loop"]
    (calibration,) = of(Calibration, s.out)
    assert calibration.baseline == "led-on"
    assert (calibration.n_values, calibration.first_frame) == (BASELINE_N, 2 * OFF_N)
    assert calibration.minimum == min(quiet)
    assert of(Opto, out) == [Opto(True)]
    assert of(Opto, s.ask("abort")) == [Opto(False)]


@pytest.mark.parametrize(
    ("led", "commands"),
    [((True, False), [True, False]), ((True, True), [True, True]), ((False, True), [True]), ((False, False), [])],
)
def test_the_led_is_armed_and_disarmed_at_the_edges_of_blocks(led: tuple[bool, bool], commands: list[bool]):
    first, second = ("true" if on else "false" for on in led)
    task = ASLEEP.replace("wait = true", f"led = {second}").replace('"awake"', f'"awake"\nled = {first}')
    s = Played(task)
    s.ask("begin")
    s.frames(noise(OFF_N))
    assert of(Opto, s.out) == [Opto(on) for on in commands]


def test_a_lit_block_is_dark_in_a_pause_and_lit_again_after_it_and_after_a_loss():
    s = Played(NDNF)
    s.ask("begin")
    assert s.core.led() == []
    s.frames(noise(OFF_N + 5))
    assert of(Opto, s.ask("pause")) == [Opto(False)]
    assert of(Opto, s.ask("resume")) == [Opto(True)]
    s.stall("actuation")
    assert s.ask("back", detail="actuation") == [Opto(True)]


def test_the_screen_is_grey_between_blocks_and_each_block_shows_its_own_order():
    task = ASLEEP.replace("wait = true", "seed = 5").replace("duration_s = 4", "duration_s = 30")
    s = Played(task)
    s.ask("begin")
    first, second = s.frames(noise(464)), s.frames(noise(464))
    at_edge = first.index(of(Phase, first)[0])
    assert first[at_edge - 1] == GREY
    orders = [[m.angle_deg for m in of(Show, out) if m.what == "grating"] for out in (first, second)]
    assert sorted(orders[0][:7]) == sorted(orders[1][:7]) == [0, 15, 30, 45, 60, 75, 90]
    assert orders[0][:7] != orders[1][:7]


def test_a_block_without_orientations_stays_grey():
    s = Played(ASLEEP.replace('"awake"', '"awake"\norientations_deg = []'))
    s.ask("begin")
    assert of(Show, s.frames(noise(OFF_N - 1))) == []


def test_an_anaesthesia_session_waits_for_the_operator_and_ends_without_a_loop():
    s = Played(ASLEEP)
    s.ask("begin")
    out = s.frames(noise(OFF_N))
    assert stands(out) == [("baseline", "anaesthetised"), ("paused", "anaesthetised waits for `resume`")]
    assert s.frames([9.0] * 500) == []  # isoflurane takes its time
    assert stands(s.ask("resume")) == [("baseline", "anaesthetised")]
    assert phases(s.frames(noise(OFF_N - 1))) == []
    last = s.frames([0.0])
    assert stands(last) == [("ended", "all passive blocks are over")]
    assert last[-2] == GREY
    assert not of(Calibration, s.out)
    assert edges(s.out) == []


def test_what_waits_can_be_stopped_and_gives_nothing():
    s = Played(ASLEEP)
    s.ask("begin")
    s.frames(noise(OFF_N))
    assert "resume first" in s.core.refusal("free_reward")
    assert phases(s.ask("stop")) == ["ended"]


def test_a_pause_in_a_block_keeps_its_values_and_a_first_block_can_wait_too():
    s = Played(ASLEEP.replace('"awake"', '"awake"\nwait = true'))
    assert phases(s.ask("begin")) == ["baseline", "paused"]
    assert phases(s.ask("resume")) == ["baseline"]
    s.frames([math.nan] * 20 + noise(40))  # what is not valid does not count
    s.ask("pause")
    s.ask("resume")
    assert [m.what for m in of(Show, s.frames([0.1]))] == ["grating"]  # the pause was grey
    assert phases(s.frames(noise(OFF_N - 42))) == []
    assert phases(s.frames([0.0])) == ["baseline", "paused"]


@pytest.mark.parametrize(
    ("phase", "block", "then"),
    [
        ("baseline", "led-off", "led-off"),
        ("baseline", "led-on", "led-on"),
        ("calibration", "", "led-on"),
        ("baseline", "", "led-off"),
    ],
)
def test_a_successor_repeats_the_block_that_was_not_whole(phase: str, block: str, then: str):
    core = SessionCore(make_plan(NDNF), RATE_HZ)
    core.restore(phase, None, -1, None, 0.0, block=block)  # type: ignore[arg-type]
    assert stands(core.step(request("resume"))) == [("baseline", then)]


def test_a_successor_while_a_block_waits_does_not_repeat_the_block_before():
    s = Played(ASLEEP)
    s.ask("begin")
    s.frames(noise(OFF_N))
    last = [m for m in of(Phase, s.out) if m.phase != "paused"][-1]  # what the state file tells
    core = SessionCore(make_plan(ASLEEP), RATE_HZ)
    core.restore(last.phase, None, -1, None, 0.0, block=last.reason)
    assert stands(core.step(request("resume"))) == [("baseline", "anaesthetised")]
    out = [effect for k in range(100, 100 + OFF_N) for effect in core.step(output(k, 0.0))]
    assert phases(out) == ["ended"]


@pytest.mark.parametrize("task", [NDNF, ASLEEP])
def test_sessions_of_blocks_replay_equally(task: str):
    s = Played(task)
    s.ask("begin")
    for n, seed in pairwise([30, 80, 200, 40]):
        s.frames(noise(n, seed))
        if s.core.phase == "paused":
            s.ask("resume")
    session = Session(run_id="r", rig=RIG, task=task, simulated=True)
    assert replay(session, s.events) == s.out
    assert len(of(Show, s.out)) > 10
