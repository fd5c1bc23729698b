"""The rig clock: the reference machine's perf_counter, as seen from here."""

import time

import numpy as np
from numpy.typing import NDArray

RATE_LIMIT = 1e-3
"""Two clocks never differ by more: a bad crystal (100 ppm) while NTP slews it (500 ppm), and something to spare."""
RATE_PRIOR = 4e-4
"""How much the rates of two clocks differ as a rule (a crystal 100 ppm, NTP 500 while it slews): what is believed until
exchanges say better, so that the first few of them do not tilt the line."""
HALVINGS = 28
"""Of twice the rate limit: to 7e-12, less than 1 ns in the minute that is remembered."""
WANDER = 15e-6
"""How fast a clock may leave the rate that was measured: the PHI of RFC 5905."""
NOISE_NS = 20_000
"""Of the best of exchanges: two processes are not woken at once, even where the wire takes no time."""
KEEP = 600
"""Exchanges that are remembered: a minute of them."""
LONGEST_NS = 10_000_000_000
"""An answer that took longer answers nothing that was asked of late."""


class RigClock:
    """Local perf_counter plus the measured offset to the reference machine, which grows at the measured rate.

    On the reference machine the offset is 0. Elsewhere it comes from four-timestamp exchanges (RFC 5905 section 8).
    Each says for certain that the offset lies within half its round trip of what it measured. Offset and rate are the
    middle of the widest straight corridor between all that the last `keep` said (`corridor`): the quickest ways there
    make one of its walls, the quickest ways back the other, and no exchange need have been quick both ways. The bound
    is the best that any one of them vouches for, that line's distance from it included, and grows with the time since
    then by what the rate may be off.
    It covers any asymmetry of the two ways, which no exchange can show.

    An exchange that the line contradicts says that a clock has jumped, or changed its rate (a machine slept, NTP
    slews): everything older is forgotten.
    """

    def __init__(self, is_reference: bool = True, keep: int = KEEP) -> None:
        self.is_reference = is_reference
        self.round_trip_ns = 0
        """Of the shortest exchange that is remembered."""
        self.restarts = 0
        """How often everything was forgotten."""
        self.exchanges = 0
        """How many are remembered."""
        self._whole_ns = np.zeros((2, keep), dtype=np.int64)
        """Of each exchange, in no order: local time of its middle, offset measured."""
        self._trip_ns = np.zeros((2, keep))
        """Of each exchange: round trip, and how far its offset may be off for certain."""
        self._next = 0
        self._line = (0, 0, 0.0)
        """Local time, the offset there, and its rate; replaced as a whole, since other threads read it."""
        self._bound = (0, 0.0, 0.0)
        """Local time, the bound there (ns), and how fast it grows."""

    def now_ns(self) -> int:
        return self.rig_ns(time.perf_counter_ns())

    def rig_ns(self, local_ns: int) -> int:
        """The rig clock when the local perf_counter showed this."""
        at_ns, offset_ns, rate = self._line
        return local_ns + offset_ns + round(rate * (local_ns - at_ns))

    @property
    def offset_ns(self) -> int:
        """Add to the local perf_counter of just now to get the rig clock."""
        local_ns = time.perf_counter_ns()
        return self.rig_ns(local_ns) - local_ns

    @offset_ns.setter
    def offset_ns(self, value: int) -> None:
        self._line = (0, value, 0.0)

    @property
    def rate(self) -> float:
        """How fast the offset grows: 5e-5 where the local clock loses 50 us in a second against the reference."""
        return self._line[2]

    @property
    def bound_ns(self) -> int | None:
        """The true offset lies within +- this of `offset_ns` now; None before the first exchange."""
        if self.is_reference:
            return 0
        return self.bound_at_ns(time.perf_counter_ns()) if self.exchanges else None

    def bound_at_ns(self, local_ns: int) -> int:
        """The same for a local time that is not before the newest exchange."""
        at_ns, bound_ns, growth = self._bound
        return int(bound_ns + growth * (local_ns - at_ns)) + 1

    def add_exchange(self, t0_ns: int, t1_ns: int, t2_ns: int, t3_ns: int) -> None:
        """Take an exchange: t0, t3 by the local perf_counter, t1, t2 by the reference's.

        One that can't be (its answer came before it was asked, or of another day) is left out.
        """
        round_trip_ns = (t3_ns - t0_ns) - (t2_ns - t1_ns)
        if not (round_trip_ns >= 0 and t1_ns <= t2_ns and t3_ns - t0_ns <= LONGEST_NS and abs(t1_ns - t0_ns) < 1 << 62):
            return
        if self.is_reference:
            self.round_trip_ns = round_trip_ns
            return
        half_ns = round_trip_ns / 2 + RATE_LIMIT * (t3_ns - t0_ns) / 2  # the clocks go on during the exchange
        at_ns, offset_ns = (t0_ns + t3_ns) // 2, ((t1_ns - t0_ns) + (t2_ns - t3_ns)) // 2
        if self.exchanges and abs(self.rig_ns(at_ns) - at_ns - offset_ns) > half_ns + NOISE_NS:
            self.exchanges = self._next = 0
            self.restarts += 1
        keep = self._trip_ns.shape[1]
        self._whole_ns[:, self._next] = at_ns, offset_ns
        self._trip_ns[:, self._next] = round_trip_ns, half_ns
        self._next = (self._next + 1) % keep
        self.exchanges = min(self.exchanges + 1, keep)
        self._fit(at_ns, offset_ns)

    def _fit(self, at_ns: int, offset_ns: int) -> None:
        """The line, and what it is worth, from the newest exchange's time and offset on."""
        n = self.exchanges
        since_ns, over_ns = (self._whole_ns[:, :n] - [[at_ns], [offset_ns]]).astype(float)
        trip_ns, half_ns = self._trip_ns[:, :n]
        here_ns, rate = corridor(since_ns, over_ns + trip_ns / 2, trip_ns / 2 - over_ns)
        off_by = _rate_error(since_ns, over_ns, half_ns, rate) + WANDER
        vouched_ns = half_ns + np.abs(here_ns + rate * since_ns - over_ns) - off_by * since_ns
        self.round_trip_ns = int(trip_ns.min())
        self._line = at_ns, offset_ns + round(here_ns), rate
        self._bound = at_ns, float(vouched_ns.min()), off_by


