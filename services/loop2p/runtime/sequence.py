"""Sequence numbers: what was missed, what came twice."""

from loop2p.protocol import Header


class Sequences:
    """Keeps the last number per source, instance and topic."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], int] = {}

    def check(self, topic: str, header: Header) -> int | None:
        """How many messages were missed before this one; None if it is one that was seen already.

        The first message of an instance is no gap: one has joined late. Nor is a state message sent again.
        """
        key = (header.source, header.instance, topic)
        last = self._last.get(key)
        if last is not None and header.seq <= last:
            return None
        self._last[key] = header.seq
        return 0 if last is None or header.resent else header.seq - last - 1
