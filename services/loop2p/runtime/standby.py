"""Whose word counts while two fill one role: a service that acts, and another that stands by for it. Pure."""

from collections import deque
from typing import Literal

from loop2p.protocol import MESSAGES, Alarm, Envelope

KEPT = 64
"""Messages that answer a frame, kept of whom stands by: four seconds of them at 15.46 Hz, for a peer that hears late of
an exchange."""
PATIENCE_NS = 65_000_000
"""So long the new one's first word waits for the old one's last: a frame of one plane. The old one may be slow."""
OPEN_NS = 2_000_000_000
"""So long after an exchange its frame index stops to matter: an imaging that was started again may count from 0."""

Verdict = Literal["take", "keep", "drop", "hold"]


class Standby:
    """One service's pair, as one of its listeners sees it.

    At an exchange messages that answer a frame count by that frame: before `from_frame` the old one's, later ones the
    new one's, in this order. Messages without a frame are the acting one's from the moment that the exchange is heard.
    """

    def __init__(self) -> None:
        self._recent: deque[Envelope] = deque(maxlen=KEPT)
        self._state: dict[tuple[str, str], Envelope] = {}
        self._held: list[Envelope] = []
        self._held_ns = 0
        self._from_frame = 0
        self._open_until_ns = 0
        self._old_over = self._new_begun = True
        """The old one has no more to say of earlier frames; the new one has come to its first."""

    def judge(self, envelope: Envelope, acting: bool, now_ns: int) -> Verdict:
        """What becomes of a message of the one that acts, or of the one that stands by."""
        cause = envelope.header.cause
        if now_ns >= self._open_until_ns:
            self._old_over = self._new_begun = True
        if cause is None or (self._old_over and self._new_begun):
            return "take" if acting else "keep"
        later = cause.frame >= self._from_frame
        if acting:
            self._new_begun = self._new_begun or later
            return "drop" if not self._new_begun else "take" if self._old_over else "hold"
        self._old_over = self._old_over or later
        return "keep" if self._old_over else "take"

    def hold(self, envelope: Envelope, now_ns: int) -> None:
        """The new one's word waits for the old one's last."""
        if not self._held:
            self._held_ns = now_ns
        self._held.append(envelope)

    def keep(self, envelope: Envelope) -> None:
        """What whom stands by has said, in case its turn comes."""
        if envelope.header.cause is not None:
            self._recent.append(envelope)
        elif MESSAGES[envelope.topic].state:
            code = envelope.message.code if envelope.topic == Alarm.topic else ""  # type: ignore[attr-defined]
            self._state[envelope.topic, code] = envelope

    def exchange(self, from_frame: int, now_ns: int) -> list[Envelope]:
        """The two change places; returns the new one's state, which counts at once."""
        self._from_frame, self._open_until_ns = from_frame, now_ns + OPEN_NS
        self._old_over = self._new_begun = False
        state = list(self._state.values())
        for said in self._recent:
            if said.header.cause is not None and said.header.cause.frame >= from_frame:
                self.hold(said, now_ns)
                self._new_begun = True
        self._recent.clear()
        self._state.clear()
        return state

    def released(self, now_ns: int) -> list[Envelope]:
        """What was held and may be taken now."""
        if not self._held or (not self._old_over and now_ns < self._held_ns + PATIENCE_NS):
            return []
        self._old_over = True
        out, self._held = self._held, []
        return out
