"""Whose clock is unclear in a session; and what a latency between two machines may be off."""

import pytest
from rigs import rig_text

from loop2p.protocol import Clock, parse_rig, seal
from loop2p.recording.clock_bounds import ClockBounds
from loop2p.task.barrier import unclear_clocks
from loop2p.task.watch import CLOCK_GOOD_AFTER_NS, ClockWatch

S = 1_000_000_000
RIG = parse_rig(rig_text(list(range(5500, 5600)), "runs", extra="[clock]\nbound_limit_ms = 2", top="")).rig
EXTERNAL = parse_rig(rig_text(list(range(5500, 5600)), "runs", external=("imaging",))).rig


def test_a_clock_beyond_the_limit_is_a_reason_with_machine_found_expected_and_what_to_do():
    (reason,) = unclear_clocks(RIG, {"imaging": 2_500_000, "stimulus": 1_900_000, "task": None})
    assert str(reason) == (
        "imaging.clock: imaging on local: clock known to +-2.50 ms, expected +-2 ms: wait, or check the network"
    )


def test_nobody_asks_an_external_peer_for_its_clock():
    assert unclear_clocks(EXTERNAL, {"imaging": None}) == []


def test_an_unclear_clock_counts_until_it_was_good_for_a_while():
    watch = ClockWatch()
    assert watch.check([], 0) == frozenset()
    assert watch.check(["imaging.clock"], 1 * S) == {"imaging.clock"}
    assert watch.check([], 1 * S + CLOCK_GOOD_AFTER_NS) == {"imaging.clock"}
    assert watch.check(["stimulus.clock"], 1 * S + CLOCK_GOOD_AFTER_NS) == {"imaging.clock", "stimulus.clock"}
    assert watch.check([], 2 * S + CLOCK_GOOD_AFTER_NS) == {"stimulus.clock"}
    assert watch.check([], 2 * S + 2 * CLOCK_GOOD_AFTER_NS) == frozenset()


def told(source: str, at_s: float, bound_ns: int):
    clock = Clock(offset_ns=0, bound_ns=bound_ns, round_trip_ns=0)
    return seal(clock, source, f"{source}-1", 0, round(at_s * S)), clock


BOUNDS = ClockBounds(
    [*(told("imaging", t, 1000 * (t + 1)) for t in range(10)), *(told("stimulus", t, 50_000) for t in range(10))]
)


@pytest.mark.parametrize(
    ("one", "other", "first_s", "last_s", "expected_ns"),
    [
        ("imaging", "stimulus", 3.5, 3.6, 5_000 + 50_000),  # the worse of the readings around it
        ("imaging", "stimulus", 2.0, 6.0, 8_000 + 50_000),
        ("imaging", "stimulus", -5.0, -4.0, 1_000 + 50_000),
        ("imaging", "stimulus", 50.0, 60.0, 10_000 + 50_000),
        ("imaging", "imaging", 3.5, 3.6, 0),
        ("imaging", "actuation", 3.5, 3.6, None),
    ],
)
def test_a_latency_is_as_good_as_the_two_clocks_that_stamped_it(one, other, first_s, last_s, expected_ns):
    assert BOUNDS.between_ns(one, other, round(first_s * S), round(last_s * S)) == expected_ns
