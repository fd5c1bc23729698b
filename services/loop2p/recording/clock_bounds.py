"""How far two services' stamps may be apart because their machines' clocks are not known better."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from loop2p.protocol import Clock, Envelope


class ClockBounds:
    """The error bounds that each service published of its clock (rig.clock, 1 Hz); 0 on the reference's machine."""

    def __init__(self, clocks: Iterable[tuple[Envelope, Clock]]) -> None:
        self._told: dict[str, list[tuple[int, int]]] = {}
        for record, clock in clocks:
            if not record.header.resent:
                self._told.setdefault(record.header.source, []).append((record.header.sent_ns, clock.bound_ns))
        for told in self._told.values():
            told.sort()

    def most_ns(self, source: str, first_ns: int, last_ns: int) -> int | None:
        """The largest that held from `first_ns` to `last_ns` (rig clock): what was told meanwhile, just before and
        just after. None if the service never told one."""
        told = self._told.get(source)
        if not told:
            return None
        start = max(bisect_left(told, (first_ns, 0)) - 1, 0)
        stop = bisect_right(told, (last_ns, 1 << 62)) + 1
        return max(bound_ns for _, bound_ns in told[start:stop])

    def between_ns(self, one: str, other: str, first_ns: int, last_ns: int) -> int | None:
        """A difference of these two services' stamps is within +- this; 0 where one service stamped both."""
        if one == other:
            return 0
        bounds = [self.most_ns(source, first_ns, last_ns) for source in (one, other)]
        return None if None in bounds else sum(b for b in bounds if b is not None)
