"""Prometheus metrics of one service. The runtime's are the same for every service, so one dashboard fits all; a
role's own counts and values stand beside them under the role's name."""

import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from loop2p.protocol import Accepted, Alarm, Done, Message, Output, Show, Shown, Traces

disable_created_metrics()  # type: ignore[no-untyped-call]

BUCKETS_S = (*(round(base * 10.0**power, 7) for power in range(-4, 0) for base in (1, 1.5, 2.2, 3.3, 5, 7)), 1.0)
"""0.1 ms to 1 s, six a decade."""
UNITS = {
    "_s": ("_seconds", 1.0),
    "_ms": ("_seconds", 1e-3),
    "_ul": ("_liters", 1e-6),
    "_nl": ("_liters", 1e-9),
    "_px": ("_pixels", 1.0),
    "_deg": ("_degrees", 1.0),
    "_hz": ("_hertz", 1.0),
}
"""How a role's name ends -> how the metric's name ends, and by what the value is multiplied."""
REASONS = ("malformed", "source", "duplicate", "request", "reply", "stranger")
"""Why the runtime rejects a message. All stand at 0 from the start: the first one is a rise, too."""
ENDS: dict[type[Message], tuple[str, str]] = {
    Traces: ("traces", ""),
    Output: ("control", ""),
    Show: ("decision", ""),
    Accepted: ("command", "received_ns"),
    Shown: ("shown", "flip_ns"),
    Done: ("valve", "open_ns"),
    Alarm: ("alarm", ""),
}
"""Messages that end a way from a frame -> what `to` calls it, and the field with the moment; none: when it was sent."""
AGE_BEATS = 100
"""Heartbeats that the largest queue age is kept for: 5 s, then up to 5 s more, so that no scrape misses it."""
LED_IDS = 64
"""LED commands remembered until their `Done`; the controller keeps as many."""

SWITCH_S = 0.0005
"""Whoever asks for metrics holds the loop up for at most so long at a time. A page takes some 15 ms; by Python's
default of 5 ms a loop that woke meanwhile went on 5.2 ms later (median; p99 10.8), by this 0.7 (5.3)."""

Note = tuple[Any, str, float | None]


