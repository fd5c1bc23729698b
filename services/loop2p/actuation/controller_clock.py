"""What time it was on the host when the controller's clock said so."""

from collections import deque
from typing import NamedTuple

from loop2p.actuation.link import MICROS_WRAP

BLOCK = 8
"""Of this many exchanges in a row the one with the lowest round trip is believed."""
HISTORY = 32
"""Blocks that are remembered: the rate is taken over all of them (a minute at 4 exchanges a second)."""
LEAST_SPAN_NS = 2_000_000_000
"""The rate is taken as nominal until two believed exchanges lie this far apart."""
RATE_LIMIT = 0.01
"""A controller's clock is never further off than this (a ceramic resonator is within 0.5 %)."""


class Exchange(NamedTuple):
    round_trip_ns: int
    t_us: int
    """Controller time, unwrapped."""
    middle_ns: int
    """Host time half-way between asking and the answer: off by at most half the round trip."""


class ControllerClock:
    """Maps the controller's 32-bit microseconds to the host's perf_counter nanoseconds, from status exchanges."""

    def __init__(self) -> None:
        self._newest_us: int | None = None
        self._recent: deque[Exchange] = deque(maxlen=BLOCK)
        self._believed: deque[Exchange] = deque(maxlen=HISTORY)
        self._in_block = 0

    @property
    def ready(self) -> bool:
        return bool(self._recent)

    def add(self, asked_ns: int, t_us: int, answered_ns: int) -> None:
        """Take an exchange: asked and answered by the host's clock, `t_us` by the controller's, as on the wire."""
        if answered_ns < asked_ns:
            return
        exchange = Exchange(answered_ns - asked_ns, self._unwrap(t_us), (asked_ns + answered_ns) // 2)
        self._recent.append(exchange)
        self._in_block += 1
        if not self._believed or self._in_block == BLOCK:
            self._believed.append(min(self._recent))
            self._in_block = 0
        elif len(self._believed) == 1:  # the first block: keep its best
            self._believed[0] = min(self._believed[0], exchange)

    def to_host_ns(self, t_us: int) -> int:
        """Host time of a controller time, as on the wire. Raises ValueError before the first exchange."""
        if not self._recent:
            raise ValueError("no exchange with the controller's clock yet; ask for a status first")
        best = min(self._recent)
        return best.middle_ns + round((self._unwrap(t_us) - best.t_us) * self.ns_per_us)

    def at_latest_us(self, host_ns: int) -> int:
        """A controller time, as on the wire, that comes no later than this host time: what the best of the newest
        exchanges leaves open is taken off. Raises ValueError before the first exchange.
        """
        if not self._recent:
            raise ValueError("no exchange with the controller's clock yet; ask for a status first")
        best = min(self._recent)
        since_ns = host_ns - best.round_trip_ns // 2 - best.middle_ns
        return (best.t_us + int(since_ns / self.ns_per_us)) % MICROS_WRAP

    @property
    def ns_per_us(self) -> float:
        """Host nanoseconds in one microsecond of the controller's clock."""
        if not self._recent:
            return 1000.0
        first, best = self._believed[0], min(self._recent)
        if best.middle_ns - first.middle_ns < LEAST_SPAN_NS or best.t_us <= first.t_us:
            return 1000.0
        rate = (best.middle_ns - first.middle_ns) / (best.t_us - first.t_us)
        return min(max(rate, 1000 * (1 - RATE_LIMIT)), 1000 * (1 + RATE_LIMIT))

    @property
    def bound_ns(self) -> int | None:
        """A time that `to_host_ns` gives near the newest exchanges is within this; None before the first."""
        if not self._recent:
            return None
        return min(self._recent).round_trip_ns + self._believed[0].round_trip_ns // 2

    def _unwrap(self, t_us: int) -> int:
        """The 32-bit time nearest to the newest one seen, without its wraps."""
        if self._newest_us is None:
            self._newest_us = t_us
        ahead = (t_us - self._newest_us) % MICROS_WRAP
        if ahead >= MICROS_WRAP // 2:
            return self._newest_us + ahead - MICROS_WRAP
        self._newest_us += ahead
        return self._newest_us
