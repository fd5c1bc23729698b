"""A session of the whole rig with all that an operator does in it, then its files; and wrong senders and rig files."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_rig import N_CELLS, N_ROIS, RATE_HZ, SPEED, Running, task_text, whole_rig

from loop2p.protocol import (
    Alarm,
    Done,
    Envelope,
    Heartbeat,
    Output,
    Phase,
    RequestLog,
    RewardCommand,
    RigFile,
    Session,
    Traces,
    Trial,
)
from loop2p.recording.journal import read_journal
from loop2p.recording.summary import summarise
from loop2p.runtime.monitor import Monitor
from loop2p.simulation.microscope import Microscope, MicroscopeOptions
from loop2p.simulation.sender import Sender, deadlines, encode

LOOP2P = (sys.executable, "-m", "loop2p.cli.main")

METRICS = {
    "messages_received_total": "counter",
    "messages_published_total": "counter",
    "sequence_gaps_total": "counter",
    "messages_rejected_total": "counter",
    "messages_superseded_total": "counter",
    "hop_seconds": "histogram",
    "loop_seconds": "histogram",
    "handling_seconds": "histogram",
    "queue_depth": "gauge",
    "queue_age_seconds": "gauge",
    "clock_offset_seconds": "gauge",
    "clock_bound_seconds": "gauge",
    "clock_bound_limit_seconds": "gauge",
    "heartbeat_age_seconds": "gauge",
    "alarm_active": "gauge",
    "realtime_priority": "gauge",
}
"""Of every service, each behind "loop2p_". A role's own stand behind its name: see docs/how-to/metrics.md."""


class Loads(HTMLParser):
    """What a page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)
        self.found += re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)]+)|@import\s+(\S+)", page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for name in ("src", "href", "xlink:href", "data", "srcset", "poster"):
            value = values.get(name) or ""
            if tag != "a" and value and not value.startswith(("#", "data:")):
                self.found.append(f"<{tag} {name}={value!r}>")


def rewarded(envelope: Envelope) -> bool:
    """The valve has given something."""
    return isinstance(envelope.message, Done) and envelope.message.volume_ul > 0


def is_void(envelope: Envelope) -> bool:
    """A trial is void."""
    return isinstance(envelope.message, Trial) and envelope.message.edge == "void"


def logged(kind: str, detail: str = "") -> Callable[[Envelope], bool]:
    """Task has put an accepted request on the record."""

    def right(envelope: Envelope) -> bool:
        m = envelope.message
        return isinstance(m, RequestLog) and m.accepted and (m.kind, m.detail) == (kind, detail)

    return right


def command(*args: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """One `loop2p` command."""
    return subprocess.run([*LOOP2P, *args], cwd=cwd, capture_output=True, text=True, timeout=120)


def metrics_of(rig_file: RigFile, name: str) -> str:
    url = f"http://{rig_file.rig.services[name].metrics}/metrics"
    return str(urllib.request.urlopen(url, timeout=10).read().decode())


def check_metrics(rig_file: RigFile) -> None:
    """Every service has every metric; promtool has nothing to say against any of them."""
    pages = {name: metrics_of(rig_file, name) for name in rig_file.rig.services}
    for name, page in pages.items():
        types = dict(re.findall(r"^# TYPE loop2p_(\w+) (\w+)$", page, re.MULTILINE))
        assert {k: v for k, v in types.items() if not k.startswith(f"{name}_")} == METRICS, name
        if name in ("stimulus", "actuation", "recording"):  # they hear its heartbeats
            assert re.search(r'^loop2p_hop_seconds_count\{.*source="task".*\} [1-9]', page, re.MULTILINE), name
        assert re.search(rf'^loop2p_messages_published_total\{{service="{name}",topic="rig.heartbeat"', page, re.M)
        if shutil.which("promtool"):
            result = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
            assert result.returncode == 0, f"{name}: {result.stdout}{result.stderr}"
            assert not result.stdout.strip() + result.stderr.strip(), name
    for name, ends in {"actuation": ("command", "valve"), "stimulus": ("shown",)}.items():
        for end in ends:
            wanted = rf'^loop2p_loop_seconds_count\{{service="{name}",to="{end}"\}} [1-9]'
            assert re.search(wanted, pages[name], re.MULTILINE), f"{name}: no latency to {end}"


def state_of(rig_file: RigFile) -> dict[str, Any]:
    """What somebody who joins now is told: by topic, state messages sent again."""
    wanted = {"rig.session", "task.calibration", "task.phase", "imaging.rois"}
    found: dict[str, Any] = {}
    deadline = time.monotonic() + 30
    with Monitor(rig_file.rig) as late:
        while not wanted <= set(found):
            assert time.monotonic() < deadline, f"a late joiner did not hear {wanted - set(found)}"
            for envelope in late.wait(0.1):
                if envelope.topic in wanted and envelope.header.resent:
                    found[envelope.topic] = envelope.message
    return found


def free_reward(rig: Running) -> Done:
    """Ask until no trial is being rewarded just now; the drop has come, and no trial's."""
    deadline = time.monotonic() + 60
    while True:
        done = command("ask", str(rig.rig_file.path), "free_reward", cwd=rig.folder)
        if done.returncode == 0:
            break
        assert "is being rewarded: ask again when it is over" in done.stdout
        assert time.monotonic() < deadline
    rig.wait(logged("free_reward"), "the request for a free reward")
    given = rig.wait(
        lambda e: isinstance(e.message, RewardCommand) and e.message.trial == -1, "the command for a free reward"
    ).message
    assert isinstance(given, RewardCommand)
    return rig.wait_for(Done, "the free reward", id=given.id)  # type: ignore[no-any-return]