def corridor(
    since_ns: NDArray[np.float64], most_ns: NDArray[np.float64], least_ns: NDArray[np.float64]
) -> tuple[float, float]:
    """Offset at 0 and rate of the middle of the widest straight corridor that no exchange reaches into. All (n,): each
    exchange says that the offset is at most `most_ns` and at least -`least_ns`.

    The width is concave in the rate, so halving finds where it is greatest. What made single exchanges late, on either
    way, only keeps them off the walls.
    """
    low, high = -RATE_LIMIT, RATE_LIMIT
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        above, below = np.argmin(most_ns - rate * since_ns), np.argmin(least_ns + rate * since_ns)
        wider_ns = since_ns[below] - since_ns[above] - NOISE_NS * rate / RATE_PRIOR**2
        low, high = (rate, high) if wider_ns > 0 else (low, rate)
    above_ns, below_ns = (most_ns - rate * since_ns).min(), (least_ns + rate * since_ns).min()
    return float(above_ns - below_ns) / 2, rate


def _rate_error(
    since_ns: NDArray[np.float64], over_ns: NDArray[np.float64], half_ns: NDArray[np.float64], rate: float
) -> float:
    """How far the true rate may lie from `rate`, by the best exchanges of the first and the last quarter. All (n,)."""
    oldest = since_ns.min()
    early = int(np.argmin(np.where(since_ns <= 0.75 * oldest, half_ns, np.inf)))
    late = int(np.argmin(np.where(since_ns >= 0.25 * oldest, half_ns, np.inf)))
    low, high = -RATE_LIMIT, RATE_LIMIT
    span_ns = since_ns[late] - since_ns[early]
    if span_ns > 0:
        middle = (over_ns[late] - over_ns[early]) / span_ns
        either = (half_ns[late] + half_ns[early]) / span_ns
        low, high = max(low, middle - either), min(high, middle + either)
    return float(max(high - rate, rate - low, 0.0))
