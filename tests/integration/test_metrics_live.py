"""Prometheus watches a rig of real processes: whatever dashboard, rules and alerts ask for, it has."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from needs import lacking
from whole_rig import Running, running, task_text, whole_rig

from loop2p.cli.operate import hello_all
from loop2p.cli.status import look
from loop2p.protocol import Done, RigFile, Trial, parse_rig

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
PAGE = ROOT / "docs" / "how-to" / "metrics.md"
LOOP2P = (sys.executable, "-m", "loop2p.cli.main")
PATIENCE_S = 120.0
TASK = task_text(3600, threshold=0.05).replace("duration_s = 0", "duration_s = 4", 1)
"""A short baseline, so that the LED is armed by a frame; low threshold, so that hits come soon."""
SOMETIMES = {
    "loop2p_messages_superseded_total": "previews that overtake one another",
    "loop2p_task_threshold": "once it is calibrated",
}
"""Metrics that a short session need not have, and when they come."""
ELSEWHERE = re.compile(
    r"loop2p_imaging_(match_to_day1|rotation_degrees|offset_[xy]_pixels|roi_kept|frames_total|ended_total)"
)
"""Of later days, and of files that are played."""


class Watched(NamedTuple):
    """A rig in the middle of a session, and the address of the Prometheus that scrapes it every second."""

    rig: Running
    url: str
    config: Path

    def api(self, path: str, **query: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def until(self, ready: Callable[[], object], what: Callable[[], object]) -> None:
        """Wait until something holds; the rig goes on meanwhile. `what`: is still missing, for the failure."""
        deadline = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline, f"{what()}\n{self.rig.last_words()}"
            self.rig.lost += self.rig.launcher.poll()
            self.rig.heard += self.rig.monitor.wait(0.2)

    def answered(self, expr: str) -> list[Any]:
        """The series that an expression gives now."""
        return list(self.api("query", query=expr)["result"])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, spawn_module: Callable[..., Any]) -> Iterator[Watched]:
    if shutil.which("prometheus") is None:
        lacking("prometheus (Debian package prometheus) is not installed")
    from loop2p.cli.benchmarks.rig import free_ports

    folder = tmp_path_factory.mktemp("watched")
    *ports, web = free_ports(29)
    rig_file = whole_rig(folder, ports, options={"imaging": {"raw": "local"}})
    made = subprocess.run(
        [
            *LOOP2P,
            "metrics",
            str(rig_file.path),
            "--out",
            str(folder / "p"),
            "--rules",
            str(PROMETHEUS),
            "--every-s",
            "1",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    config = folder / "p" / "prometheus.yml"
    with (folder / "prometheus.log").open("wb") as log, running(rig_file, folder) as rig:
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        spawn_module(*command, f"--web.listen-address=127.0.0.1:{web}", stdout=log, stderr=log)
        answer = rig.start(TASK)
        assert answer.accepted, answer.reason
        rig.wait(lambda e: isinstance(e.message, Done) and e.message.volume_ul > 0, "a reward")
        yield Watched(rig, f"http://127.0.0.1:{web}", config)


@pytest.fixture(scope="module")
def spawn_module() -> Iterator[Callable[..., Any]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: Any) -> None:
        started.append(subprocess.Popen(command, **options))

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def expressions() -> list[str]:
    """Everything that dashboard, rules and alerts ask for. An alert's comparison is asked for its outcome, 0 or 1."""
    panels = json.loads((ROOT / "deploy" / "grafana" / "loop2p.json").read_text())["panels"]
    found = [t["expr"].replace("$rig", "test") for panel in panels for t in panel.get("targets", [])]
    for path in sorted(PROMETHEUS.glob("*.rules.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                found.append(re.sub(r" (>|<|==) ", r" \1 bool ", rule["expr"]) if "alert" in rule else rule["expr"])
    return found


def test_every_expression_has_data(watched: Watched) -> None:
    missing = expressions()

    def all_there() -> bool:
        missing[:] = [expr for expr in missing if not watched.answered(expr)]
        return not missing

    watched.until(all_there, lambda: "no data for:\n" + "\n".join(missing))


def test_every_way_of_a_frame_is_measured(watched: Watched) -> None:
    wanted = {"traces", "control", "decision", "command", "shown", "valve", "led"}

    def ways() -> set[str]:
        return {s["metric"]["to"] for s in watched.answered("loop2p_loop_seconds_count > 0")}

    watched.until(lambda: ways() == wanted, lambda: f"measured: {ways()}, expected {wanted}")


def test_the_page_lists_every_metric_and_no_other(watched: Watched) -> None:
    told = set(re.findall(r"^\| `((?:loop2p|process)_\w+)`", PAGE.read_text(), re.MULTILINE))
    pages = [scrape(watched.rig.rig_file, name) for name in watched.rig.rig_file.rig.services]
    exported = {name for page in pages for name in re.findall(r"^# TYPE (\w+) \w+$", page, re.MULTILINE)}
    assert exported - told == set()
    assert {name for name in told - exported - SOMETIMES.keys() if not ELSEWHERE.fullmatch(name)} == set()


def test_promtool_accepts_every_page(watched: Watched) -> None:
    for name in watched.rig.rig_file.rig.services:
        page = scrape(watched.rig.rig_file, name)
        result = subprocess.run(
            ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=60
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), name


def test_every_target_has_its_labels(watched: Watched) -> None:
    watched.until(lambda: len(watched.answered("up == 1")) == 6, lambda: watched.answered("up"))
    labels = {s["metric"]["service"]: (s["metric"]["host"], s["metric"]["rig"]) for s in watched.answered("up")}
    assert labels == dict.fromkeys(watched.rig.rig_file.rig.services, ("local", "test"))
    exported = watched.answered('{__name__=~"loop2p_.+", exported_service!=""}')
    assert exported == [], "a service's own name and its target's are the same label"


def test_status_tells_the_same_without_prometheus(watched: Watched) -> None:
    rig_file = watched.rig.rig_file
    result = subprocess.run(
        [*LOOP2P, "status", str(rig_file.path), "--json"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(result.stdout)
    assert list(rows) == sorted(rig_file.rig.services)
    for name, row in rows.items():
        assert row["state"] == "ready", name
        assert row["clock_bound_ms"] == 0.0, "all on the reference's machine"
        assert row["published"] > 0
        assert row["rejected"] == 0
        assert row["heartbeat_age_s"] < 10
    for step in ("from decoding", "to decision"):
        latency = rows["task"]["latency_ms"][step]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"]
    assert {"to command", "to valve"} <= rows["actuation"]["latency_ms"].keys()
    assert rows["stimulus"]["alarms"] == ["no-display"]
    table = subprocess.run([*LOOP2P, "status", str(rig_file.path)], capture_output=True, text=True, timeout=60)
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert re.search(r"^ *task +local +ready ", table.stdout, re.MULTILINE)
    assert re.search(r"^ *actuation +to valve +\d+ ", table.stdout, re.MULTILINE)


def test_of_a_service_without_metrics_heartbeats_tell(watched: Watched) -> None:
    rig_file = watched.rig.rig_file
    (line,) = [f'metrics = "{spec.metrics}"' for name, spec in rig_file.rig.services.items() if name == "decoding"]
    blind = parse_rig(rig_file.text.replace(line, ""), "blind.toml")
    row = look(blind, hello_all(blind))["decoding"]
    assert (row["state"], row["clock_bound_ms"], row["gaps"], row["received"]) == ("ready", 0.0, 0, None)
    assert row["published"] > 0
    assert row["heartbeat_age_s"] < 10


def test_trace_tells_the_way_of_the_frame_that_was_rewarded(watched: Watched) -> None:
    hit = next(e for e in watched.rig.heard if isinstance(e.message, Done) and e.message.volume_ul > 0)
    cause = hit.header.cause
    assert cause is not None
    told: list[dict[str, Any]] = []

    def complete() -> bool:
        command = [*LOOP2P, "trace", str(watched.rig.run_folder), str(cause.frame), "--json"]
        told[:] = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout or "[]")
        return "actuation.done" in [step["topic"] for step in told]

    watched.until(complete, lambda: told)
    topics = [step["topic"] for step in told]
    way = ["frame", "imaging.traces", "decoding.output", "task.reward", "actuation.accepted", "actuation.done"]
    assert [topics.index(topic) for topic in way] == sorted(topics.index(topic) for topic in way), topics
    assert [step["ms"] for step in told] == sorted(step["ms"] for step in told)
    assert told[0]["ms"] == 0.0


def test_a_rig_that_is_gone_is_told(watched: Watched) -> None:
    """The last one: it stops the rig."""
    assert any(isinstance(e.message, Trial) for e in watched.rig.heard)
    watched.rig.launcher.stop()

    def down() -> set[str]:
        found = watched.api("alerts")["alerts"]
        names = ((a["labels"]["alertname"], a["labels"].get("service"), a["state"]) for a in found)
        return {service for name, service, state in names if (name, state) == ("Loop2pServiceDown", "firing")}

    watched.until(lambda: down() == set(watched.rig.rig_file.rig.services), down)


def scrape(rig_file: RigFile, name: str) -> str:
    url = f"http://{rig_file.rig.services[name].metrics}/metrics"
    return str(urllib.request.urlopen(url, timeout=10).read().decode())
