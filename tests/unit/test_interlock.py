"""The interlock under any sequence of events: never too long, never too much, never twice, never late."""

import datetime
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop2p.actuation import (
    CalibrationPoint,
    ControllerLimits,
    Interlock,
    Limits,
    OpenValve,
    Ration,
    Refusal,
    Repeated,
    SetLed,
    ValveCalibration,
)
from loop2p.actuation.core import KNOWN_IDS
from loop2p.protocol import OptoCommand, RewardCommand

MS = 1_000_000
CALIBRATION = ValveCalibration("2026-11-02", [CalibrationPoint(20, 1.0), CalibrationPoint(50, 4.0)])
LIMITS = Limits(max_open_ms=45, session_ul=20, day_ul=30)


def interlock(limits: Limits = LIMITS, ration: Ration | None = None, instance: str = "here") -> Interlock:
    return Interlock(instance, limits, CALIBRATION, ration or Ration(day="2026-11-02"), frame_rate_hz=30.92)


def armed(limits: Limits = LIMITS, ration: Ration | None = None) -> Interlock:
    lock = interlock(limits, ration)
    lock.controller = ControllerLimits()
    lock.phase = "closed_loop"
    lock.heard("task", 0)
    lock.heard("decoding", 0)
    return lock


def reward(id: int = 1, ul: float = 2.0, target: str = "here", expires_ns: int = 250 * MS) -> RewardCommand:
    return RewardCommand(id=id, target=target, expires_ns=expires_ns, volume_ul=ul)


def opto(id: int = 1, on: bool = True, pulse_ms: float = 6.0, expires_ns: int = 250 * MS) -> OptoCommand:
    return OptoCommand(id=id, target="here", expires_ns=expires_ns, armed=on, pulse_ms=pulse_ms)


def reason(verdict: object) -> str:
    assert isinstance(verdict, Refusal), verdict
    return verdict.reason


# ---------------------------------------------------------------- armed


def test_starts_unarmed_and_names_what_is_missing() -> None:
    lock = interlock()
    assert lock.why_unarmed(0) == "the controller is not connected"
    lock.controller = ControllerLimits()
    assert lock.why_unarmed(0) == "task is not heard"
    lock.heard("task", 0)
    assert lock.why_unarmed(0) == "decoding is not heard"
    lock.heard("decoding", 0)
    assert lock.why_unarmed(0) == "the phase is idle"
    lock.phase = "closed_loop"
    assert lock.armed(0)


@pytest.mark.parametrize("source", ["task", "decoding"])
def test_silence_of_either_ends_the_lease_after_200_ms(source: str) -> None:
    lock = armed()
    other = "decoding" if source == "task" else "task"
    lock.heard(other, 300 * MS)
    assert lock.lease_until_ns() == 200 * MS
    assert lock.armed(200 * MS)
    assert lock.why_unarmed(201 * MS) == f"{source} has been silent for 201 ms, limit 200 ms"
    assert "silent" in reason(lock.judge("task", reward(), 201 * MS, 0))


def test_one_that_says_it_leaves_is_not_waited_for() -> None:
    lock = armed()
    lock.lost("decoding")
    assert not lock.armed(0)
    assert lock.lease_until_ns() is None


@pytest.mark.parametrize("phase", ["idle", "paused", "ended"])
def test_nothing_moves_in_other_phases(phase: str) -> None:
    lock = armed()
    lock.phase = phase  # type: ignore[assignment]
    assert phase in reason(lock.judge("task", reward(), 0, 0))
    assert phase in reason(lock.judge("task", opto(2), 0, 0))


# ---------------------------------------------------------------- one command


def test_a_reward_opens_for_the_calibrated_time() -> None:
    assert armed().judge("task", reward(ul=2.0), 0, 0) == OpenValve(2.0, 30_000)


def test_nothing_goes_the_whole_way_and_opens_nothing() -> None:
    lock = armed()
    assert lock.judge("task", reward(ul=0.0), 0, 0) == OpenValve(0.0, 0)
    assert lock.ration.day_ul == 0.0


