"""Sequence numbers: what was missed, what came twice."""

from loop2p.protocol import Header

INSTANCES = 100
"""Of a source, per topic. A service starts again a few times a day; a flood of made-up names must not fill memory."""


class Sequences:
    """Keeps the last number per source, instance and topic, of each source's newest instances."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], dict[str, int]] = {}

    def check(self, topic: str, header: Header) -> int | None:
        """How many messages were missed before this one; None if it is one that was seen already.

        The first message of an instance is no gap: one has joined late. Nor is a state message sent again.
        """
        instances = self._last.setdefault((header.source, topic), {})
        last = instances.get(header.instance)
        if last is not None and header.seq <= last:
            return None
        if last is None and len(instances) >= INSTANCES:
            del instances[next(iter(instances))]  # the oldest
        instances[header.instance] = header.seq
        return 0 if last is None or header.resent else header.seq - last - 1
