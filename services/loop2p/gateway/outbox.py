"""What waits for the broker. Pure: times come in, publications come out; memory is bounded whatever the broker does.

Two kinds: of what holds now the newest alone waits (a broker that comes back hears how things stand, not how they
were), and events wait in a queue of bounded length, in which the oldest give way.
"""

from collections import deque

from msgspec import Struct

INTERVAL_S = 1.0
"""What holds now is published at most this often, a topic."""
EVENTS = 200
"""So many events wait: trials of half an hour and more."""


class Publication(Struct, frozen=True):
    """One MQTT message."""

    topic: str
    payload: bytes
    qos: int = 1
    """0 for what is said every second anyway, else 1."""
    retain: bool = True


class _Newest(Struct):
    publication: Publication
    sent: bytes | None = None
    """What the broker has; None: nothing yet."""
    sent_s: float = float("-inf")


class Outbox:
    """`steady_s` is a clock that never steps, s."""

    def __init__(self) -> None:
        self._newest: dict[str, _Newest] = {}
        self._events: deque[Publication] = deque()
        self.lost = 0
        """Events that gave way to newer ones."""

    def __len__(self) -> int:
        return len(self._newest) + len(self._events)

    def hold(self, publication: Publication) -> None:
        """This holds now; an older one of its topic is forgotten."""
        slot = self._newest.setdefault(publication.topic, _Newest(publication))
        slot.publication = publication

    def add(self, event: Publication) -> None:
        """This happened."""
        if len(self._events) >= EVENTS:
            self._events.popleft()
            self.lost += 1
        self._events.append(event)

    def again(self) -> None:
        """A new connection: the broker may have forgotten, and hears all that holds."""
        for slot in self._newest.values():
            slot.sent, slot.sent_s = None, float("-inf")

    def due(self, steady_s: float) -> Publication | None:
        """What to publish next; it stays here until `done`."""
        for slot in self._newest.values():
            if slot.publication.payload != slot.sent and steady_s - slot.sent_s >= INTERVAL_S:
                return slot.publication
        return self._events[0] if self._events else None

    def done(self, publication: Publication, steady_s: float) -> None:
        """The broker has it."""
        slot = self._newest.get(publication.topic)
        if slot is not None:
            slot.sent, slot.sent_s = publication.payload, steady_s
        elif self._events and self._events[0] is publication:
            self._events.popleft()
