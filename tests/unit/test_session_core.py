"""A session as events in and effects out: phases, pauses, losses, and that a record replays."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from played import (
    BASELINE_N,
    FIXED,
    GREY,
    OPTO,
    RATE_HZ,
    RIG,
    TASK,
    Played,
    edges,
    noise,
    of,
    output,
    phases,
    request,
)  # fmt: skip

from loop2p.protocol import Calibration, Output, Phase, RequestLog, Session, Show, Trial, parse_rig
from loop2p.task import Drop, Opto, SessionCore, make_plan, replay
from loop2p.task.core import TimeRanBackError
from loop2p.task.replay import in_order

# ---------------------------------------------------------------- from baseline to closed loop


def test_a_session_goes_from_baseline_through_calibration_to_the_closed_loop():
    s = Played(TASK)
    assert s.frames([0.0] * 5) == []  # before it begins, frames only tell the time
    assert phases(s.ask("begin")) == ["baseline"]
    baseline = noise(BASELINE_N)
    before = s.frames(baseline[:-1])
    assert {type(m) for m in before} == {Show}
    at_last = s.frames(baseline[-1:])
    assert phases(at_last) == ["calibration", "closed_loop"]
    (calibration,) = of(Calibration, at_last)
    assert (calibration.first_frame, calibration.last_frame, calibration.n_values) == (10, 2 * 159, BASELINE_N)
    assert calibration.minimum == min(baseline)
    assert [m for m in at_last if isinstance(m, Show)][-1] == GREY
    assert edges(s.frames([0.0])) == [(0, "start")]


def test_the_baseline_counts_valid_samples_only_and_calibrates_on_d():
    s = Played(TASK)
    s.ask("begin")
    s.frames([math.nan] * 40)
    s.frames(noise(100))
    s.frames([math.nan] * 10)
    assert not of(Calibration, s.frames(noise(54, 2)))
    (calibration,) = of(Calibration, s.frames([0.0]))
    assert (calibration.first_frame, calibration.last_frame) == (80, 2 * 204)


def test_the_baseline_shows_seven_orientations_for_half_to_one_and_a_half_seconds():
    s = Played(TASK.replace("duration_s = 10", "duration_s = 60"))
    s.ask("begin")
    shown = []
    for value in noise(900):
        for message in s.frames([value]):
            if isinstance(message, Show):
                shown.append((s.k - 1, message.angle_deg))
    angles = [a for _, a in shown]
    assert sorted(angles[:7]) == sorted(angles[7:14]) == [0, 15, 30, 45, 60, 75, 90]
    assert angles[:7] != angles[7:14]
    gaps_s = np.diff([k for k, _ in shown]) / RATE_HZ
    assert gaps_s.min() >= 0.5
    assert gaps_s.max() <= 1.5 + 1 / RATE_HZ
    assert gaps_s.std() > 0.15


def test_a_baseline_that_can_not_calibrate_pauses_and_resume_repeats_it():
    s = Played(TASK)
    s.ask("begin")
    out = s.frames([0.25] * BASELINE_N)
    assert phases(out) == ["calibration", "paused"]
    assert "constant" in of(Phase, out)[-1].reason
    assert out[-2] == GREY
    assert phases(s.ask("resume")) == ["baseline"]
    assert phases(s.frames(noise(BASELINE_N))) == ["calibration", "closed_loop"]
    assert [c.n_values for c in of(Calibration, s.out)] == [BASELINE_N]


def test_z_star_of_the_animal_file_sets_the_threshold_on_day_2():
    animal = "[loop2p]\nday = 1\nz_star = 2.5\nplus = [0, 1]\nminus = [2, 3]\n"
    s = Played(TASK, animal)
    s.ask("begin")
    (calibration,) = of(Calibration, s.frames(noise(BASELINE_N)))
    assert calibration.z_star == 2.5
    assert calibration.threshold == pytest.approx(calibration.mu + 2.5 * calibration.sigma)
    assert of(Phase, s.out)[0].day == 2


def test_a_fixed_calibration_goes_straight_into_the_closed_loop():
    s = Played()
    out = s.ask("begin")
    assert phases(out) == ["calibration", "closed_loop"]
    (calibration,) = of(Calibration, out)
    assert (calibration.minimum, calibration.threshold, calibration.n_values) == (0, 1, 0)


# ---------------------------------------------------------------- the closed loop and its end


def test_a_hit_is_rewarded_with_the_volume_of_the_task_file():
    s = Played()
    s.ask("begin")
    out = s.frames([0.0] * 10 + [2.0] * 30)
    assert edges(out) == [(0, "start"), (0, "hit")]
    assert of(Drop, out) == [Drop(4.0, 0)]
    assert s.core.given_ul == 4.0


def test_the_session_ends_after_its_closed_loop_time_and_the_running_trial_is_void():
    s = Played()
    s.ask("begin")
    out = s.frames([0.0] * 470)
    assert phases(out) == ["ended"]
    assert of(Phase, out)[0].t_s == pytest.approx(30.0, abs=1 / RATE_HZ)
    assert edges(out)[-1] == (3, "void")
    assert of(Trial, out)[-1].reason == "30 s of closed loop are over"
    assert out[-2] == GREY
    assert s.frames([2.0] * 30) == []


def test_a_hit_just_before_the_end_still_gets_its_reward_and_nothing_begins_after():
    s = Played()
    s.ask("begin")
    hit_at = 454
    out = s.frames([0.0] * hit_at + [2.0] * 60)
    assert edges(out)[-1] == (3, "hit")
    assert out[-3:] == [Drop(4.0, 3), GREY, of(Phase, out)[-1]]
    assert phases(out) == ["ended"]
    assert of(Phase, out)[0].t_s == pytest.approx((hit_at + 16) / RATE_HZ, abs=1e-6)


def test_a_miss_just_before_the_end_stays_a_miss():
    s = Played(FIXED.replace("duration_s = 30", "duration_s = 6"))
    s.ask("begin")
    out = s.frames([0.0] * 100)
    assert edges(out) == [(0, "start"), (0, "miss")]
    assert phases(out) == ["ended"]


def test_pauses_and_gaps_do_not_count_as_closed_loop_time():
    s = Played()
    s.ask("begin")
    s.frames([0.0] * 100)
    s.ask("pause")
    s.frames([0.0] * 1000)
    s.ask("resume")
    s.k += 500  # a gap of 32 s
    out = s.frames([0.0] * 360)
    assert phases(out) == []
    assert phases(s.frames([0.0] * 10)) == ["ended"]


# ---------------------------------------------------------------- pause, stop, abort, free reward


def test_a_pause_makes_the_trial_void_and_resume_begins_the_next():
    s = Played()
    s.ask("begin")
    s.frames([0.5] * 20)
    out = s.ask("pause")
    assert edges(out) == [(0, "void")]
    assert of(Trial, out)[0].reason == "paused by anna"
    assert out[-2:] == [GREY, Phase(phase="paused", day=1, t_s=19 / RATE_HZ, reason="paused by anna")]
    assert s.frames([2.0] * 30) == []
    assert phases(s.ask("resume")) == ["closed_loop"]
    assert edges(s.frames([0.5])) == [(1, "start")]


def test_a_pause_in_the_baseline_keeps_what_was_measured():
    s = Played(TASK)
    s.ask("begin")
    s.frames(noise(100))
    assert phases(s.ask("pause", reason="recording was lost")) == ["paused"]
    s.frames([9.0] * 30)
    assert phases(s.ask("resume")) == ["baseline"]
    (calibration,) = of(Calibration, s.frames(noise(55, 2)))
    assert calibration.n_values == BASELINE_N
    assert calibration.threshold < 9


def test_stop_ends_at_once_but_waits_for_a_reward_that_is_due():
    s = Played()
    s.ask("begin")
    s.frames([0.0] * 10)
    assert phases(s.ask("stop")) == ["ended"]
    s = Played()
    s.ask("begin")
    s.frames([0.0] * 10 + [2.0] * 5)
    assert s.ask("stop") == []
    out = s.frames([0.0] * 30)
    assert out[0] == Drop(4.0, 0)
    assert phases(out) == ["ended"]
    assert of(Phase, out)[0].reason == "stopped by anna"


def test_a_reward_that_is_due_is_dropped_when_frames_stop_before_it():
    s = Played()
    s.ask("begin")
    s.frames([0.0] * 10 + [2.0] * 5)
    s.ask("stop")
    out = s.stall()
    assert edges(out) == [(0, "void")]
    assert phases(out) == ["ended"]
    assert not of(Drop, s.out)


def test_abort_drops_everything_now():
    s = Played()
    s.ask("begin")
    s.frames([0.0] * 10 + [2.0] * 5)
    out = s.ask("abort")
    assert edges(out) == [(0, "void")]
    assert phases(out) == ["ended"]
    assert s.core.refusal("abort") == "the session has ended already"


def test_a_free_reward_is_refused_within_a_hit_and_beyond_the_ration():
    s = Played(given_ul=1190.0)
    assert s.core.refusal("free_reward") == "the session is idle"
    s.ask("begin")
    s.frames([0.0] * 10)
    assert s.ask("free_reward") == [Drop(4.0, -1)]
    s.frames([2.0] * 5)
    assert s.core.refusal("free_reward") == "trial 0 is being rewarded: ask again when it is over"
    s.frames([0.0] * 60)
    assert "1198 ul given today, 4 ul more would pass the day's 1200 ul" in s.core.refusal("free_reward")
    with pytest.raises(ValueError, match="1200 ul"):
        s.ask("free_reward")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("resume", "expected paused"), ("begin", "begun already")],
)
def test_what_makes_no_sense_now_is_refused_with_a_reason(kind: str, words: str):
    s = Played()
    s.ask("begin")
    assert words in s.core.refusal(kind)


def test_a_request_that_was_refused_does_nothing():
    s = Played()
    s.ask("begin")
    assert s.do(RequestLog(kind="abort", by="x", accepted=False)) == []
    assert s.core.running


# ---------------------------------------------------------------- what is lost


def test_frames_that_stop_make_the_trial_void_and_the_next_frame_begins_a_new_one():
    s = Played()
    s.ask("begin")
    s.frames([0.5] * 20)
    out = s.stall()
    assert of(Trial, out)[0].reason == "frames stopped for 0.5 s"
    assert out[-1] == GREY
    s.k += 30
    assert edges(s.frames([0.5])) == [(1, "start")]


def test_a_lost_service_holds_the_loop_until_it_is_back():
    s = Played(OPTO)
    s.ask("begin")
    s.frames([0.5] * 20)
    out = s.stall("stimulus")
    assert of(Trial, out)[0].reason == "stimulus was lost"
    assert phases(out) == []
    s.stall("decoding")
    assert s.frames([2.0] * 30) == []
    assert s.ask("back", detail="stimulus") == []
    assert s.frames([2.0]) == []
    assert s.ask("back", detail="decoding") == [Opto(True)]
    assert edges(s.frames([0.5])) == [(1, "start")]


def test_a_session_with_a_service_missing_is_not_resumed_by_mistake():
    s = Played()
    s.ask("begin")
    s.stall("actuation")
    s.ask("pause")
    assert s.core.refusal("resume") == "actuation lost and not back yet"
    assert s.core.refusal("free_reward") == "actuation is lost and not back yet"
    s.ask("back", detail="actuation")
    assert s.core.refusal("resume") == ""


def test_the_led_is_armed_for_baseline_and_loop_and_disarmed_in_every_pause():
    s = Played(OPTO)
    assert of(Opto, s.ask("begin")) == [Opto(True)]
    assert of(Opto, s.ask("pause")) == [Opto(False)]
    assert of(Opto, s.ask("resume")) == [Opto(True)]
    assert of(Opto, s.ask("abort")) == [Opto(False)]
    led_off = Played(TASK + "[opto]\narmed = true\n")
    assert of(Opto, led_off.ask("begin")) == []
    assert of(Opto, led_off.frames(noise(BASELINE_N))) == [Opto(True)]


@pytest.mark.parametrize("late", [output(9, 0.0, t_s=9.9), output(30, 0.0, t_s=1.0), output(19, 0.0)])
def test_a_frame_that_does_not_rise_is_left_out(late: Output):
    s = Played()
    s.ask("begin")
    s.frames([0.5] * 20)
    with pytest.raises(TimeRanBackError, match="both must rise"):
        s.core.step(late)
    assert s.frames([0.5]) == []


def test_a_valid_value_that_is_not_finite_is_an_error_that_names_the_frame():
    s = Played()
    s.ask("begin")
    with pytest.raises(ArithmeticError, match="frame 40: D nan"):
        s.core.step(output(20, math.nan))


# ---------------------------------------------------------------- successor and replay


def test_a_successor_stands_paused_voids_the_open_trial_and_goes_on_with_the_next():
    first = Played(TASK)
    first.ask("begin")
    first.frames(noise(BASELINE_N))
    first.frames([0.0] * 20)
    calibration, elapsed_s = first.core.calibration, of(Trial, first.out)[-1].elapsed_s
    core = SessionCore(make_plan(TASK), RATE_HZ)
    core.restore("closed_loop", calibration, 0, of(Trial, first.out)[-1], elapsed_s)
    assert core.phase == "paused"
    out = core.step(request("resume", by="task", reason="task crashed"))
    assert edges(out) == [(0, "void")]
    assert of(Trial, out)[0].reason == "task crashed"
    assert phases(out) == ["closed_loop"]
    assert edges(core.step(output(900, 0.0))) == [(1, "start")]
    assert core.calibration == calibration


def test_a_successor_repeats_a_baseline_that_was_not_whole():
    core = SessionCore(make_plan(TASK), RATE_HZ)
    core.restore("baseline", None, -1, None, 0.0)
    assert phases(core.step(request("resume"))) == ["baseline"]


def test_a_recorded_session_replays_equally_even_if_the_record_has_another_order():
    s = Played(TASK)
    rng = np.random.default_rng(3)
    s.frames([0.0] * 3)
    s.ask("begin")
    s.frames(noise(80))
    s.ask("pause")
    s.frames(noise(10))
    s.ask("resume")
    s.frames(noise(200))
    s.stall()
    s.frames(noise(50, 4))
    s.stall("stimulus")
    s.frames(noise(20, 5))
    s.ask("back", detail="stimulus")
    s.ask("free_reward")
    s.frames(rng.normal(0, 0.3, 250))
    s.ask("stop")
    outputs = [e for e in s.events if isinstance(e, Output)]
    others = [e for e in s.events if not isinstance(e, Output)]
    session = Session(run_id="r", rig=RIG, task=TASK, simulated=True)
    assert parse_rig(session.rig).rig.microscope.plane_rate_hz == RATE_HZ
    assert replay(session, others + outputs) == s.out
    assert replay(session, outputs + others) == s.out
    assert in_order(outputs + others) == s.events
    assert len(of(Drop, s.out)) >= 2


def test_a_replay_ends_where_a_successor_took_over():
    s = Played(FIXED)
    s.ask("begin")
    s.frames([0.0] * 20)
    session = Session(run_id="r", rig=RIG, task=FIXED, simulated=True)
    record = [*s.events, request("restart", last_frame=-1), request("abort")]
    assert replay(session, record) != []
    assert phases(replay(session, record)) == ["calibration", "closed_loop"]


# ---------------------------------------------------------------- whatever happens

BLOCKS = """
[[passive]]
name = "lit"
duration_s = 2
led = true
[[passive]]
name = "dark"
duration_s = 2
wait = true
[opto]
armed = true
""" + FIXED
SCHEDULE = "[yoked]\nduration_s = 9\nt_s = [0.5, 3]\nwhat = ['grating', 'black']\nangle_deg = [90, 0]\nreward_s = [2]\n"
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 60), st.sampled_from([0.0, 0.5, 0.5, 2.0, 2.0, math.nan])),
        st.sampled_from(["begin", "pause", "resume", "resume", "free_reward", "stop", "abort", "frames"]),
        st.tuples(st.sampled_from(["stall", "back"]), st.sampled_from(["stimulus", "actuation"])),
    ),
    max_size=40,
)


@given(st.sampled_from([FIXED, TASK, BLOCKS, FIXED + SCHEDULE]), EVENTS)
def test_whatever_happens_rewards_follow_hits_the_screen_is_grey_in_pauses_and_the_led_is_off(task, events):
    s = Played(task)
    screen, lit, phase = GREY, False, "idle"
    hits: set[int] = set()
    s.ask("begin")
    todo = iter(s.out)
    for event in [None, *events]:
        if isinstance(event, str) and event != "frames":
            todo = iter(s.ask(event) if not s.core.refusal(event) else [])
        elif event == "frames":
            todo = iter(s.stall())
            s.k += 30
        elif event is not None and isinstance(event[0], int):
            todo = iter(s.frames([event[1]] * event[0]))
        elif event is not None:
            todo = iter(s.stall(event[1]) if event[0] == "stall" else s.ask("back", detail=event[1]))
        for effect in todo:
            if isinstance(effect, Show):
                assert effect.what != "grating" or phase in ("baseline", "closed_loop")
                screen = effect
            elif isinstance(effect, Trial) and effect.edge == "hit":
                hits.add(effect.trial)
            elif isinstance(effect, Trial) and effect.edge == "void":
                hits.discard(effect.trial)
            elif isinstance(effect, Drop) and effect.trial >= 0:
                assert screen == Show(what="grating", angle_deg=90.0)  # never in grey or black
                hits.remove(effect.trial)  # one for each hit
            elif isinstance(effect, Phase):
                phase = effect.phase
            elif isinstance(effect, Opto):
                lit = effect.armed
        if phase in ("idle", "paused", "ended"):
            assert screen == GREY
            assert not lit
        assert s.core.phase == phase
    session = Session(run_id="r", rig=RIG, task=task, simulated=True)
    assert replay(session, s.events) == s.out