def test_a_session_with_everything(
    tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Callable[..., Any]
) -> None:
    rig_file = whole_rig(tmp_path, free_ports(28))
    task = tmp_path / "task.toml"
    task.write_text(task_text(seconds=600, threshold=0.08))
    run = spawn(
        *LOOP2P, "run", str(rig_file.path), str(task), "--quiet",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip

    def ask(*args: str) -> str:
        done = command("ask", str(rig_file.path), *args, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("accepted"), done.stdout
        return done.stdout

    rig = Running(rig_file, tmp_path)  # listens only
    try:
        rig.wait_for(Trial, edge="hit")
        rig.wait(rewarded, "the reward")
        for _ in range(2):  # what has happened is on its page once it has beaten and beats again
            rig.wait(lambda e: e.topic == Heartbeat.topic and e.header.source == "actuation", "actuation's heartbeat")
        check_metrics(rig_file)

        state = state_of(rig_file)
        assert state["rig.session"].rig == rig_file.text
        assert state["rig.session"].task == task.read_text()
        assert state["task.calibration"].threshold == 0.08
        assert state["task.phase"].phase == "closed_loop"
        assert [len(p.names) for p in state["imaging.rois"].planes] == [N_ROIS, N_ROIS]
        assert len(state["imaging.rois"].buffers) == 2  # the reference images

        status = command("status", str(rig_file.path), "--json", cwd=tmp_path)
        assert status.returncode == 0, status.stdout + status.stderr
        rows = json.loads(status.stdout)
        assert set(rows) == set(rig_file.rig.services)
        assert {row["state"] for row in rows.values()} == {"ready"}
        assert len({row["instance"] for row in rows.values()}) == 6

        ask("note", "the animal looks at the lick spout")
        rig.wait(logged("note", "the animal looks at the lick spout"), "the note")
        while True:
            rig.wait_for(Trial, edge="start")
            ask("pause")
            first = rig.wait(lambda e: isinstance(e.message, Phase) or is_void(e), "a pause").message
            if isinstance(first, Trial):
                assert first.reason == "paused by operator"
                rig.wait_for(Phase, phase="paused")
                break
            ask("resume")  # it came between two trials
        refused = command("ask", str(rig_file.path), "pause_the_world", cwd=tmp_path)
        assert refused.returncode == 1
        assert "refused: unknown request 'pause_the_world'" in refused.stdout
        refused = command("ask", str(rig_file.path), "free_reward", cwd=tmp_path)
        assert refused.returncode == 1
        assert "paused and the actuator unarmed: resume first" in refused.stdout
        ask("resume")
        rig.wait_for(Phase, phase="closed_loop")
        free = free_reward(rig)
        rig.wait(rewarded, "another reward")
        rig.wait_for(Trial, edge="start")
        ask("stop")
        rig.wait_for(Phase, phase="ended")
        out, err = run.communicate(timeout=120)
    finally:
        rig.monitor.close()
    assert run.returncode == 0, err.decode()
    assert b"Traceback" not in err
    folder = (tmp_path / "runs" / "latest").resolve()
    check_files(folder, out.decode())
    check_records(folder, free.id, tmp_path)
    for log in (folder / "logs").glob("*.log"):
        assert "Traceback" not in log.read_text(), log.name


def check_files(folder: Path, printed: str) -> None:
    """summary.json, session.nwb, report.html, and runs/latest."""
    latest = folder.parent / "latest"
    assert latest.is_symlink()
    assert folder.name == json.loads((folder / "summary.json").read_text())["run_id"]
    for name in ("journal.mcap", "session.nwb", "summary.json", "report.html"):
        assert name in printed
        assert (folder / name).stat().st_size > 1000
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["audit"]["complete"] is True, summary["notes"]
    assert len(summary["audit"]["topics"]) > 12
    assert all(c["written"] == c["expected"] > 0 for c in summary["audit"]["topics"].values())
    assert summary["simulated"] is True
    assert summary["overrides"] == []
    assert summary["hits"] >= 2
    assert summary["trials"] > summary["hits"]
    assert summary["reward_ul"] > 0
    frames = summary["frames"]
    assert frames["received"] >= frames["processed"] > 500
    assert frames["dropped"] == 0
    for end in ("command", "shown", "valve"):
        q = summary["latency_ms"][end]
        assert set(q) >= {"n", "p50", "p99", "p999", "max"}
        assert q["n"] > 0, end
        assert 0 < q["p50"] <= q["p99"] <= q["p999"] <= q["max"], end
    assert {q["kind"] for q in summary["requests"]} >= {"begin", "note", "pause", "free_reward", "resume", "stop"}
    assert Loads((folder / "report.html").read_text(encoding="utf-8")).found == []

    import nwbinspector

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the inspector's own
        found = nwbinspector.inspect_nwbfile(
            nwbfile_path=folder / "session.nwb",
            config=nwbinspector.load_config("dandi"),
            importance_threshold=nwbinspector.Importance.CRITICAL,
        )
        assert [f"{m.check_function_name} {m.location}: {m.message}" for m in found] == []


def check_records(folder: Path, free_id: int, cwd: Path) -> None:
    """`export` gives the same again from the journal alone; `trace` tells a rewarded frame's way."""
    before = json.loads((folder / "summary.json").read_text())
    for name in ("session.nwb", "summary.json", "report.html"):
        (folder / name).unlink()
    exported = command("export", "runs/latest", "--json", cwd=cwd)
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout) == json.loads((folder / "summary.json").read_text()) == before
    assert (folder / "session.nwb").exists()
    assert (folder / "report.html").exists()

    records = list(read_journal(folder))
    commands = {r.message.id: r for r in records if r.topic == "task.reward"}
    assert commands[free_id].message.trial == -1
    refused = {r.message.id for r in records if r.topic == "actuation.refused"}  # made safe just then
    given = [r.message for key, r in commands.items() if r.message.volume_ul > 0 and key not in refused]
    assert before["rewards"] == len(given)
    hits = {r.message.trial: r.message.t_s for r in records if r.topic == "task.trial" and r.message.edge == "hit"}
    rewards = [m.trial for m in given if m.id != free_id]
    assert len(rewards) == len(set(rewards))
    pauses_s = [r.message.t_s for r in records if r.topic == "task.phase" and r.message.phase in ("paused", "ended")]
    for trial in hits.keys() ^ set(rewards):  # paused or stopped before its reward was given
        assert any(0 <= at_s - hits[trial] <= 1.1 for at_s in pauses_s), f"trial {trial}: {pauses_s}"
    reward = next(r for r in commands.values() if r.message.trial >= 0)
    frame = reward.header.cause.frame
    traced = command("trace", "runs/latest", str(frame), "--json", cwd=cwd)
    assert traced.returncode == 0, traced.stderr
    steps = json.loads(traced.stdout)
    topics = [step["topic"] for step in steps]
    way = ["imaging.traces", "decoding.output", "task.reward", "actuation.accepted", "actuation.done"]
    assert [t for t in dict.fromkeys(topics) if t in way] == way
    assert [step["ms"] for step in steps] == sorted(step["ms"] for step in steps)
    nothing = command("trace", "runs/latest", "99999999", cwd=cwd)
    assert nothing.returncode == 2
    assert "no message was caused by frame 99999999" in nothing.stderr


# ---------------------------------------------------------------- a sender with another geometry


class WrongSender(threading.Thread):
    """A microscope PC that sends what it should until told otherwise: `mode` good, row-major or short."""

    LINES_LESS = 12
    N_FRAMES = 160

    def __init__(self, rig_file: RigFile, port: int) -> None:
        super().__init__()
        scope = rig_file.rig.microscope
        options = MicroscopeOptions(rate_hz=SPEED * RATE_HZ, n_cells=N_CELLS, n_rois=N_ROIS)
        draw = Microscope.from_rig(options, rig_file)._draw
        frames = [np.array(draw(k)) for k in range(self.N_FRAMES)]
        assert frames[0].shape == (scope.height, scope.width)
        self._data = {
            "good": [encode(f) for f in frames],
            "row-major": [encode(f, order="row") for f in frames],
            "short": [encode(f[: -self.LINES_LESS]) for f in frames],
        }
        self.mode = "good"
        self.sent: list[str] = []
        """The mode of every whole frame sent over the first connection."""
        self.stopped = threading.Event()
        self._sender = Sender("127.0.0.1", port)

    def run(self) -> None:
        """A short frame comes over a new connection: another program, or one that was set up anew."""
        self._sender.open(60.0)
        reconnected = False
        with suppress(OSError):  # the rig has gone
            for k, _ in enumerate(deadlines(SPEED * RATE_HZ)):
                if self.stopped.is_set():
                    break
                mode = self.mode
                if mode == "short" and not reconnected:
                    reconnected = True
                    self._sender.hang_up()
                    self._sender.open(30.0)
                self._sender.send(self._data[mode][k % self.N_FRAMES])
                if not reconnected:
                    self.sent.append(mode)
        self._sender.close()


def test_a_sender_with_another_geometry_moves_nothing(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> None:
    ports = free_ports(28)
    rig_file = whole_rig(tmp_path, ports, options={"task": {"start_timeout_s": 60.0}})
    rig = Running(rig_file, tmp_path)
    rig.launcher.side.remove("microscope")
    source = rig_file.rig.services["imaging"].options["source"]
    assert source["image_port"] == ports[24]
    sender = WrongSender(rig_file, ports[24])

    def alarm(code: str, active: bool) -> Callable[[Envelope], bool]:
        def right(envelope: Envelope) -> bool:
            m = envelope.message
            return isinstance(m, Alarm) and envelope.header.source == "imaging" and (m.code, m.active) == (code, active)

        return right

    try:
        rig.launcher.start()
        sender.start()
        answer = rig.start(task_text(seconds=600, threshold=0.02))
        assert answer.accepted, answer.reason
        rig.wait_for(Trial, edge="start")
        for mode in ("row-major", "short"):
            sender.mode = mode
            raised = rig.wait(alarm("image-mismatch", True), f"the alarm for {mode} frames").message
            assert isinstance(raised, Alarm)
            assert "wrong frame size or pixel order" in raised.detail
            rig.wait_for(Traces, "traces that are not valid", valid=False)
            # nothing is decided on what comes now
            heard = len(rig.heard)
            seen: list[bool] = []

            def many(envelope: Envelope, seen: list[bool] = seen) -> bool:
                if isinstance(envelope.message, Output):
                    seen.append(envelope.message.valid)
                return len(seen) >= 100

            rig.wait(many, "100 more outputs")
            assert not any(seen)
            news = [e.message for e in rig.heard[heard:]]
            assert not [m for m in news if isinstance(m, Trial) and m.edge in ("hit", "miss", "start")]
            if mode == "row-major":
                sender.mode = "good"
                rig.wait(alarm("image-mismatch", False), "the alarm's end")
                rig.wait_for(Trial, edge="start")
        sender.stopped.set()
        rig.wait(alarm("wrong-frame-size", True), "the alarm for the piece of a frame that was left")
        assert rig.ask("stop").accepted
        rig.wait_for(Phase, phase="ended")
        assert rig.lost == []
    finally:
        sender.stopped.set()
        sender.join(30)
        rig.launcher.stop()
        rig.monitor.close()
    records = list(read_journal(rig.run_folder))
    wrong = {k for k, mode in enumerate(sender.sent) if mode == "row-major"}
    traces = [r for r in records if isinstance(r.message, Traces)]
    assert len(wrong) > 100
    of_wrong = [r.message.valid for r in traces if r.header.cause.frame in wrong]
    assert len(of_wrong) > 100
    assert not any(of_wrong)
    hits = [r.header.cause.frame for r in records if isinstance(r.message, Trial) and r.message.edge == "hit"]
    assert not wrong & set(hits)
    voids = [r.message.reason for r in records if isinstance(r.message, Trial) and r.message.edge == "void"]
    summary = summarise(rig.run_folder)
    print(f"{len(wrong)} row-major frames, {summary['trials']} trials, hits {hits}, voids {voids}")
    assert summary["audit"]["complete"], summary["notes"]
    assert any(isinstance(r.message, Session) for r in records)


# ---------------------------------------------------------------- mistakes in the rig file

MISTAKES = {
    "no endpoint": (r'publish = "tcp://127.0.0.1:\d+"', 'publish = "5500"', "services.imaging.publish: found '5500'"),
    "unknown key": ('name = "test"', 'name = "test"\ncolour = "red"', "colour: unknown key"),
    "not TOML": ('name = "test"', 'name = "test', "line 1"),
    "wrong type": (r"free_gb = 0.001", 'free_gb = "much"', "data.free_gb"),
    "no such option": ("registration = true", "regstration = true", "services.imaging.options"),
    "no such class": (
        r"\[services.stimulus\]",
        '[services.stimulus]\nclass = "loop2p.stimulus.service:Stimulsu"',
        "services.stimulus.class: loop2p.stimulus.service has no class 'Stimulsu'",
    ),
    "missing extra": (
        r"\[services.decoding\]",
        '[services.decoding]\nclass = "a_package_nobody_has.service:Decoding"',
        "services.decoding.class: can't import 'a_package_nobody_has.service'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_rig_file_is_one_line(
    mistake: str, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    found, instead, said = MISTAKES[mistake]
    rig_file = whole_rig(tmp_path, free_ports(28), options={"imaging": {"registration": True}})
    text = re.sub(found, lambda _: instead, rig_file.text, count=1)
    assert text != rig_file.text
    rig_file.path.write_text(text)
    (tmp_path / "task.toml").write_text(task_text())
    done = command("run", str(rig_file.path), "task.toml", "--quiet", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert "rig.toml" in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