@pytest.mark.parametrize(
    ("command", "now_ms", "expected"),
    [
        (reward(target="another"), 0, "command for instance 'another', this is 'here'"),
        (reward(), 251, "command expired 1.0 ms ago"),
        (reward(ul=math.nan), 0, "volume of nan ul, expected a finite number"),
        (reward(ul=math.inf), 0, "volume of inf ul, expected a finite number"),
        (reward(ul=-1.0), 0, "volume of -1.0 ul"),
        (reward(ul=4.0), 0, "4 ul takes 50 ms, the largest open time is 45 ms"),
        (reward(ul=4.5), 0, "4.5 ul is beyond the calibration of 2026-11-02, which ends at 4 ul"),
        (opto(pulse_ms=7.0), 0, "LED duty of 0.216, limit 0.2"),
        (opto(pulse_ms=math.nan), 0, "LED pulse of nan ms"),
        (opto(pulse_ms=0.0), 0, "LED pulse of 0.0 ms"),
    ],
)
def test_a_refusal_says_why(command: RewardCommand | OptoCommand, now_ms: int, expected: str) -> None:
    lock = armed()
    lock.heard("task", now_ms * MS)
    lock.heard("decoding", now_ms * MS)
    assert expected in reason(lock.judge("task", command, now_ms * MS, now_ms * MS))
    assert lock.ration.day_ul == 0.0


def test_only_task_commands() -> None:
    lock = armed()
    assert reason(lock.judge("decoding", reward(), 0, 0)) == "command from decoding, only task may command"
    assert isinstance(lock.judge("task", reward(), 0, 0), OpenValve)  # the stranger did not use up the id


def test_the_stricter_of_host_and_controller_holds() -> None:
    lock = armed()
    lock.controller = ControllerLimits(max_open_ms=25, led_duty_max=0.1, led_pulse_ms=20)
    assert "largest open time is 25 ms" in reason(lock.judge("task", reward(), 0, 0))
    assert "limit 0.1" in reason(lock.judge("task", opto(2), 0, 0))
    assert "controller allows 20 ms" in reason(lock.judge("task", opto(3, pulse_ms=21), 0, 0))


def test_a_known_id_is_not_done_again_but_acknowledged_again() -> None:
    lock = armed()
    assert isinstance(lock.judge("task", reward(), 0, 7), OpenValve)
    assert lock.judge("task", reward(), 0, 9) == Repeated(7)
    assert lock.ration.day_ul == 2.0


def test_a_refusal_stands_when_the_reason_has_gone() -> None:
    lock = armed()
    lock.phase = "idle"
    first = lock.judge("task", reward(), 0, 0)
    lock.phase = "closed_loop"
    assert lock.judge("task", reward(), 0, 0) == first


def test_ids_that_were_forgotten_are_too_old() -> None:
    lock = armed()
    for command_id in range(KNOWN_IDS + 1):
        lock.judge("task", reward(command_id, ul=0.0), 0, 0)
    assert "as old as those forgotten" in reason(lock.judge("task", reward(0), 0, 0))


def test_rations_of_session_and_day_hold_together() -> None:
    ration = Ration(day="2026-11-02", animal="m", run="r1", ul={"m": 15.0})
    lock = armed(ration=ration)
    given = [lock.judge("task", reward(n, ul=2.5), 0, 0) for n in range(10)]
    assert sum(isinstance(v, OpenValve) for v in given) == 6  # 30 of the day
    assert reason(given[-1]) == "2.5 ul after 30 ul exceeds the day's ration of 30 ul"


def test_led_arms_and_disarming_needs_nothing_but_a_controller() -> None:
    lock = armed()
    assert lock.judge("task", opto(), 0, 0) == SetLed(True, 6000)
    lock.phase = "idle"
    assert lock.judge("task", opto(2, on=False), 900 * MS, 0) == SetLed(False, 0)
    lock.controller = None
    assert "not connected" in reason(lock.judge("task", opto(3, on=False), 0, 0))


def test_led_light_of_the_day_is_limited() -> None:
    lock = armed(ration=Ration(day="2026-11-02", led_s={"": 1500.0}))
    assert lock.led_used_up
    assert "LED was on for 1500 s today" in reason(lock.judge("task", opto(), 0, 0))


# ---------------------------------------------------------------- any sequence


class Heard(msgspec.Struct):
    source: str


class Passes(msgspec.Struct):
    ms: int


class Phased(msgspec.Struct):
    phase: str


