"""Whose word counts while two fill one role: a service that acts, and another that stands by for it. Pure."""

from collections import deque

from loop2p.protocol import MESSAGES, Alarm, Envelope, Header

KEPT = 64
"""Messages that answer a frame, kept of whom stands by: two seconds of them at 30.92 Hz, for a peer that hears late of
an exchange."""
LATE_NS = 2_000_000_000
"""So long after an exchange its frame index stops to matter: an imaging that was started again counts from 0."""


class Standby:
    """One service's pair, as one of its listeners sees it."""

    def __init__(self) -> None:
        self._recent: deque[Envelope] = deque(maxlen=KEPT)
        self._state: dict[tuple[str, str], Envelope] = {}
        self._from_frame = 0
        self._until_ns = 0
        self._acting_begun = self._predecessor_over = True

    def counts(self, header: Header, acting: bool, now_ns: int) -> bool:
        """Is a message of the one that acts (or of the one that stands by) to be obeyed?

        Around an exchange the cause decides: frames before `from_frame` are the predecessor's, later ones its
        successor's. Messages without a cause are the acting one's.
        """
        if header.cause is None or (self._acting_begun and self._predecessor_over):
            return acting
        reached = header.cause.frame >= self._from_frame or now_ns > self._until_ns
        if acting:
            self._acting_begun = self._acting_begun or reached
            return self._acting_begun
        self._predecessor_over = self._predecessor_over or reached
        return not self._predecessor_over

    def keep(self, envelope: Envelope) -> None:
        """What whom stands by has said, in case its turn comes."""
        if envelope.header.cause is not None:
            self._recent.append(envelope)
        elif MESSAGES[envelope.topic].state:
            code = envelope.message.code if envelope.topic == Alarm.topic else ""  # type: ignore[attr-defined]
            self._state[envelope.topic, code] = envelope

    def exchange(self, from_frame: int, now_ns: int) -> list[Envelope]:
        """The two change places; returns what the new one has said that counts already."""
        self._from_frame, self._until_ns = from_frame, now_ns + LATE_NS
        said = [e for e in self._recent if e.header.cause is not None and e.header.cause.frame >= from_frame]
        out = [*self._state.values(), *said]
        self._recent.clear()
        self._state.clear()
        self._acting_begun, self._predecessor_over = bool(said), False
        return out
