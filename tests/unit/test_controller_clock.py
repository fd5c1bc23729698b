"""Controller time on the host's clock: wraps, drift, and delays that only ever add."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.actuation.controller_clock import ControllerClock

WRAP = 2**32


def exchanges(clock: ControllerClock, first_us: int, ppm: float, seed: int, n: int = 200) -> list[tuple[int, int, int]]:
    """Feeds n exchanges, 250 ms apart; returns (true host ns, wire time, error ns) of events between them."""
    rng = random.Random(seed)
    results = []
    for k in range(n):
        asked_ns = k * 250_000_000 + 7_000_000_000
        there_ns, back_ns = (int(rng.expovariate(1 / 300_000)) + 200_000 for _ in range(2))
        true_ns = asked_ns + there_ns

        def wire(at_ns: int) -> int:
            return (first_us + int(at_ns / 1000 * (1 + ppm / 1e6))) % WRAP

        clock.add(asked_ns, wire(true_ns), true_ns + back_ns)
        event_ns = true_ns + rng.randrange(200_000_000)
        results.append((event_ns, wire(event_ns), clock.to_host_ns(wire(event_ns)) - event_ns))
    return results


@given(st.integers(0, WRAP - 1), st.integers(0, 1000))
def test_times_are_right_to_half_a_round_trip_through_a_wrap(first_us: int, seed: int) -> None:
    clock = ControllerClock()
    worst = max(abs(error) for _, _, error in exchanges(clock, first_us, 0.0, seed))
    assert worst < 2_000_000  # the longest of 400 one-way delays is about that; no wrap of 4295 s shows


@pytest.mark.parametrize("ppm", [-5000, -100, 100, 5000])
def test_drift_of_a_ceramic_resonator_is_followed(ppm: float) -> None:
    clock = ControllerClock()
    late = exchanges(clock, WRAP - 20_000_000, ppm, seed=1)[40:]
    assert max(abs(error) for _, _, error in late) < 1_500_000
    assert clock.ns_per_us == pytest.approx(1000 / (1 + ppm / 1e6), rel=1e-4)


def test_an_event_from_before_the_wrap_is_not_an_hour_late() -> None:
    clock = ControllerClock()
    clock.add(10_000_000_000, 5, 10_000_002_000)  # just after a wrap
    assert clock.to_host_ns(WRAP - 995) == 10_000_001_000 - 1_000_000


def test_the_lowest_round_trip_is_believed() -> None:
    clock = ControllerClock()
    clock.add(0, 1_000, 100_000)
    clock.add(1_000_000, 99_999, 900_000_000)
    assert clock.to_host_ns(1_000) == 50_000
    assert clock.bound_ns == 150_000


def test_an_answer_before_its_question_is_ignored() -> None:
    clock = ControllerClock()
    clock.add(100, 5, 50)
    assert not clock.ready
    with pytest.raises(ValueError, match="no exchange"):
        clock.to_host_ns(5)


def test_a_time_for_the_controller_is_never_later_than_the_host_means() -> None:
    """Whichever way the round trip was uneven."""
    for way_there_ns in (0, 5_000_000, 10_000_000):
        clock = ControllerClock()
        clock.add(1_000_000_000, (1_000_000_000 + way_there_ns) // 1000, 1_010_000_000)  # its clock is the host's
        until_us = clock.at_latest_us(1_200_000_000)
        assert 1_190_000 <= until_us <= 1_200_000