class Metrics:
    """Counts and latencies of one service, and the HTTP endpoint that shows them.

    What happens for every message is only noted, and counted at the next `flush`: the loop does not wait for it.
    """

    def __init__(self, service: str, clock_limit_s: float = float("inf")) -> None:
        """`clock_limit_s`: the rig file's limit of the clock's error bound, for alerts to compare with."""
        self.registry = CollectorRegistry()

        def labelled(kind: type, name: str, text: str, labels: list[str], **more: object):  # type: ignore[no-untyped-def]
            return kind(f"loop2p_{name}", text, ["service", *labels], registry=self.registry, **more)

        self._received = labelled(Counter, "messages_received_total", "Messages taken from the bus", ["topic"])
        self._published = labelled(Counter, "messages_published_total", "Messages published", ["topic"])
        self._gaps = labelled(Counter, "sequence_gaps_total", "Messages missed, by sequence number", ["source"])
        self._rejected = labelled(Counter, "messages_rejected_total", "Messages dropped, by reason", ["reason"])
        self._superseded = labelled(Counter, "messages_superseded_total", "Overtaken by a newer one", ["topic"])
        self._hop = labelled(Histogram, "hop_seconds", "Sent to in hand", ["source"], buckets=BUCKETS_S)
        self._loop = labelled(Histogram, "loop_seconds", "Frame's last byte in to effect", ["to"], buckets=BUCKETS_S)
        self._handling = labelled(Histogram, "handling_seconds", "In hand to handled", ["topic"], buckets=BUCKETS_S)
        self._queue = labelled(Gauge, "queue_depth", "Messages waiting when last looked", []).labels(service)
        self._queue_age = labelled(Gauge, "queue_age_seconds", "Oldest message taken in the last 5 to 10 s", ["source"])
        self._offset = labelled(Gauge, "clock_offset_seconds", "Local clock to rig clock", []).labels(service)
        self._bound = labelled(Gauge, "clock_bound_seconds", "Error bound of the offset", []).labels(service)
        limit = labelled(Gauge, "clock_bound_limit_seconds", "The rig file's limit of that bound", [])
        limit.labels(service).set(clock_limit_s)
        self._age = labelled(Gauge, "heartbeat_age_seconds", "Since a peer was last heard", ["peer"])
        self._realtime = labelled(Gauge, "realtime_priority", "Of the loop now; 0: ordinary scheduling", [])
        self._realtime.labels(service).set(0)
        self._alarm = labelled(Gauge, "alarm_active", "1 while this service's alarm stands", ["code"])
        self._role = _Role(service)
        self.registry.register(self._role)
        ProcessCollector(registry=self.registry)  # memory and processor time; Linux only
        self._service = service
        self._children: dict[tuple[str, str], object] = {}
        self._server: object = None
        self._waiting: list[Note] = []
        self._led_ids: deque[int] = deque(maxlen=LED_IDS)
        self._oldest: dict[str, float] = {}
        self._oldest_before: dict[str, float] = {}
        self._beats = 0
        for reason in REASONS:
            self._child(self._rejected, reason)

    def _child(self, metric, label: str):  # type: ignore[no-untyped-def]
        key = (metric._name, label)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(self._service, label)
        return child

    def received(self, topic: str, source: str, hop_ns: int | None) -> None:
        """`hop_ns`: sent to in hand; None where that says nothing (sent again for a late joiner, clock not known)."""
        self._waiting.append((self._received, topic, None))
        if hop_ns is not None:
            self._waiting.append((self._hop, source, max(hop_ns, 0) / 1e9))

    def handled(self, topic: str, took_ns: int) -> None:
        self._waiting.append((self._handling, topic, took_ns / 1e9))

    def published(self, message: Message, sent_ns: int) -> None:
        self._waiting.append((self._published, message.topic, None))
        end = ENDS.get(type(message))
        if end is None:
            return
        to, stamp = end
        if isinstance(message, Alarm):
            self._child(self._alarm, message.code).set(message.active)
            return
        cause = message.cause
        if cause is None:
            return
        if isinstance(message, Done) and not message.volume_ul > 0:
            if message.id not in self._led_ids:
                return  # 0 ul: nothing has opened
            to = "led"
        at_ns = getattr(message, stamp) if stamp else sent_ns
        self._waiting.append((self._loop, to, (at_ns - cause.arrival_ns) / 1e9))

    def led_command(self, command_id: int) -> None:
        """A command to arm or disarm the LED was taken; its `Done` ends the way to the LED."""
        self._led_ids.append(command_id)

    def flush(self) -> None:
        """Count what was noted; the runtime calls it with each heartbeat, and before the endpoint closes."""
        waiting, self._waiting = self._waiting, []
        oldest = self._oldest
        for metric, label, seconds in waiting:
            child = self._child(metric, label)
            if seconds is None:
                child.inc()
                continue
            child.observe(seconds)
            if metric is self._hop and seconds >= oldest.get(label, 0.0):
                oldest[label] = seconds
        before = self._oldest_before
        for source in oldest.keys() | before.keys():
            self._child(self._queue_age, source).set(max(oldest.get(source, 0.0), before.get(source, 0.0)))
            self._child(self._gaps, source)  # at 0 before the first one is missed
        self._beats += 1
        if self._beats % AGE_BEATS == 0:
            self._oldest_before, self._oldest = oldest, dict.fromkeys(oldest, 0.0)

    def gap(self, source: str, missed: int) -> None:
        self._child(self._gaps, source).inc(missed)

    def rejected(self, reason: str) -> None:
        self._child(self._rejected, reason).inc()

    def superseded(self, topic: str) -> None:
        self._child(self._superseded, topic).inc()

    def queue(self, depth: int) -> None:
        self._queue.set(depth)

    def clock(self, offset_ns: int, bound_ns: int | None) -> None:
        self._offset.set(offset_ns / 1e9)
        self._bound.set(float("inf") if bound_ns is None else bound_ns / 1e9)

    def heartbeat_age(self, peer: str, age_s: float) -> None:
        self._child(self._age, peer).set(age_s)

    def realtime(self, priority: int) -> None:
        """0: ordinary scheduling."""
        self._realtime.labels(self._service).set(priority)

    def role(self, counters: dict[str, int], gauges: dict[str, float]) -> None:
        """The role's own counts and present values; they are named when somebody asks."""
        self._role.latest = dict(counters), dict(gauges)

    def serve(self, address: str) -> None:
        """Start the HTTP endpoint, "host:port"."""
        sys.setswitchinterval(SWITCH_S)
        host, port = address.rsplit(":", 1)
        self._server, _ = start_http_server(int(port), host, registry=self.registry)

    def close(self) -> None:
        self.flush()
        if self._server is not None:
            self._server.shutdown()  # type: ignore[attr-defined]
            self._server.server_close()  # type: ignore[attr-defined]


class _Role(Collector):
    """What the role counts and holds, as metrics named when they are asked for."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.latest: tuple[dict[str, int], dict[str, float]] = {}, {}

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        counters, gauges = self.latest
        yield from _families(CounterMetricFamily, self.service, counters.items())
        yield from _families(GaugeMetricFamily, self.service, gauges.items())

    def describe(self) -> Iterable[CounterMetricFamily]:
        return ()


def _families(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily], service: str, values: Iterable[tuple[str, float]]
) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
    """One family a name; values that differ by plane alone share theirs."""
    found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    taken = set()
    for name, value in values:
        full, plane, factor = role_name(service, name)
        if kind is CounterMetricFamily:
            full += "_total"
        if (full, plane) in taken:
            continue  # two names that differ in what a metric's name can't say: the first stands
        taken.add((full, plane))
        labels = ["service"] if plane is None else ["service", "plane"]
        what = "Counted" if kind is CounterMetricFamily else "Present value, told"
        family = found.setdefault(full, kind(full, f"{what} by {service} itself, as {name}", labels=labels))
        family.add_metric([service] if plane is None else [service, plane], value * factor)
    return found.values()


def role_name(service: str, name: str) -> tuple[str, str | None, float]:
    """A role's own name -> the metric's name (without _total), the plane if it names one, and the factor to its unit.

    "shift_y_px_plane1" of imaging is loop2p_imaging_shift_y_pixels of plane 1. Prometheus counts in base units.
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII).removesuffix("_total")
    plane: str | None = None
    found = re.fullmatch(r"(\w+)_plane(\d+)", name)
    if found:
        name, plane = found[1], found[2]
    factor = 1.0
    for end, (full, times) in UNITS.items():
        if name.endswith(end):
            name, factor = name.removesuffix(end) + full, times
            break
    return f"loop2p_{service}_{name}", plane, factor
