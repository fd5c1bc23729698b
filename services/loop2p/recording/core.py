"""Is the record complete? What publishers say they have published, against what stands in the journal.

Every heartbeat of a service carries how many messages of each topic it has published so far. A PUB-SUB pipe keeps
its order, so from the first heartbeat (or message) of an instance on, everything it publishes must arrive:

    expected  from the count in its first heartbeat, or the lowest number seen if that is lower,
              up to the count in its last heartbeat, or the highest number seen + 1 if that is higher
    written   the different numbers of that range which stand in the journal

A state message sent again for somebody who joined late has its old number: it may fill a hole, and is never counted
twice. Of who stands by for a service (rig.swap) nothing is written; where two change places the rule begins anew.

An instance that ends without a last heartbeat (health "stopped") was killed or still running: what it published
after its last sign of life is unknown, and a note says up to when its record is known to be complete.
"""

from bisect import bisect_right
from itertools import pairwise

from loop2p.protocol import MESSAGES, Audit, Envelope, Heartbeat, Swap, TopicAudit, WireError

NOT_RECORDED = frozenset({"imaging.preview"})
"""Display only; recorded if asked for."""
RAW_ON_SITE = "imaging.raw (on site)"
"""Raw frames that imaging's machine writes itself, by the counters of imaging's heartbeat."""
RAW_EXPECTED, RAW_WRITTEN = "raw_expected", "raw_written"
MAX_RANGES = 5


class Runs:
    """Whole numbers kept as runs of neighbours: two numbers a run, however many messages."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, n: int) -> bool:
        """Add a number; False if it was there."""
        starts, stops = self._starts, self._stops
        k = bisect_right(starts, n) - 1  # the run that begins at or before n
        if k >= 0 and n < stops[k]:
            return False
        joins_left = k >= 0 and stops[k] == n
        joins_right = k + 1 < len(starts) and starts[k + 1] == n + 1
        if joins_left and joins_right:
            stops[k] = stops.pop(k + 1)
            starts.pop(k + 1)
        elif joins_left:
            stops[k] = n + 1
        elif joins_right:
            starts[k + 1] = n
        else:
            starts.insert(k + 1, n)
            stops.insert(k + 1, n + 1)
        return True

    def count(self, start: int, stop: int) -> int:
        """How many numbers of [start, stop) are in."""
        return sum(max(0, min(b, stop) - max(a, start)) for a, b in zip(self._starts, self._stops, strict=True))

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The holes in [start, stop), as (first, last) inclusive."""
        holes, at = [], start
        for a, b in zip(self._starts, self._stops, strict=True):
            if a >= stop:
                break
            if a > at:
                holes.append((at, a - 1))
            at = max(at, b)
        if at < stop:
            holes.append((at, stop - 1))
        return holes


class _Instance:
    """What one start of one service has said of itself."""

    def __init__(self, source: str, by_swap: bool = False) -> None:
        """`by_swap`: its word counts from a frame on, so its first heartbeat may count answers to earlier ones."""
        self.source, self.by_swap = source, by_swap
        self.first_seq = self.last_seq = -1
        self.first: Heartbeat | None = None
        self.last: Heartbeat | None = None
        self.last_ns = 0
        self.low: dict[str, int] = {}
        self.high: dict[str, int] = {}
        self.runs: dict[str, Runs] = {}

    def beat(self, seq: int, heartbeat: Heartbeat, log_ns: int) -> None:
        if self.first is None or seq < self.first_seq:
            self.first_seq, self.first = seq, heartbeat
        if self.last is None or seq > self.last_seq:
            self.last_seq, self.last, self.last_ns = seq, heartbeat, log_ns

    def bounds(self, topic: str) -> tuple[int, int]:
        """Numbers that must be in the journal, [start, stop)."""
        starts = [self.low[topic]] if topic in self.low else []
        stops = [self.high[topic] + 1] if topic in self.high else []
        if self.first is not None and self.last is not None:
            if not (self.by_swap and starts):
                starts.append(max(0, self.first.published.get(topic, 0)))
            stops.append(self.last.published.get(topic, 0))
        if not starts or not stops:
            return 0, 0
        return min(starts), max(min(starts), *stops)

    def topics(self) -> set[str]:
        return set(self.low) | set(self.high) | set(self.last.published if self.last is not None else ())


