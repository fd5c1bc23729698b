"""What a service tells Prometheus: names, units, ways from a frame, ages that no scrape misses."""

import math

import pytest
from prometheus_client import generate_latest

from loop2p.cli.status import Page, read_page
from loop2p.protocol import (
    Accepted,
    Alarm,
    Cause,
    Done,
    Heartbeat,
    Message,
    Output,
    RewardCommand,
    Show,
    Shown,
    Traces,
    f32,
)
from loop2p.runtime.metrics import AGE_BEATS, REASONS, Metrics, role_name

MS = 1_000_000
CAUSE = Cause(frame=8, plane=0, time_s=0.26, arrival_ns=100 * MS)


def page_of(metrics: Metrics) -> Page:
    return read_page(generate_latest(metrics.registry).decode())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    found = [v for have, v in page_of(metrics).get(name, []) if labels.items() <= have.items()]
    assert len(found) < 2, f"{name} {labels}: {found}"
    return found[0] if found else None


@pytest.mark.parametrize(
    ("name", "full", "plane", "factor"),
    [
        ("frames_dropped", "loop2p_imaging_frames_dropped", None, 1.0),
        ("shift_y_px_plane1", "loop2p_imaging_shift_y_pixels", "1", 1.0),
        ("day_ul", "loop2p_imaging_day_liters", None, 1e-6),
        ("budget_ms", "loop2p_imaging_budget_seconds", None, 1e-3),
        ("refresh_hz", "loop2p_imaging_refresh_hertz", None, 1.0),
        ("disk_free_bytes", "loop2p_imaging_disk_free_bytes", None, 1.0),
        ("frames_over_total", "loop2p_imaging_frames_over", None, 1.0),
        ("what's this? µ", "loop2p_imaging_what_s_this___", None, 1.0),
    ],
)
def test_a_roles_names_become_metrics_in_base_units(name: str, full: str, plane: str | None, factor: float) -> None:
    assert role_name("imaging", name) == (full, plane, factor)


def test_a_roles_counts_and_values_stand_under_its_name() -> None:
    metrics = Metrics("imaging")
    metrics.role(
        {"frames": 8, "frames_total": 100}, {"shift_y_px_plane0": 1.5, "shift_y_px_plane1": -2.0, "day_ul": 4.0}
    )
    assert value(metrics, "loop2p_imaging_frames_total") == 8, "of two names that become one the first stands"
    assert value(metrics, "loop2p_imaging_shift_y_pixels", plane="0") == 1.5
    assert value(metrics, "loop2p_imaging_shift_y_pixels", plane="1") == -2.0
    assert value(metrics, "loop2p_imaging_day_liters", service="imaging") == pytest.approx(4e-6)
    metrics.role({}, {})
    assert value(metrics, "loop2p_imaging_frames_total") is None


@pytest.mark.parametrize(
    ("message", "to", "ms"),
    [
        (Traces(cause=CAUSE, plane=0, f=f32([1.0])), "traces", 30),
        (Output(cause=CAUSE, d=0.0, value=0.0), "control", 30),
        (Show(cause=CAUSE, what="grey"), "decision", 30),
        (Accepted(cause=CAUSE, id=1, received_ns=105 * MS), "command", 5),
        (Shown(cause=CAUSE, what="grey", flip_ns=116 * MS), "shown", 16),
        (Done(cause=CAUSE, id=1, open_ns=106 * MS, close_ns=146 * MS, volume_ul=4.0), "valve", 6),
        (Done(cause=CAUSE, id=7, open_ns=107 * MS, close_ns=107 * MS, volume_ul=0.0), "led", 7),
    ],
)
def test_a_frames_way_ends_where_the_message_says(message: Message, to: str, ms: float) -> None:
    metrics = Metrics("any")
    metrics.led_command(7)
    metrics.published(message, 130 * MS)
    metrics.flush()
    assert value(metrics, "loop2p_loop_seconds_count", to=to) == 1
    assert value(metrics, "loop2p_loop_seconds_sum", to=to) == pytest.approx(ms / 1e3)
    assert value(metrics, "loop2p_messages_published_total", topic=message.topic) == 1


@pytest.mark.parametrize(
    "message",
    [
        Output(d=0.0, value=0.0),
        Heartbeat(cause=CAUSE, health="ready"),
        RewardCommand(cause=CAUSE, id=3, target="a", expires_ns=0, volume_ul=4.0),
        Done(cause=CAUSE, id=3, open_ns=0, close_ns=0, volume_ul=0.0),
    ],
    ids=["no cause", "no end", "repeated until it is answered", "0 ul"],
)
def test_what_ends_no_way_is_no_latency(message: Message) -> None:
    metrics = Metrics("any")
    metrics.published(message, 130 * MS)
    metrics.flush()
    assert "loop2p_loop_seconds_count" not in page_of(metrics)


def test_an_alarm_stands_until_it_is_over() -> None:
    metrics = Metrics("recording")
    for active in (True, False):
        metrics.published(Alarm(code="disk-full", active=active, detail=""), 0)
        assert value(metrics, "loop2p_alarm_active", code="disk-full") == active


def test_an_old_message_is_seen_by_every_scrape_and_then_forgotten() -> None:
    metrics = Metrics("task")
    metrics.received("decoding.output", "decoding", 2_000 * MS)
    ages = []
    for beats in (1, AGE_BEATS - 1, AGE_BEATS + 1):
        for _ in range(beats):
            metrics.received("decoding.output", "decoding", MS)
            metrics.flush()
        ages.append(value(metrics, "loop2p_queue_age_seconds", source="decoding"))
    assert ages == [2.0, 2.0, 0.001], "kept for 5 s at least, for 10 s at most"


def test_a_hop_that_tells_nothing_is_no_latency() -> None:
    metrics = Metrics("task")
    metrics.received("task.phase", "task", None)
    metrics.flush()
    assert value(metrics, "loop2p_messages_received_total", topic="task.phase") == 1
    assert "loop2p_hop_seconds_count" not in page_of(metrics)


def test_counters_stand_at_0_before_the_first_event() -> None:
    """Prometheus sees a rise only from a value that it has seen."""
    metrics = Metrics("task")
    assert {v for r in REASONS if (v := value(metrics, "loop2p_messages_rejected_total", reason=r)) is not None} == {0}
    metrics.received("decoding.output", "decoding", MS)
    metrics.flush()
    assert value(metrics, "loop2p_sequence_gaps_total", source="decoding") == 0
    metrics.gap("decoding", 3)
    assert value(metrics, "loop2p_sequence_gaps_total", source="decoding") == 3


def test_the_limit_of_the_clock_is_a_metric_and_an_unknown_clock_is_beyond_it() -> None:
    metrics = Metrics("task", clock_limit_s=0.001)
    metrics.clock(0, None)
    assert value(metrics, "loop2p_clock_bound_limit_seconds") == 0.001
    assert value(metrics, "loop2p_clock_bound_seconds") == math.inf
