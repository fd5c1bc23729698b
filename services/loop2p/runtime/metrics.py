"""Prometheus metrics of one service. Names and types are the same for every service, so one dashboard fits all."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from loop2p.protocol import Accepted, Done, Message, Shown

disable_created_metrics()  # type: ignore[no-untyped-call]

BUCKETS_S = (*(round(base * 10.0**power, 7) for power in range(-4, 0) for base in (1, 1.5, 2.2, 3.3, 5, 7)), 1.0)
"""0.1 ms to 1 s, six a decade."""


class Metrics:
    """Counts and latencies of one service, and the HTTP endpoint that shows them."""

    def __init__(self, service: str) -> None:
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
        self._offset = labelled(Gauge, "clock_offset_seconds", "Local clock to rig clock", []).labels(service)
        self._bound = labelled(Gauge, "clock_bound_seconds", "Error bound of the offset", []).labels(service)
        self._age = labelled(Gauge, "heartbeat_age_seconds", "Since a peer was last heard", ["peer"])
        self._role_count = labelled(Counter, "role_events_total", "The role's own counts", ["event"])
        self._role_value = labelled(Gauge, "role_value", "The role's own present values, unit in the name", ["name"])
        self._service = service
        self._children: dict[tuple[str, str], object] = {}
        self._counted: dict[str, int] = {}
        self._server: object = None
        self._waiting: list[tuple[Any, str, float | None]] = []

    def _child(self, metric, label: str):  # type: ignore[no-untyped-def]
        key = (metric._name, label)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(self._service, label)
        return child

    # What happens for every message is only noted, and counted at the next `flush`: the loop does not wait for it.

    def received(self, topic: str, source: str, hop_ns: int) -> None:
        self._waiting += ((self._received, topic, None), (self._hop, source, max(hop_ns, 0) / 1e9))

    def handled(self, topic: str, took_ns: int) -> None:
        self._waiting.append((self._handling, topic, took_ns / 1e9))

    def published(self, message: Message) -> None:
        self._waiting.append((self._published, message.topic, None))
        cause = message.cause
        if cause is None:
            return
        if isinstance(message, Accepted):
            self._waiting.append((self._loop, "command", (message.received_ns - cause.arrival_ns) / 1e9))
        elif isinstance(message, Shown):
            self._waiting.append((self._loop, "shown", (message.flip_ns - cause.arrival_ns) / 1e9))
        elif isinstance(message, Done) and message.volume_ul > 0:
            self._waiting.append((self._loop, "valve", (message.open_ns - cause.arrival_ns) / 1e9))

    def flush(self) -> None:
        """Count what was noted; the runtime calls it with each heartbeat, and before the endpoint closes."""
        waiting, self._waiting = self._waiting, []
        for metric, label, seconds in waiting:
            child = self._child(metric, label)
            child.inc() if seconds is None else child.observe(seconds)

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

    def role(self, counters: dict[str, int], gauges: dict[str, float]) -> None:
        for name, count in counters.items():
            more = count - self._counted.get(name, 0)
            if more > 0:
                self._child(self._role_count, name).inc(more)
                self._counted[name] = count
        for name, value in gauges.items():
            self._child(self._role_value, name).set(value)

    def serve(self, address: str) -> None:
        """Start the HTTP endpoint, "host:port"."""
        host, port = address.rsplit(":", 1)
        self._server, _ = start_http_server(int(port), host, registry=self.registry)

    def close(self) -> None:
        self.flush()
        if self._server is not None:
            self._server.shutdown()  # type: ignore[attr-defined]
            self._server.server_close()  # type: ignore[attr-defined]
