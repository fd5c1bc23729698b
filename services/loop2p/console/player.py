"""A recorded session, played on the page: what it showed at any moment. Pure.

The page's view is made by the messages up to that moment, in the order in which recording had them. Copies of it are
kept on the way, so that going back begins at the copy before.
"""

import copy
from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from loop2p.console.core import TOPICS, PageView
from loop2p.protocol import Envelope, Heartbeat, Phase, Rig, Session, Trial

COPY_S = 60.0
"""A copy of the view is kept this often."""
BEAT_NS = 500_000_000
"""Heartbeats closer than this after one of the same service that said the same are left out: 120 a second of 200
messages, for a page that calls a service silent after 1 s."""


class Mark(Struct, frozen=True):
    """Something worth going to."""

    t_s: float
    """Since the recording's begin."""
    text: str


class Moment(Struct, frozen=True):
    """Where the player is."""

    t_s: float
    end_s: float
    playing: bool
    speed: float


class Player:
    """Times are seconds since the first record, by recording's rig clock."""

    def __init__(self, rig: Rig, budget_ms: float, records: Iterable[tuple[int, Envelope]]) -> None:
        """`records`: (rig clock in ns, message) as they were written. Raises ValueError if there are none."""
        self._records = _thinned(records)
        if not self._records:
            raise ValueError("nothing in the journal that the page shows")
        self._at_ns = [at_ns for at_ns, _ in self._records]
        self.end_s = (self._at_ns[-1] - self._at_ns[0]) / 1e9
        self.t_s = 0.0
        """This moment; also the steady clock of the view."""
        self.playing, self.speed = False, 1.0
        self._wall_s = self._begun_unix_s()
        self._next = 0
        """Index of the first record that the view has not taken."""
        self.view = PageView(rig, budget_ms)
        self._copies: list[tuple[float, int, PageView]] = [(0.0, 0, copy.deepcopy(self.view))]
        """Time, next record, view; in order of time."""
        self._go_on(self.end_s)  # all copies are made now, so that going anywhere later takes a moment only
        self.seek(0.0)

    @property
    def moment(self) -> Moment:
        return Moment(round(self.t_s, 2), round(self.end_s, 2), self.playing, self.speed)

    @property
    def unix_s(self) -> float:
        """The wall's time at this moment of the session."""
        return self._wall_s + self.t_s

    def marks(self) -> list[Mark]:
        """Phases, and how each trial ended."""
        found = []
        for at_ns, envelope in self._records:
            message = envelope.message if envelope.topic in (Phase.topic, Trial.topic) else None
            if isinstance(message, Phase):
                found.append(Mark(self._since_s(at_ns), message.phase.replace("_", " ")))
            elif isinstance(message, Trial) and message.edge != "start":
                found.append(Mark(self._since_s(at_ns), f"trial {message.trial}: {message.edge}"))
        return found

    def tick(self, dt_s: float) -> None:
        """Time goes on by `dt_s`, if it plays; at the end it stops."""
        if self.playing:
            self._go_on(min(self.t_s + self.speed * dt_s, self.end_s))
            self.playing = self.t_s < self.end_s

    def seek(self, t_s: float) -> None:
        """Go to a moment, from the copy before it unless this one is nearer."""
        t_s = min(max(t_s, 0.0), self.end_s)
        at_s, following, kept = self._copies[bisect_right(self._copies, t_s, key=lambda c: c[0]) - 1]
        if not at_s <= self.t_s <= t_s:
            samples = self.view.samples
            self._next, self.view = following, copy.deepcopy(kept)
            self.view.samples.begin_again(samples.count, samples.epoch + 1)
        self._go_on(t_s)

    def _go_on(self, t_s: float) -> None:
        while self._next < len(self._records):
            at_ns, envelope = self._records[self._next]
            at_s = self._since_s(at_ns)
            if at_s > t_s:
                break
            if at_s >= self._copies[-1][0] + COPY_S:
                self._copies.append((at_s, self._next, copy.deepcopy(self.view)))
            self.view.take(envelope, at_s, self._wall_s + at_s)
            self._next += 1
        self.t_s = t_s

    def _since_s(self, at_ns: int) -> float:
        return (at_ns - self._at_ns[0]) / 1e9

    def _begun_unix_s(self) -> float:
        """The wall's time of the first record: from the session's, which has both clocks. 0 where it is not known."""
        for at_ns, envelope in self._records:
            if isinstance(envelope.message, Session) and envelope.message.wall_time:
                return datetime.fromisoformat(envelope.message.wall_time).timestamp() - self._since_s(at_ns)
        return 0.0


def _thinned(records: Iterable[tuple[int, Envelope]]) -> list[tuple[int, Envelope]]:
    """What the page listens to, in order of time."""
    kept, last = [], dict[str, tuple[int, str, str]]()
    for at_ns, envelope in records:
        if envelope.topic not in TOPICS:
            continue
        if envelope.topic == Heartbeat.topic:
            beat, header = envelope.message, envelope.header
            assert isinstance(beat, Heartbeat)
            before_ns, instance, health = last.get(header.source, (-BEAT_NS, "", ""))
            if at_ns - before_ns < BEAT_NS and (instance, health) == (header.instance, beat.health):
                continue
            last[header.source] = at_ns, header.instance, beat.health
        kept.append((at_ns, envelope))
    kept.sort(key=lambda record: record[0])
    return kept
