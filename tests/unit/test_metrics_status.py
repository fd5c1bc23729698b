"""`loop2p status` for people without Prometheus: quantiles, rows, what is shown of a service that tells little."""

import io
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import generate_latest
from rich.console import Console
from rigs import rig_text
from typer.testing import CliRunner

from loop2p.cli import operate, status
from loop2p.cli.status import from_page, look, quantile, read_page, show
from loop2p.protocol import PROTOCOL, ROLES, Cause, RigFile, Show, control, parse_rig
from loop2p.runtime.metrics import Metrics

MS = 1_000_000


def metrics_of_task() -> Metrics:
    """1000 messages of decoding, 10 of them 40 ms under way, the others 1 ms; 5 ms to a decision."""
    metrics = Metrics("task", 0.001)
    for k in range(1000):
        metrics.received("decoding.output", "decoding", 40 * MS if k % 100 == 0 else MS)
    metrics.published(Show(cause=Cause(frame=1, plane=0, time_s=0.0, arrival_ns=0), what="grey"), 5 * MS)
    metrics.clock(0, 200_000)
    metrics.gap("decoding", 3)
    metrics.rejected("malformed")
    metrics.heartbeat_age("decoding", 0.04)
    metrics.flush()
    return metrics


def page_of(metrics: Metrics) -> status.Page:
    return read_page(generate_latest(metrics.registry).decode())


@pytest.fixture
def rig(free_ports: Callable[[int], list[int]]) -> RigFile:
    return parse_rig(rig_text(free_ports(24), "runs"), "rig.toml")


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ([(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 0.5, 1.0),
        ([(1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)], 0.75, 1.5),
        ([(1.0, 0.0), (2.0, 4.0), (math.inf, 4.0)], 0.25, 1.25),
        ([(1.0, 1.0), (2.0, 1.0), (math.inf, 100.0)], 0.99, 2.0),
        ([(1.0, 0.0), (math.inf, 0.0)], 0.5, None),
    ],
)
def test_a_quantile_is_prometheus_own(buckets: list[tuple[float, float]], q: float, expected: float | None) -> None:
    assert quantile(buckets, q) == expected


def test_a_page_becomes_a_row() -> None:
    row = from_page(page_of(metrics_of_task()))
    hop = row["latency_ms"]["from decoding"]
    assert hop["n"] == 1000
    assert 0.7 < hop["p50"] <= 1.0
    assert hop["p99"] <= 1.0
    assert 33 < hop["p999"] <= 50, "in the bucket of 40 ms"
    assert 3.3 < row["latency_ms"]["to decision"]["p99"] <= 5.0
    assert row["clock_bound_ms"] == pytest.approx(0.2)
    assert (row["queue_age_s"], row["received"], row["gaps"], row["rejected"]) == (0.04, 1000, 3, 1)


def test_an_unknown_clock_is_no_number() -> None:
    metrics = Metrics("task")
    metrics.clock(0, None)
    row = from_page(page_of(metrics))
    assert (row["clock_bound_ms"], row["queue_age_s"], row["latency_ms"]) == (None, None, {})
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("said", [b"\xff\x00 nothing of HTTP\n", b"HTTP/1.0 200 OK\r\n\r\nno {metrics}\xff\n", b""])
def test_something_else_at_the_port_is_no_service(said: bytes, rig: RigFile) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_all, args=(server, said))
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        text = re.sub(r'metrics = ".*"', "", rig.text).replace(
            "[services.task]", f'[services.task]\nmetrics = "{address}"'
        )
        assert status.scrape(parse_rig(text, "rig.toml")) == {}
        thread.join(10)


def answer_all(server: socket.socket, said: bytes) -> None:
    """One caller is told this, whatever it asks."""
    peer, _ = server.accept()
    with peer:
        peer.recv(4096)
        peer.sendall(said)


@pytest.mark.parametrize(
    "line",
    [
        'loop2p_hop_seconds_bucket{service="a"} 3',
        'loop2p_hop_seconds_bucket{le="1"} NaN',
        "loop2p_sequence_gaps_total +Inf",
    ],
)
def test_a_page_of_another_make_is_no_crash(line: str) -> None:
    from_page(read_page(line + "\n"))


def test_rows_say_who_is_there_and_what_is_known_of_each(rig: RigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = re.sub(r"(\[services\.(imaging|task)\])", r"\1\nrealtime_priority = 10", rig.text)
    rig = parse_rig(asking, "rig.toml")
    heard = {"decoding": {"published": 7, "gaps": 1, "rejected": 0, "clock_bound_ms": 0.5, "heartbeat_age_s": 9.0}}
    monkeypatch.setattr(status, "scrape", lambda _: {"task": page_of(metrics_of_task())})
    monkeypatch.setattr(status, "listen", lambda _rig, names, _keys: {n: heard.get(n, {}) for n in names})
    reply = control.HelloReply("task", "task-1", PROTOCOL, rig.hash, "0.1.0", "ready", [])
    other = control.HelloReply("decoding", "decoding-1", PROTOCOL + 1, "another", "0.1.0", "starting", ["no selection"])
    rows = look(rig, dict.fromkeys(ROLES) | {"task": reply, "decoding": other})
    assert (rows["task"]["state"], rows["task"]["instance"], rows["task"]["why"]) == ("ready", "task-1", [])
    assert rows["task"]["published"] == 1
    assert rows["decoding"]["why"][0] == "no selection"
    assert "protocol" in rows["decoding"]["why"][1]
    assert "another rig file" in rows["decoding"]["why"][2]
    assert (rows["decoding"]["gaps"], rows["decoding"]["received"]) == (1, None)
    assert rows["decoding"]["heartbeat_age_s"] == 0.04, "a peer's word before our own ear"
    assert (rows["imaging"]["state"], rows["imaging"]["latency_ms"]) == ("absent", {})
    json.dumps(rows, allow_nan=False)
    text = io.StringIO()
    Console(file=text, width=80).print(show(rows))
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    for start in (
        "task local ready 0.200 - 0.040 1000 1 3 1",
        "decoding local starting 0.500 0.04 - - 7 1 0",
        "decoding: no selection",
        "real-time priority: imaging not known, task 0 (asked for 10)",
        "task from decoding 1000 ",
    ):
        assert any(line.startswith(start) for line in lines), text.getvalue()


def test_nobody_there_is_said_at_once(rig: RigFile, tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(rig.text)
    app = typer.Typer()
    app.command()(operate.status)
    result = CliRunner().invoke(app, [str(path), "--json"])
    assert result.exit_code == 1
    assert {row["state"] for row in json.loads(result.stdout).values()} == {"absent"}
    assert CliRunner().invoke(app, [str(path), "--json", "--watch"]).exit_code == 2


def test_watch_looks_again_until_ctrl_c(rig: RigFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(rig.text)
    looks: list[int] = []

    def seen(*_: Any) -> dict[str, Any]:
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(operate, "look", seen)
    monkeypatch.setattr(operate, "hello_all", lambda _: {})
    monkeypatch.setattr(time, "sleep", lambda _: None)
    app = typer.Typer()
    app.command()(operate.status)
    assert CliRunner().invoke(app, [str(path), "--watch"]).exit_code == 0
    assert len(looks) == 3
