"""A bus that misbehaves: a flood of malformed messages, losses on the way, a disk that is slow or full."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import test_malformed_messages as malformed
import zmq
from faulty_bus import LauncherBehind, Proxy
from msgspec import structs
from rigs import toy_rig
from toys import frame
from whole_rig import Running, running, task_text, whole_rig

from loop2p.protocol import (
    Alarm,
    Done,
    Heartbeat,
    Output,
    Phase,
    RewardCommand,
    RigFile,
    Traces,
    Trial,
    WireError,
    open_parts,
    seal,
)
from loop2p.recording.journal import read_journal
from loop2p.recording.summary import summarise
from loop2p.runtime.monitor import Monitor
from loop2p.runtime.sequence import Sequences

SUPPORT = Path(__file__).parents[1] / "support"
BATCH = 4_000
"""Messages sent before the service's own count is waited for; far below what ZeroMQ queues."""
MEMORY_MB = 100
ADDER_TAKES = ("imaging.traces", "imaging.rois", "rig.alarm", "rig.session")


# ---------------------------------------------------------------- a flood


class Flood:
    """A peer on imaging's endpoint that sends nonsense, and knows how much of it must be rejected."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seq: Counter[bytes] = Counter()
        self.sequences = Sequences()
        self.delivered = self.to_reject = 0
        self.reasons: Counter[str] = Counter()

    def message(self) -> list[bytes]:
        """Malformed parts; where the header was left alone it is made fresh, so that the body is looked at."""
        while True:
            parts = malformed.malformed_parts(self.random)
            if not parts:
                continue
            if len(parts) > 1 and parts[1] in malformed.HEADERS:
                envelope = seal(frame(0), "imaging", "flood", self.seq[parts[0]], 0)
                envelope.header = structs.replace(envelope.header, cause=None)
                parts[1] = bytes(envelope.parts()[1])
                self.seq[parts[0]] += 1
            if parts[0].startswith(tuple(topic.encode() for topic in ADDER_TAKES)):  # else nobody gets it
                self.note(parts)
                return parts

    def note(self, parts: list[bytes]) -> None:
        self.delivered += 1
        try:
            envelope = open_parts(parts)
            header = envelope.header
            if header.source != "imaging" and not (header.source in SOURCES and envelope.topic.startswith("rig.")):
                raise WireError("source")
            seen = self.sequences.check(envelope.topic, header) is None
            if seen and not header.resent:
                raise WireError("duplicate")
            if not seen:
                _ = envelope.message
        except WireError as error:
            self.to_reject += 1
            self.reasons[str(error) if str(error) in ("source", "duplicate") else "malformed"] += 1


SOURCES = ("imaging", "decoding", "task", "stimulus", "actuation", "recording")


def wait_for_count(monitor: Monitor, process: "subprocess.Popen[bytes]", wanted: int) -> None:
    """Wait until decoding's heartbeat says that it has rejected this many."""
    deadline, rejected = time.monotonic() + 60, -1
    while rejected < wanted:
        assert process.poll() is None, "the service has ended"
        assert time.monotonic() < deadline, f"{rejected} rejected, expected {wanted}"
        for envelope in monitor.wait(0.1):
            if isinstance(envelope.message, Heartbeat):
                rejected = envelope.message.rejected
    assert rejected == wanted


