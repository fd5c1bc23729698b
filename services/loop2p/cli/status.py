"""What `loop2p status` shows: every service's health, ages, counts and latencies, for people without Prometheus.

A service's own metrics are read; of one that has none, or shows them to its own machine alone, its heartbeats tell
less.
"""

import math
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loop2p.cli.metrics import targets
from loop2p.protocol import PROTOCOL, Clock, Heartbeat, RigFile, control
from loop2p.runtime.keys import Keys
from loop2p.runtime.monitor import Monitor

Labels = defaultdict[str, str]
Page = dict[str, list[tuple[Labels, float]]]
"""Sample name -> its labels (an absent one is "") and values."""
Row = dict[str, Any]

SCRAPE_S = 1.0
LISTEN_S = 1.2
"""For services without metrics: longer than the second between two clock messages."""
WAYS = (
    ("imaging", "to traces"),
    ("decoding", "from imaging"),
    ("decoding", "to control"),
    ("task", "from decoding"),
    ("task", "to decision"),
    ("stimulus", "from task"),
    ("stimulus", "to shown"),
    ("actuation", "from task"),
    ("actuation", "to command"),
    ("actuation", "to valve"),
    ("actuation", "to led"),
)
"""A frame's way, step by step: the service that measured, and the row of its `latency_ms`."""


def look(
    rig_file: RigFile, replies: Mapping[str, control.HelloReply | None], keys: Keys | None = None
) -> dict[str, Row]:
    """A row for each service. `replies`: what each answered to a hello, None for nothing."""
    pages = scrape(rig_file)
    unseen = rig_file.rig.services.keys() - pages.keys()
    heard = listen(rig_file, unseen, keys) if unseen else {}
    rows = {}
    for name, spec in rig_file.rig.services.items():
        reply = replies[name]
        numbers = from_page(pages[name]) if name in pages else heard.get(name, {})
        own = {"host": spec.host, "realtime_asked": spec.realtime_priority}
        rows[name] = state_of(rig_file, name, reply) | own | NOTHING | numbers
        ages = [age_of(page, name) for peer, page in pages.items() if peer != name]
        known = [age for age in ages if age is not None]
        rows[name]["heartbeat_age_s"] = max(known) if known else numbers.get("heartbeat_age_s")
    return rows


NOTHING: Row = dict.fromkeys(
    ("clock_bound_ms", "queue_age_s", "received", "published", "gaps", "rejected", "realtime_priority")
) | {
    "alarms": [],
    "latency_ms": {},
}


def state_of(rig_file: RigFile, name: str, reply: control.HelloReply | None) -> Row:
    """Is it there, and is it ready?"""
    spec = rig_file.rig.services[name]
    if reply is None:
        state = "external" if spec.external else "absent"
        return {"state": state, "instance": "", "why": [f"no answer at {spec.control}"]}
    why = list(reply.why_not_ready)
    if reply.protocol != PROTOCOL:
        why.append(f"speaks protocol {reply.protocol}, this machine speaks {PROTOCOL}")
    if reply.rig_hash != rig_file.hash:
        why.append(f"runs with another rig file (hash {reply.rig_hash}, here {rig_file.hash})")
    return {"state": reply.health, "instance": reply.instance, "why": why}


# ---------------------------------------------------------------- where the numbers come from


def scrape(rig_file: RigFile) -> dict[str, Page]:
    """The metrics of each service that shows them to us, all asked at once."""

    def one(address: str) -> Page | None:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=SCRAPE_S) as answer:
                return read_page(answer.read().decode())
        except (OSError, ValueError, HTTPException):
            return None  # not there, or something else at its port

    found = targets(rig_file.rig)
    with ThreadPoolExecutor(max(1, len(found))) as pool:
        pages = pool.map(one, [target.address for target in found])
        return {target.service: page for target, page in zip(found, pages, strict=True) if page is not None}


def read_page(text: str) -> Page:
    """Prometheus' text format. Raises ValueError."""
    page: Page = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not math.isnan(sample.value):
                page.setdefault(sample.name, []).append((defaultdict(str, sample.labels), sample.value))
    return page


def listen(rig_file: RigFile, names: Iterable[str], keys: Keys | None) -> dict[str, Row]:
    """What heartbeats and clocks tell, for at most LISTEN_S."""
    found: dict[str, Row] = {name: {} for name in names}
    deadline = time.monotonic() + LISTEN_S
    heard_s: dict[str, float] = {}
    with Monitor(rig_file.rig, (Heartbeat.topic, Clock.topic), keys) as monitor:
        while (left_s := deadline - time.monotonic()) > 0 and not all(
            "published" in r and "clock_bound_ms" in r for r in found.values()
        ):
            for envelope in monitor.wait(left_s):
                message, name = envelope.message, envelope.header.source
                if name not in found:
                    continue
                if isinstance(message, Heartbeat):
                    heard_s[name] = time.monotonic()
                    found[name] |= {
                        "published": sum(message.published.values()),
                        "gaps": message.gaps,
                        "rejected": message.rejected,
                    }
                elif isinstance(message, Clock):
                    found[name]["clock_bound_ms"] = message.bound_ns / 1e6
    for name, at_s in heard_s.items():
        found[name]["heartbeat_age_s"] = time.monotonic() - at_s
    return found