class Restarts(msgspec.Struct):
    pass


commands = st.builds(
    RewardCommand,
    id=st.integers(0, 12),
    target=st.sampled_from(["here", "here", "here", "old"]),
    expires_ns=st.integers(0, 2000).map(lambda ms: ms * MS),
    volume_ul=st.one_of(st.floats(0, 4), st.floats(), st.sampled_from([0.0, 2.0, 3.4])),
)
events = st.lists(
    st.one_of(
        commands,
        commands,
        st.builds(Heard, st.sampled_from(["task", "decoding"])),
        st.builds(Passes, st.integers(0, 150)),
        st.builds(Phased, st.sampled_from(["closed_loop", "closed_loop", "paused"])),
        st.builds(Restarts),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(events)
def test_whatever_happens_limits_hold(happenings: list[object]) -> None:
    lock, now_ns, heard = armed(), 0, {"task": 0, "decoding": 0}
    started, total, done = 0, 0.0, set[tuple[int, int]]()
    for event in happenings:
        if isinstance(event, Passes):
            now_ns += event.ms * MS
        elif isinstance(event, Heard):
            lock.heard(event.source, now_ns)
            heard[event.source] = now_ns
        elif isinstance(event, Phased):
            lock.phase = event.phase  # type: ignore[assignment]
        elif isinstance(event, Restarts):  # what a successor reads from the file
            lock = interlock(ration=msgspec.json.decode(msgspec.json.encode(lock.ration), type=Ration))
            lock.controller = ControllerLimits()
            heard, started = {}, started + 1
            assert not lock.armed(now_ns)
        elif isinstance(event, RewardCommand):
            verdict = lock.judge("task", event, now_ns, now_ns)
            if not isinstance(verdict, OpenValve):
                continue
            assert verdict.open_us <= LIMITS.max_open_ms * 1000
            assert verdict.open_us == CALIBRATION.open_us(event.volume_ul)
            assert event.target == "here"
            assert now_ns <= event.expires_ns
            assert len(heard) == 2
            assert now_ns - min(heard.values()) <= 200 * MS
            assert lock.phase == "closed_loop"
            assert (started, event.id) not in done
            done.add((started, event.id))
            total += verdict.volume_ul
            assert total <= LIMITS.session_ul


# ---------------------------------------------------------------- calibration and limits


@given(st.floats(0, 4))
def test_calibration_inverts_itself_and_rises(ul: float) -> None:
    open_us = CALIBRATION.open_us(ul)
    assert CALIBRATION.volume_ul(open_us) == pytest.approx(ul, abs=1e-4)
    assert open_us <= CALIBRATION.open_us(min(4.0, ul + 0.1))


def test_calibration_between_and_below_its_points() -> None:
    assert [CALIBRATION.open_us(ul) for ul in (0, 0.5, 1, 2.5, 4)] == [0, 10_000, 20_000, 35_000, 50_000]
    assert CALIBRATION.most_ul_per_ms == pytest.approx(0.1)


def test_calibration_knows_its_age() -> None:
    assert CALIBRATION.age_days(datetime.date(2026, 12, 2)) == 30


@pytest.mark.parametrize(
    ("date", "points", "expected"),
    [
        ("yesterday", [(50, 4)], "date 'yesterday', expected the day of weighing"),
        ("2026-11-02", [], "no points"),
        ("2026-11-02", [(50, 4), (40, 5)], "point 2: 40 ms gives 5 ul after 50 ms gave 4 ul"),
        ("2026-11-02", [(50, 4), (60, 4)], "expected both to rise"),
        ("2026-11-02", [(0, 0)], "expected both to rise from 0"),
        ("2026-11-02", [(50, math.nan)], "expected finite numbers"),
    ],
)
def test_bad_calibration_is_named(date: str, points: list[tuple[float, float]], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ValveCalibration(date, [CalibrationPoint(*p) for p in points])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lease_ms": 500}, "lease_ms is 500, expected at most 200"),
        ({"max_open_ms": 0}, "max_open_ms is 0, expected a number above 0"),
        ({"day_ul": math.inf}, "day_ul is inf"),
        ({"led_duty_max": 1.5}, "led_duty_max is 1.5"),
    ],
)
def test_bad_limits_are_named(options: dict[str, float], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Limits(**options)