class Auditor:
    """Compares what was published with what was written. Messages may be given in any order."""

    def __init__(self, own: str = "recording", excluded: frozenset[str] = NOT_RECORDED) -> None:
        self.own = own
        """The recorder's own name: its heartbeats don't reach it, so only its numbers are checked."""
        self.excluded = excluded | {Audit.topic}
        self.unwritten = 0
        self._instances: dict[str, _Instance] = {}
        self._turned: dict[str, list[_Instance]] = {}
        """Source -> what its instances had said when two of it changed places."""
        self._acting: dict[str, str] = {}
        self._spans: dict[int, tuple[int, int]] = {}

    def take(self, envelope: Envelope, log_ns: int, segment: int = 1, written: bool = True) -> None:
        """Note a message that came in; `written` is False if it is not in the journal and never will be."""
        header, topic = envelope.header, envelope.topic
        first, last = self._spans.get(segment, (log_ns, log_ns))
        self._spans[segment] = min(first, log_ns), max(last, log_ns)
        one = self._instances.get(header.instance)
        if one is None:
            one = self._instances[header.instance] = _Instance(header.source, header.source in self._turned)
        if not header.resent:
            one.low[topic] = min(header.seq, one.low.get(topic, header.seq))
            one.high[topic] = max(header.seq, one.high.get(topic, header.seq))
        if written:
            runs = one.runs.get(topic)
            if runs is None:
                runs = one.runs[topic] = Runs()
            runs.add(header.seq)
        elif topic not in self.excluded:
            self.unwritten += 1
        if topic == Swap.topic:
            self._swap(envelope)
        if topic == Heartbeat.topic:
            try:
                beat = envelope.message
            except WireError:
                return  # in the journal as it came; its sender is at fault
            assert isinstance(beat, Heartbeat)
            one.beat(header.seq, beat, log_ns)

    def _swap(self, envelope: Envelope) -> None:
        try:
            swap = envelope.message
        except WireError:
            return  # in the journal as it came
        assert isinstance(swap, Swap)
        before = self._acting.get(swap.service)
        self._acting[swap.service] = swap.acting.publish
        if before is None or before == swap.acting.publish or swap.stage == "none":
            return
        self._turned.setdefault(swap.service, [])
        for instance in [k for k, one in self._instances.items() if one.source == swap.service]:
            self._turned[swap.service].append(self._instances.pop(instance))

    def audit(self, segments: int = 1) -> Audit:
        """The verdict so far."""
        totals: dict[str, list[int]] = {}
        notes: list[str] = []
        turned = [(f"a {source} of before a swap", one) for source, ones in self._turned.items() for one in ones]
        for instance, one in sorted([*self._instances.items(), *turned], key=lambda item: (item[1].source, item[0])):
            for topic in sorted(one.topics() & set(MESSAGES) - self.excluded):
                start, stop = one.bounds(topic)
                runs = one.runs.get(topic, Runs())
                written = runs.count(start, stop)
                total = totals.setdefault(topic, [0, 0])
                total[0] += stop - start
                total[1] += written
                if written < stop - start:
                    holes = _ranges(runs.missing(start, stop))
                    notes.append(
                        f"{topic} of {instance}: {stop - start - written} of {stop - start} missing, numbers {holes}"
                    )
            self._site_counts(one, totals)
        if RAW_ON_SITE in totals:
            expected, written = totals[RAW_ON_SITE]
            if written < expected:
                notes.append(f"{RAW_ON_SITE}: {expected - written} of {expected} frames missing")
        complete = all(expected == written for expected, written in totals.values())
        notes += self._endings() + self._restarts()
        if self.unwritten:
            notes.append(f"{self.unwritten} messages could not be written: the disk did not take them")
        topics = {topic: TopicAudit(*total) for topic, total in sorted(totals.items()) if total[0]}
        return Audit(complete=complete, topics=topics, segments=max(segments, len(self._spans)), notes=notes)

    def _site_counts(self, one: _Instance, totals: dict[str, list[int]]) -> None:
        """Frames that imaging itself put in a file, from its own counters."""
        if one.first is None or one.last is None or RAW_EXPECTED not in one.last.counters:
            return
        total = totals.setdefault(RAW_ON_SITE, [0, 0])
        before = one.first.counters if one.first_seq > 0 else {}  # its very first heartbeat: it began at 0 here
        for k, name in enumerate((RAW_EXPECTED, RAW_WRITTEN)):
            total[k] += max(0, one.last.counters.get(name, 0) - before.get(name, 0))

    def _endings(self) -> list[str]:
        """Instances whose last count is not known."""
        start = min((first for first, _ in self._spans.values()), default=0)
        notes = []
        for instance, one in sorted(self._instances.items()):
            if one.source == self.own:
                continue
            if one.last is None and one.source in self._turned:
                continue  # its last frames before another one acted
            if one.last is None:
                notes.append(f"{instance} sent no heartbeat: only gaps in its numbers could be seen")
            elif one.last.health != "stopped":
                at = (one.last_ns - start) / 1e9
                notes.append(
                    f"{instance} gave no last count (killed, or still running): its record is known to be complete "
                    f"up to its last heartbeat, {at:.3f} s after the journal's begin"
                )
        return notes

    def _restarts(self) -> list[str]:
        """Times in which no recorder was there."""
        spans = [self._spans[k] for k in sorted(self._spans)]
        start = spans[0][0] if spans else 0
        return [
            f"recording was restarted: nothing was written from {(end - start) / 1e9:.3f} s "
            f"to {(begin - start) / 1e9:.3f} s after the journal's begin"
            for (_, end), (begin, _) in pairwise(spans)
        ]


def _ranges(holes: list[tuple[int, int]]) -> str:
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in holes[:MAX_RANGES])
    return text + (f" and {len(holes) - MAX_RANGES} more stretches" if len(holes) > MAX_RANGES else "")