# ---------------------------------------------------------------- from a page to numbers


def from_page(page: Page) -> Row:
    """The numbers of one service; ms, s and counts since it started."""
    bound_s, now = largest(page, "loop2p_clock_bound_seconds"), largest(page, "loop2p_realtime_priority")
    return {
        "clock_bound_ms": None if bound_s is None or math.isinf(bound_s) else bound_s * 1e3,
        "queue_age_s": largest(page, "loop2p_queue_age_seconds"),
        "received": total(page, "loop2p_messages_received_total"),
        "published": total(page, "loop2p_messages_published_total"),
        "gaps": total(page, "loop2p_sequence_gaps_total"),
        "rejected": total(page, "loop2p_messages_rejected_total"),
        "realtime_priority": None if now is None else whole(now),
        "alarms": sorted(labels["code"] for labels, on in page.get("loop2p_alarm_active", []) if on),
        "latency_ms": {
            **{f"from {source}": row for source, row in quantiles(page, "loop2p_hop_seconds", "source")},
            **{f"to {to}": row for to, row in quantiles(page, "loop2p_loop_seconds", "to")},
        },
    }


def age_of(page: Page, peer: str) -> float | None:
    """How long this service has not heard a peer, s."""
    return next((v for labels, v in page.get("loop2p_heartbeat_age_seconds", []) if labels.get("peer") == peer), None)


def largest(page: Page, name: str) -> float | None:
    return max((value for _, value in page.get(name, [])), default=None)


def total(page: Page, name: str) -> int:
    return whole(sum(value for _, value in page.get(name, [])))


def whole(count: float) -> int:
    return round(count) if math.isfinite(count) else 0


def quantiles(page: Page, name: str, label: str) -> Iterator[tuple[str, Row]]:
    """Of each of a histogram's series: n, and p50, p99 and p99.9 in ms."""
    series: dict[str, list[tuple[float, float]]] = {}
    for labels, count in page.get(f"{name}_bucket", []):
        series.setdefault(labels[label], []).append((float(labels["le"] or "inf"), count))
    for key, buckets in series.items():
        buckets.sort()
        row: Row = {"n": whole(buckets[-1][1])}
        for q, called in ((0.5, "p50"), (0.99, "p99"), (0.999, "p999")):
            value = quantile(buckets, q)
            row[called] = None if value is None else value * 1e3
        yield key, row


def quantile(buckets: list[tuple[float, float]], q: float) -> float | None:
    """Of cumulative buckets (upper bound, count), as Prometheus' histogram_quantile has it: linear within a bucket; the
    largest finite bound where it lies beyond. None of nothing."""
    rank, below, low = q * buckets[-1][1], 0.0, 0.0
    if not rank > 0:
        return None
    for bound, count in buckets:
        if count >= rank:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        below, low = count, bound
    return low


# ---------------------------------------------------------------- for people


def show(rows: Mapping[str, Row]) -> RenderableType:
    """A table of services, why some are not ready, and a table of a frame's way."""
    services = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)  # six digits of each count within 80 columns
    for column in ("service", "host", "state"):
        services.add_column(column, no_wrap=True)
    for column in ("clock ms", "heard s", "queue s", "in", "out", "gaps", "rejected"):
        services.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        services.add_row(
            name,
            row["host"],
            row["state"],
            number(row["clock_bound_ms"], 3),
            number(row["heartbeat_age_s"], 2),
            number(row["queue_age_s"], 3),
            *(number(row[key], 0) for key in ("received", "published", "gaps", "rejected")),
        )
    why = [Text(f"{name}: {reason}") for name, row in rows.items() for reason in row["why"]]
    why += [Text(f"{name}: alarm {code}") for name, row in rows.items() for code in row["alarms"]]
    asked = [f"{name} {realtime(row)}" for name, row in rows.items() if row["realtime_asked"]]
    why += [Text(f"real-time priority: {', '.join(asked)}")] if asked else []
    way = Table("latency in", "ms", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("n", "p50", "p99", "p99.9"):
        way.add_column(column, justify="right")
    for name, step in WAYS:
        found = rows[name]["latency_ms"].get(step) if name in rows else None
        if found:
            way.add_row(name, step, number(found["n"], 0), *(number(found[q], 2) for q in ("p50", "p99", "p999")))
    return Group(services, *why, *([way] if way.row_count else []))


def realtime(row: Row) -> str:
    """Priority that a service has, of the one that its rig file asks for."""
    has, asked = row["realtime_priority"], row["realtime_asked"]
    return "not known" if has is None else f"{has}" if has == asked else f"{has} (asked for {asked})"


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
