"""The rig clock: the reference machine's perf_counter, as seen from here."""

import time
from collections import deque


class RigClock:
    """Local perf_counter plus the measured offset to the reference machine.

    On the reference machine the offset is 0. Elsewhere it comes from four-timestamp exchanges, of which
    those with the lowest round trip are believed (RFC 5905 section 8 for the formula).
    """

    def __init__(self, is_reference: bool = True, keep: int = 64) -> None:
        self.is_reference = is_reference
        self.offset_ns = 0
        self.bound_ns: int | None = 0 if is_reference else None
        self.round_trip_ns = 0
        self._samples: deque[tuple[int, int]] = deque(maxlen=keep)

    def now_ns(self) -> int:
        return time.perf_counter_ns() + self.offset_ns

    def add_exchange(self, t0_ns: int, t1_ns: int, t2_ns: int, t3_ns: int) -> None:
        """Take an exchange: t0, t3 by the local perf_counter, t1, t2 by the reference's."""
        round_trip = (t3_ns - t0_ns) - (t2_ns - t1_ns)
        if round_trip < 0:
            return
        offset = ((t1_ns - t0_ns) + (t2_ns - t3_ns)) // 2
        self._samples.append((round_trip, offset))
        self.round_trip_ns, best = min(self._samples)
        if not self.is_reference:
            self.offset_ns, self.bound_ns = best, self.round_trip_ns // 2
