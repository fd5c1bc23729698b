"""The trial by Methods 2.6, as events in and commands out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.protocol import Calibration, Show, Trial
from loop2p.task import Reward, TrialParams, Trials, Value

CALIBRATION = Calibration(
    minimum=0.0, threshold=1.0, mu=0, sigma=0.1, z_star=3, seed=0, first_frame=0, last_frame=1, n_values=1
)
PERIOD_S = 1 / 15.46
LOW, MIDDLE, HIT = -1.0, 0.5, 2.0
GREY, BLACK = Show(what="grey"), Show(what="black")


def grating(angle_deg: float) -> Show:
    return Show(what="grating", angle_deg=angle_deg)


def edge(trial: int, edge: str, t_s: float, reason: str = "") -> Trial:
    return Trial(trial=trial, edge=edge, t_s=t_s, reason=reason)  # type: ignore[arg-type]


def trials() -> Trials:
    return Trials(TrialParams(), CALIBRATION)


def play(subject: Trials, values: list[float], start: int = 0) -> dict[int, list[object]]:
    """Frame number -> what came out there, at 15.46 Hz."""
    out = {}
    for k, value in enumerate(values, start):
        steps = subject.step(Value(k * PERIOD_S, value, valid=not math.isnan(value)))
        if steps:
            out[k] = steps
    return out


def test_the_screen_follows_the_value_once_the_grey_is_over_until_a_hit():
    subject = trials()
    assert subject.step(Value(0.0, MIDDLE)) == [edge(0, "start", 0.0)]
    assert subject.step(Value(0.4, HIT)) == []  # grey: nothing is decided yet
    assert subject.step(Value(0.6, MIDDLE)) == [grating(45)]
    assert subject.step(Value(1.0, MIDDLE)) == []
    assert subject.step(Value(1.4, LOW)) == [grating(0)]
    assert subject.step(Value(1.8, HIT)) == [edge(0, "hit", 1.8), grating(90)]
    assert subject.step(Value(2.2, LOW)) == []  # frozen
    assert subject.step(Value(2.6, LOW)) == []
    assert subject.step(Value(2.8, LOW)) == [Reward(trial=0)]
    assert subject.step(Value(3.2, LOW)) == []
    assert subject.step(Value(3.6, LOW)) == []
    assert subject.step(Value(3.8, LOW)) == [BLACK]
    assert subject.step(Value(4.3, HIT)) == []
    assert subject.step(Value(4.8, HIT)) == [edge(1, "start", 4.8), GREY]


def test_frame_counts_of_a_hit_at_the_paper_s_rate():
    out = play(trials(), [LOW] * 8 + [HIT] * 100)
    assert list(out) == [0, 8, 24, 39, 55, 63, 79, 94]  # due at the first frame that reaches 0.5, 1, 2 and 2 + 1 s
    assert out[8] == [edge(0, "hit", 8 * PERIOD_S), grating(90)]
    assert out[24] == [Reward(trial=0)]
    assert out[39] == [BLACK]
    assert out[55][0] == edge(1, "start", 55 * PERIOD_S)


def test_a_miss_after_28_s_is_black_for_3_s_and_unrewarded():
    out = play(trials(), [MIDDLE] * 520)
    assert list(out) == [0, 8, 441, 488, 496]
    assert out[441] == [edge(0, "miss", 441 * PERIOD_S), BLACK]  # 433 frames = 28.0 s after the loop closed
    assert out[488] == [edge(1, "start", 488 * PERIOD_S), GREY]


def test_the_last_frame_before_28_s_can_still_hit_and_the_next_can_not():
    assert play(trials(), [MIDDLE] * 440 + [HIT])[440][0].edge == "hit"
    assert play(trials(), [MIDDLE] * 441 + [HIT])[441][0].edge == "miss"


def test_due_times_do_not_depend_on_rounding_of_frame_times():
    subject = Trials(TrialParams(grey_s=0.3), CALIBRATION)
    subject.step(Value(0.1, MIDDLE))
    assert subject.step(Value(0.1 + 0.3 - 1e-12, MIDDLE)) == [grating(45)]


@pytest.mark.parametrize(("frames", "state"), [(3, "grey"), (50, "loop")])
def test_a_halt_makes_the_trial_void_and_the_next_value_begins_a_new_one(frames: int, state: str):
    subject = trials()
    play(subject, [MIDDLE] * frames)
    assert subject.state == state
    out = subject.halt("frames stopped for 0.5 s")
    assert out[0] == edge(0, "void", (frames - 1) * PERIOD_S, "frames stopped for 0.5 s")
    assert out[1:] == ([GREY] if state == "loop" else [])
    assert subject.halt("again") == []
    assert subject.step(Value(60.0, HIT)) == [edge(1, "start", 60.0)]


def test_a_hit_whose_reward_is_not_due_yet_becomes_void_and_is_never_rewarded():
    subject = trials()
    play(subject, [LOW] * 8 + [HIT] * 10)
    assert subject.owes_reward
    assert subject.halt("task was lost") == [edge(0, "void", 17 * PERIOD_S, "task was lost"), GREY]
    assert not any(isinstance(o, Reward) for out in play(subject, [LOW] * 60, start=30).values() for o in out)


def test_a_rewarded_or_missed_trial_is_never_void():
    subject = trials()
    play(subject, [LOW] * 8 + [HIT] * 20)
    assert subject.halt("late") == [GREY]
    subject = trials()
    play(subject, [MIDDLE] * 450)
    assert subject.halt("late") == [GREY]


def test_invalid_values_decide_nothing_and_change_nothing_for_half_a_second():
    subject = trials()
    play(subject, [MIDDLE] * 20)
    assert play(subject, [math.nan] * 7, start=20) == {}
    assert play(subject, [LOW], start=27) == {27: [grating(0)]}
    assert play(subject, [math.nan] * 7, start=28) == {}  # counted anew


def test_invalid_values_for_longer_make_the_trial_void():
    subject = trials()
    play(subject, [MIDDLE] * 20)
    out = play(subject, [math.nan] * 20, start=20)
    assert list(out) == [28]  # 8 frames = 0.52 s after the first of them
    assert out[28] == [edge(0, "void", 28 * PERIOD_S, "no valid value for 0.52 s"), GREY]
    assert play(subject, [MIDDLE], start=40) == {40: [edge(1, "start", 40 * PERIOD_S)]}


def test_a_jump_of_frame_time_over_half_a_second_makes_the_trial_void():
    subject = trials()
    play(subject, [MIDDLE] * 20)
    t_s = 19 * PERIOD_S + 0.6
    void = edge(0, "void", t_s, "frame time jumped by 0.60 s")
    assert subject.step(Value(t_s, HIT)) == [void, GREY, edge(1, "start", t_s)]


def test_a_jump_of_half_a_second_does_not():
    subject = trials()
    play(subject, [MIDDLE] * 20)
    assert subject.step(Value(19 * PERIOD_S + 0.5, LOW)) == [grating(0)]


@pytest.mark.parametrize("t_s", [1.0, 0.9, math.nan])
def test_time_never_runs_back(t_s: float):
    subject = trials()
    subject.step(Value(1.0, MIDDLE))
    with pytest.raises(ValueError, match="frame time must rise"):
        subject.step(Value(t_s, MIDDLE))


def test_a_valid_value_that_is_no_number_is_an_error():
    subject = trials()
    play(subject, [MIDDLE] * 10)
    with pytest.raises(ArithmeticError, match="expected a finite number"):
        subject.step(Value(1.0, math.nan))


def test_the_reward_can_not_come_after_the_freeze():
    with pytest.raises(ValueError, match="expected at most freeze_s"):
        TrialParams(freeze_s=0.5)


WHAT = {"waiting": "grey", "grey": "grey", "loop": "grating", "freeze": "grating", "black": "black"}
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([PERIOD_S, PERIOD_S, PERIOD_S, 0.2, 0.5, 0.7, 5.0]),
            st.sampled_from([LOW, MIDDLE, MIDDLE, HIT]),
            st.sampled_from([True, True, True, True, False]),
        ),
        st.just("halt"),
    ),
    max_size=300,
)
PARAMS = st.builds(
    TrialParams,
    grey_s=st.sampled_from([0.0, 0.1, 0.5]),
    loop_s=st.sampled_from([0.3, 2.0, 28.0]),
    freeze_s=st.sampled_from([0.2, 2.0]),
    reward_after_s=st.sampled_from([0.0, 0.2]),
    black_s=st.sampled_from([0.0, 1.0]),
    timeout_s=st.sampled_from([0.0, 3.0]),
)


@given(PARAMS, EVENTS)
def test_one_reward_for_each_hit_that_is_not_void_and_none_without(params: TrialParams, events: list[object]):
    subject, t_s, out = Trials(params, CALIBRATION), 0.0, []
    for event in events:
        if isinstance(event, tuple):
            step_s, value, valid = event
            t_s += step_s
            out += subject.step(Value(t_s, value, valid))
        else:
            out += subject.halt("test")
    edges: dict[int, list[str]] = {}
    for message in out:
        if isinstance(message, Trial):
            edges.setdefault(message.trial, []).append(message.edge)
        elif isinstance(message, Reward):
            assert edges[message.trial] == ["start", "hit"]  # after the hit, before anything else, and only once
            edges[message.trial].append("reward")
    allowed = (["start", "hit", "reward"], ["start", "miss"], ["start", "void"], ["start", "hit", "void"])
    assert list(edges) == list(range(len(edges)))
    assert all(edges[trial] in allowed for trial in list(edges)[:-1])
    last = edges[len(edges) - 1] if edges else []
    assert last in allowed or last in ([], ["start"], ["start", "hit"])


@given(PARAMS, EVENTS)
def test_the_screen_is_told_only_what_is_new_and_moves_in_the_loop_alone(params: TrialParams, events: list[object]):
    subject, t_s, shown = Trials(params, CALIBRATION), 0.0, GREY
    for event in events:
        if not isinstance(event, tuple):
            out = subject.halt("test")
            assert subject.state == "waiting"
        else:
            step_s, value, valid = event
            t_s += step_s
            before = subject.state
            out = subject.step(Value(t_s, value, valid))
            if not valid and before == subject.state:
                assert out == []
        for message in out:
            if isinstance(message, Show):
                assert message != shown
                shown = message
        assert shown.what == WHAT[subject.state]
        if subject.state == "freeze":
            assert shown.angle_deg == 90
        if subject.state == "loop":
            assert shown.angle_deg != 90
