"""From the rig clock to LSL's and back, and what the bound holds."""

import time

import pytest

from loop2p.lsl.clocks import LslClock
from loop2p.runtime.clock import RigClock


def test_there_and_back_is_the_same_to_a_microsecond() -> None:
    clock = LslClock(RigClock(), lambda: time.perf_counter() + 1234.5)
    now_ns = time.perf_counter_ns()
    assert abs(clock.rig_ns(clock.lsl_s(now_ns)) - now_ns) < 1000
    assert abs(clock.lsl_s(now_ns) - now_ns / 1e9 - 1234.5) <= (clock.bound_ns or 0) / 1e9
    assert clock.offset_s == pytest.approx(1234.5, abs=(clock.bound_ns or 0) / 1e9)


def test_what_the_clocks_drift_apart_is_in_the_bound() -> None:
    offset_s = [0.0]
    clock = LslClock(RigClock(), lambda: time.perf_counter() + offset_s[0])
    before_ns = clock.bound_ns
    offset_s[0] = 0.002
    clock.renew()
    assert before_ns is not None
    assert clock.bound_ns is not None
    assert before_ns < 1_000_000
    assert 2_000_000 <= clock.bound_ns + before_ns < 4_000_000
    clock.renew()
    assert clock.bound_ns < 1_000_000


def test_a_rig_clock_that_is_not_known_gives_no_bound_and_its_own_counts() -> None:
    rig = RigClock(is_reference=False)
    clock = LslClock(rig, time.perf_counter)
    assert clock.bound_ns is None
    t_ns = time.perf_counter_ns()
    rig.add_exchange(t_ns, t_ns + 7_000_000_000 + 500_000, t_ns + 7_000_000_000 + 500_000, t_ns + 1_000_000)
    assert clock.bound_ns is not None
    assert clock.bound_ns >= 500_000
    assert clock.offset_s == pytest.approx(-7.0, abs=2e-3)


@pytest.mark.parametrize("lsl_s", [float("nan"), float("inf"), -1e300, 4e8])
def test_what_is_no_time_is_refused(lsl_s: float) -> None:
    with pytest.raises(ValueError, match="expected a time of LSL's clock"):
        LslClock(RigClock(), time.perf_counter).rig_ns(lsl_s)
