"""The rig clock from exchanges of stamps: its error is within its bound, whatever the network and the clocks do."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop2p.runtime.clock import KEEP, LONGEST_NS, RATE_LIMIT, RigClock

MS, S = 1_000_000, 1_000_000_000
SEED = 20261130


class Seen(NamedTuple):
    at_s: float
    error_ns: int
    bound_ns: int


class World:
    """Two clocks and a network between them. The reference runs `ppm` faster than the local clock, `ahead_ns` ahead."""

    def __init__(self, way: Callable[[], float], back: Callable[[], float], ppm: float = 0.0, ahead_ns: int = 10**18):
        self.way, self.back, self.ppm, self.ahead_ns = way, back, ppm, ahead_ns
        self.clock = RigClock(is_reference=False)
        self.now_s = 0.0
        self._turned = (0.0, 0.0)

    def local(self, true_s: float) -> int:
        return round(true_s * 1e9)

    def reference(self, true_s: float) -> int:
        at_s, gained_s = self._turned
        return round((true_s + gained_s + (true_s - at_s) * self.ppm * 1e-6) * 1e9) + self.ahead_ns

    def turn(self, ppm: float) -> None:
        """From now on the reference runs at another rate."""
        at_s, gained_s = self._turned
        self._turned = (self.now_s, gained_s + (self.now_s - at_s) * self.ppm * 1e-6)
        self.ppm = ppm

    def exchange(self) -> None:
        asked_s = self.now_s
        taken_s = asked_s + self.way()
        back_s = taken_s + 5e-5 + self.back()
        stamps = self.local(asked_s), self.reference(taken_s), self.reference(taken_s + 5e-5), self.local(back_s)
        self.clock.add_exchange(*stamps)
        self.now_s = max(self.now_s, back_s)

    def live(self, seconds: float, every_s: float = 0.1) -> Iterator[Seen]:
        """Exchanges for so long; before each the clock is held against the truth, at its worst since the last one."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            if self.clock.exchanges:
                yield self.look()
            self.exchange()
            self.now_s += every_s

    def look(self) -> Seen:
        local = self.local(self.now_s)
        error = self.clock.rig_ns(local) - self.reference(self.now_s)
        return Seen(self.now_s, error, self.clock.bound_at_ns(local))


def jitter(random: np.random.Generator, least_s: float, spread_s: float) -> Callable[[], float]:
    return lambda: float(random.uniform(least_s, least_s + spread_s))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    ppm=st.floats(-900, 900),
    way_s=st.floats(0, 0.05),
    back_s=st.floats(0, 0.05),
    spread_s=st.sampled_from([0.0, 1e-5, 1e-3, 2e-2]),
    burst=st.floats(0, 1),
)
def test_the_true_error_is_never_beyond_the_bound(seed, ppm, way_s, back_s, spread_s, burst):
    """Any delay each way, however unequal, any jitter, queues that come and go, any rate within the limit."""
    random = np.random.default_rng(seed)
    calm = jitter(random, way_s, spread_s), jitter(random, back_s, spread_s)

    def queued(ride: Callable[[], float]) -> Callable[[], float]:
        return lambda: ride() + (random.exponential(5e-3) if random.random() < burst else 0.0)

    world = World(queued(calm[0]), queued(calm[1]), ppm)
    for seen in world.live(8.0):
        assert abs(seen.error_ns) <= seen.bound_ns


@pytest.mark.parametrize("ppm", [0.0, 50.0, -50.0])
def test_through_jitter_of_half_a_millisecond_it_is_right_to_100_us(ppm: float):
    random = np.random.default_rng(SEED)
    world = World(jitter(random, 1.5e-3, 1e-3), jitter(random, 1.5e-3, 1e-3), ppm)
    settled = [seen for seen in world.live(120.0) if seen.at_s > 30]
    assert max(abs(seen.error_ns) for seen in settled) <= 100_000
    assert world.clock.rate == pytest.approx(ppm * 1e-6, abs=5e-6)


def test_half_of_an_asymmetry_is_the_error_and_the_bound_says_so():
    world = World(lambda: 7e-3, lambda: 1e-3)
    seen = list(world.live(5.0))[-1]
    assert seen.error_ns == pytest.approx(3 * MS, rel=0.01)
    assert 4 * MS <= seen.bound_ns < 4.2 * MS


def test_the_bound_grows_while_nothing_is_heard_and_shrinks_again():
    random = np.random.default_rng(SEED)
    world = World(jitter(random, 1e-4, 1e-5), jitter(random, 1e-4, 1e-5), 40.0)
    before = list(world.live(30.0))[-1]
    world.now_s += 60.0
    silent = world.look()
    world.exchange()
    after = world.look()
    assert abs(silent.error_ns) <= silent.bound_ns
    assert silent.bound_ns - before.bound_ns > 60 * 15_000, "15 us a second at least (RFC 5905)"
    assert after.bound_ns < 2 * before.bound_ns


@pytest.mark.parametrize("jump_ns", [50 * MS, -3600 * S])
def test_after_a_jump_everything_older_is_forgotten(jump_ns: int):
    world = World(lambda: 2e-4, lambda: 2e-4)
    list(world.live(20.0))
    world.ahead_ns += jump_ns
    world.exchange()
    seen = world.look()
    assert world.clock.restarts == 1
    assert abs(seen.error_ns) <= seen.bound_ns < 1 * MS


def test_a_rate_that_turns_is_noticed_within_what_the_bound_allows():
    """NTP begins to slew. What was vouched for on the old rate is given up as soon as an exchange contradicts it."""
    random = np.random.default_rng(SEED)
    world = World(jitter(random, 1e-4, 2e-5), jitter(random, 1e-4, 2e-5), 0.0)
    list(world.live(60.0))
    world.turn(500.0)
    seen = list(world.live(20.0))
    assert max(abs(s.error_ns) for s in seen) < 0.3 * MS
    assert world.clock.restarts >= 1
    assert all(abs(s.error_ns) <= s.bound_ns for s in seen[-100:])
    assert world.clock.rate == pytest.approx(500e-6, abs=10e-6)


def test_an_exchange_that_can_not_be_is_left_out():
    clock = RigClock(is_reference=False)
    impossible = [
        (100, 0, 500, 200),  # the answer took longer than asking and answering together
        (100, 500, 400, 200),  # answered before it was asked
        (0, 5, 6, LONGEST_NS + 1),
        (-(2**62), 2**62, 2**62, -(2**62) + 10),
        (0, 2**70, 2**70, 10),
    ]
    for stamps in impossible:
        clock.add_exchange(*stamps)
    assert (clock.exchanges, clock.bound_ns, clock.offset_ns) == (0, None, 0)


def test_the_reference_itself_is_off_by_nothing():
    clock = RigClock(is_reference=True)
    clock.add_exchange(0, 10**9, 10**9, 100)
    assert (clock.offset_ns, clock.bound_ns, clock.rate, clock.round_trip_ns) == (0, 0, 0.0, 100)


def test_only_the_last_exchanges_are_kept_and_offsets_of_decades_stay_exact():
    world = World(lambda: 1e-4, lambda: 1e-4, 0.0, ahead_ns=1_795_991_863_891_119_430)
    seen = list(world.live((KEEP + 50) * 0.1003))
    assert world.clock.exchanges == KEEP
    assert abs(seen[-1].error_ns) <= 2


def test_a_clock_beyond_the_limit_is_not_followed_beyond_it():
    world = World(lambda: 1e-4, lambda: 1e-4, 5000.0)
    list(world.live(5.0))
    assert abs(world.clock.rate) <= RATE_LIMIT