@pytest.mark.parametrize("n", [100_000, pytest.param(2_000_000, marks=[pytest.mark.long, pytest.mark.timeout(3000)])])
def test_a_flood_of_malformed_messages(
    n: int,
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    spawn: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = 11
    monkeypatch.setattr(malformed, "BODIES", [b for b in malformed.BODIES if b[0] in ADDER_TAKES])
    rig: RigFile = toy_rig(free_ports(24), str(tmp_path))
    path = tmp_path / "toy.toml"
    path.write_text(rig.text)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = context.socket(zmq.XPUB)
    peer.linger, peer.sndhwm = 0, 20_000
    peer.setsockopt(zmq.XPUB_NODROP, 1)  # waits rather than loses
    peer.bind(rig.rig.services["imaging"].publish)
    flood = Flood(seed)
    with open(tmp_path / "decoding.log", "wb") as log, Monitor(rig.rig, ("rig.heartbeat", "decoding.")) as monitor:
        try:
            command = [sys.executable, "-m", "loop2p.cli.main", "serve", "decoding", str(path)]
            process = spawn(*command, stdout=log, stderr=log)
            missing = set(ADDER_TAKES)
            while missing:
                assert peer.poll(60_000), f"decoding has not subscribed to {missing}"
                missing.discard(peer.recv()[1:].decode())
            memory, before_mb = psutil.Process(process.pid), 0.0
            while flood.delivered < n:
                for _ in range(BATCH):
                    peer.send_multipart(flood.message())
                wait_for_count(monitor, process, flood.to_reject)
                before_mb = before_mb or memory.memory_info().rss / 1e6
            grown_mb = memory.memory_info().rss / 1e6 - before_mb
            print(f"seed {seed}: {flood.delivered} delivered, {flood.reasons}, grown by {grown_mb:.1f} MB")
            assert flood.to_reject > 0.7 * flood.delivered
            assert flood.reasons["malformed"] > 0.6 * flood.delivered
            assert grown_mb < MEMORY_MB
            for k in range(50):  # and it does its work as before
                peer.send_multipart(seal(frame(k), "imaging", "sane", k, 0).parts())
            outputs: list[int] = []
            deadline = time.monotonic() + 60
            while len(outputs) < 50:
                assert time.monotonic() < deadline, outputs
                for envelope in monitor.wait(0.1):
                    if isinstance(envelope.message, Output) and envelope.header.cause is not None:
                        outputs.append(envelope.header.cause.frame)
            assert outputs == list(range(50))
            assert process.poll() is None
        finally:
            peer.close()
            context.term()
    assert (tmp_path / "decoding.log").stat().st_size < 50_000  # told 1, 2, 4, 8, ... times


# ---------------------------------------------------------------- losses on the way


def rewards_by_trial(messages: Iterable[Any]) -> dict[int, set[int]]:
    """Trial -> ids of the reward commands that name it; a command that is repeated keeps its id."""
    ids: dict[int, set[int]] = {}
    for message in messages:
        if isinstance(message, RewardCommand) and message.volume_ul > 0:
            ids.setdefault(message.trial, set()).add(message.id)
    return ids


def wait_for_reward(rig: Running) -> None:
    """Wait until the valve has given something (the LED's commands are done, too)."""
    rig.wait(lambda e: isinstance(e.message, Done) and e.message.volume_ul > 0, "a reward")


def last_beat(rig: Running, source: str) -> Heartbeat:
    return next(
        e.message for e in reversed(rig.heard) if isinstance(e.message, Heartbeat) and e.header.source == source
    )


def test_messages_lost_doubled_and_damaged_on_the_way(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> None:
    seed = 23
    ports = free_ports(30)
    rig_file = whole_rig(tmp_path, ports[:28])
    imaging = rig_file.rig.services["imaging"].publish
    to_decoding, to_recording = (f"tcp://127.0.0.1:{port}" for port in ports[28:])
    decoding = Proxy(imaging, to_decoding, Traces.topic, seed)
    recording = Proxy(imaging, to_recording, Traces.topic, seed + 1, {"drop": 0.02})
    behind = {"decoding": ("imaging", to_decoding), "recording": ("imaging", to_recording)}
    try:
        with running(rig_file, tmp_path, LauncherBehind(rig_file, tmp_path / "logs", behind)) as rig:
            answer = rig.start(task_text(seconds=600, threshold=0.08))
            assert answer.accepted, answer.reason
            rig.wait_for(Trial, edge="start")
            before = last_beat(rig, "decoding")
            decoding.harm.set()
            recording.harm.set()
            hits = 0
            while hits < 3 or not all(decoding.done.values()):
                wait_for_reward(rig)
                hits += 1
            decoding.harm.clear()
            recording.harm.clear()
            done = decoding.done
            gaps = before.gaps + done["drop"] + done["damage header"]
            rejected = before.rejected + done["double"] + done["damage body"] + done["damage header"]

            def counted(envelope: Any) -> bool:
                beat = envelope.message
                return (
                    isinstance(beat, Heartbeat)
                    and envelope.header.source == "decoding"
                    and (beat.gaps, beat.rejected) == (gaps, rejected)
                )

            rig.wait(counted, f"decoding's count of {gaps} gaps and {rejected} rejected, after {done}")
            rig.wait_for(Trial, edge="start")  # no hit waits for its reward
            assert rig.ask("stop").accepted
            rig.wait_for(Phase, phase="ended")
            assert rig.lost == []
    finally:
        decoding.close()
        recording.close()
    messages = [r.message for r in read_journal(rig.run_folder)]
    summary = summarise(rig.run_folder)
    print(f"seed {seed}: {done}, recording lost {recording.done['drop']}; {summary['hits']} hits, {summary['notes']}")
    hits_of = [m.trial for m in messages if isinstance(m, Trial) and m.edge == "hit"]
    assert len(hits_of) == len(set(hits_of)) == summary["hits"] == summary["rewards"]
    ids = rewards_by_trial(messages)
    assert sorted(ids) == sorted(hits_of)
    assert all(len(of_trial) == 1 for of_trial in ids.values())
    assert summary["services"]["decoding"]["gaps"] == gaps
    assert summary["services"]["decoding"]["rejected"] == rejected
    # the record says what it lacks: every frame that was lost on the way to it
    assert not summary["audit"]["complete"]
    traces = summary["audit"]["topics"][Traces.topic]
    assert traces["expected"] - traces["written"] == recording.done["drop"] > 0
    others = {t: c for t, c in summary["audit"]["topics"].items() if t != Traces.topic}
    assert all(count["expected"] == count["written"] for count in others.values()), others
    assert any(Traces.topic in note and "missing" in note for note in summary["notes"])


# ---------------------------------------------------------------- the disk


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file size limit (POSIX setrlimit)")
def test_a_slow_and_a_full_disk_pause_the_session_and_lose_nothing(
    tmp_path: Path, free_ports: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bad_disk import FULL, SLOW

    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    rig_file = whole_rig(tmp_path, free_ports(28), classes={"recording": "bad_disk:BadDiskRecording"})
    reasons = {}
    with running(rig_file, tmp_path) as rig:
        answer = rig.start(task_text(seconds=600, threshold=0.08))
        assert answer.accepted, answer.reason
        wait_for_reward(rig)
        for trouble in (SLOW, FULL):
            rig.wait_for(Trial, edge="start")
            flag = tmp_path / "runs" / trouble
            flag.touch()
            paused = rig.wait_for(Phase, f"a pause because the {trouble}", phase="paused")
            reasons[trouble] = paused.reason
            assert "recording" in paused.reason
            if trouble == FULL:
                assert not rig.ask("resume").accepted
            flag.unlink()
            if trouble == FULL:  # after a silence it goes on by itself
                rig.wait_for(Alarm, code="disk-full", active=False)
                rig.ask_until_accepted("resume")  # refused until task has recording's next heartbeat
            rig.wait_for(Phase, phase="closed_loop")
            wait_for_reward(rig)
        rig.wait_for(Trial, edge="start")
        assert rig.ask("stop").accepted
        rig.wait_for(Phase, phase="ended")
        assert rig.lost == []
    records = list(read_journal(rig.run_folder))
    written: dict[tuple[str, str], set[int]] = {}
    for record in records:
        written.setdefault((record.header.instance, record.topic), set()).add(record.header.seq)
    acknowledged = {
        (instance, topic): seq
        for envelope in rig.heard
        if isinstance(envelope.message, Heartbeat) and envelope.header.source == "recording"
        for instance, topics in envelope.message.flushed.items()
        for topic, seq in topics.items()
    }
    assert len(acknowledged) > 10
    for key, seq in acknowledged.items():
        first = min(written[key])
        assert written[key] >= set(range(max(first, seq - 200), seq + 1)), f"{key} was acknowledged up to {seq}"
    summary = summarise(rig.run_folder)
    print(reasons, summary["alarms"], summary["notes"])
    assert summary["audit"]["complete"], summary["notes"]
    assert summary["rewards"] == summary["hits"] >= 3
    assert any(alarm["code"] == "disk-full" and alarm["cleared"] for alarm in summary["alarms"])
    # nothing was given while nothing could be written
    paused_s = [(m.phase, m.t_s) for m in (r.message for r in records) if isinstance(m, Phase)]
    assert [phase for phase, _ in paused_s].count("paused") >= 2
