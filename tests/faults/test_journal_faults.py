"""The recorder is killed, its disk is slow: whatever it said is safe can be read afterwards."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recorder_process import SESSION
from rigs import toy_rig
from synthetic_session import make_session

from loop2p.protocol import Audit, Envelope, Heartbeat, RigFile, Session, Traces, control
from loop2p.recording.journal import TornTail, open_segment, read_journal, recover
from loop2p.recording.run import Run
from loop2p.runtime import ask_answer
from loop2p.runtime.monitor import Monitor
from loop2p.runtime.process import Process

SUPPORT = Path(__file__).parents[1] / "support"
Spawn = Callable[..., subprocess.Popen[bytes]]


def wait_for(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait for an event; the limit is only there to fail instead of hanging."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("what was waited for did not happen")
        time.sleep(0.005)


def key_of(envelope: Envelope) -> tuple[str, str, int]:
    return envelope.header.instance, envelope.topic, envelope.header.seq


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize("seed", range(6))
def test_all_that_was_said_to_be_safe_survives_a_kill_at_any_moment(tmp_path, spawn: Spawn, free_ports, seed):
    rig = tmp_path / "rig.toml"
    rig.write_text(toy_rig(free_ports(24), str(tmp_path / "runs")).text)
    fed = {key_of(e): e for _, e in make_session(seed=seed, **SESSION).envelopes}
    rng = random.Random(seed)
    enough = rng.randrange(1, len(fed) // 3)  # it says a line for every third message
    script = str(SUPPORT / "recorder_process.py")
    recorder = spawn(sys.executable, script, str(rig), str(seed), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    lines: list[bytes] = []
    assert recorder.stdout is not None
    for line in recorder.stdout:
        lines.append(line)
        if len(lines) == enough:
            threading.Timer(rng.uniform(0, 0.003), recorder.send_signal, [signal.SIGKILL]).start()
    assert recorder.wait() == -signal.SIGKILL
    safe: dict[str, dict[str, int]] = json.loads(lines[-1] if lines[-1].endswith(b"}\n") else lines[-2])

    torn: list[TornTail] = []
    journal = list(read_journal(tmp_path / "runs" / "run-1", torn))
    found = {key_of(e): e for e in journal}
    first: dict[tuple[str, str], int] = {}
    for e in journal:
        first.setdefault((e.header.instance, e.topic), e.header.seq)
    assert len(torn) == 1  # no footer, whether or not a record was cut
    n_safe = 0
    for instance, topics in safe.items():
        for topic, last in topics.items():
            for seq in range(first[instance, topic], last + 1):
                assert (instance, topic, seq) in found, f"{topic} {seq} of {instance} was said to be safe"
                n_safe += 1
    assert n_safe >= len(lines)  # about three messages a line, less what came before the session
    for key, envelope in found.items():
        original = fed[key]
        assert envelope.body == original.body
        assert [bytes(b) for b in envelope.buffers] == [bytes(b) for b in original.buffers]
    assert sum(1 for _ in read_journal(recover(tmp_path / "runs" / "run-1" / "journal.mcap"))) == len(journal)


class Bus:
    """Imaging and task of a toy rig in threads, recording as a process of its own."""

    def __init__(self, rig_file: RigFile, path: Path, spawn: Spawn) -> None:
        self.rig_file, self.path, self.spawn = rig_file, path, spawn
        self.peers = {name: Process(name, rig_file) for name in ("imaging", "task")}
        self.threads = [threading.Thread(target=peer.run) for peer in self.peers.values()]
        for thread in self.threads:
            thread.start()

    def start_recorder(self) -> subprocess.Popen[bytes]:
        code = (
            "import sys; from pathlib import Path; from loop2p.protocol import read_rig; "
            "from loop2p.runtime.process import serve; sys.exit(serve('recording', read_rig(Path(sys.argv[1]))))"
        )
        return self.spawn(sys.executable, "-c", code, str(self.path))

    def ask(self, name: str, **args: str) -> None:
        assert ask_answer(self.rig_file.rig.services[name].control, control.Ask("do", args=args)).accepted

    def stop(self) -> None:
        for peer in self.peers.values():
            peer.stop()
        for thread in self.threads:
            thread.join(20)


def test_a_recorder_killed_and_replaced_on_the_bus(tmp_path, spawn: Spawn, free_ports):
    """What heartbeats said is safe is there; the next segment goes on; the audit names what came in between."""
    classes = {"recording": "loop2p.recording.service:Recording", "task": "toy_session:Conductor"}
    rig_file = toy_rig(free_ports(24), str(tmp_path / "runs"), classes=classes)
    path = tmp_path / "rig.toml"
    path.write_text(rig_file.text)
    rig_file = type(rig_file)(rig_file.rig, rig_file.text, path)
    bus = Bus(rig_file, path, spawn)
    try:
        with Monitor(rig_file.rig, (Heartbeat.topic, Audit.topic)) as monitor:
            safe: dict[str, dict[str, int]] = {}
            audits: list[Audit] = []
            instances: list[str] = []

            def listen() -> None:
                for envelope in monitor.wait(0.02):
                    message = envelope.message
                    if isinstance(message, Audit):
                        audits.append(message)
                    elif isinstance(message, Heartbeat) and envelope.header.source == "recording":
                        if envelope.header.instance not in instances:  # a successor
                            instances.append(envelope.header.instance)
                            safe.clear()
                        if envelope.header.instance == instances[-1]:
                            safe.update(message.flushed)

            def safe_traces(n: int) -> bool:
                listen()
                return any(topics.get(Traces.topic, -1) >= n for topics in safe.values())

            def records_both() -> bool:
                """The session is in the journal, and so is a sign of life of imaging: its pipe is open."""
                listen()
                return Session.topic in safe.get(task, {}) and Heartbeat.topic in safe.get(imaging, {})

            task, imaging = (bus.peers[name].instance for name in ("task", "imaging"))
            recorder = bus.start_recorder()
            bus.ask("task", run_id="run-1")
            wait_for(records_both)
            bus.ask("imaging", frames="300")
            wait_for(lambda: safe_traces(150))
            recorder.send_signal(signal.SIGKILL)
            recorder.wait()
            last_words = {instance: dict(topics) for instance, topics in safe.items()}
            read = {key_of(e) for e in read_journal(tmp_path / "runs" / "run-1")}
            assert {(imaging, Traces.topic, k) for k in range(last_words[imaging][Traces.topic] + 1)} <= read

            bus.ask("imaging", frames="50")  # nobody is there to write these
            recorder = bus.start_recorder()
            wait_for(lambda: records_both() and len(instances) == 2)
            bus.ask("imaging", frames="100")
            wait_for(lambda: safe_traces(449))
            bus.stop()
            wait_for(lambda: all(not t.is_alive() for t in bus.threads))
            listen()
            ask_answer(rig_file.rig.services["recording"].control, control.Stop(by="test"))
            assert recorder.wait(30) == 0
            wait_for(lambda: (listen(), audits)[1])
    finally:
        bus.stop()
    run = Run(tmp_path / "runs" / "run-1")
    (audit,) = audits
    assert [p.name for p in run.segments] == ["journal.mcap", "journal-2.mcap"]
    assert run.of(Audit) == [audit]
    assert audit.segments == 2
    assert audit.topics[Traces.topic].expected == 450
    missing = audit.topics[Traces.topic].expected - audit.topics[Traces.topic].written
    assert 50 <= missing <= 50 + 150  # those of between, and what was not yet said to be safe
    assert not audit.complete
    assert any("recording was restarted" in note for note in audit.notes)
    assert len(run.of(Session)) == 1  # sent again to the newcomer: the same message


# ---------------------------------------------------------------- slow


class SlowFile:
    """A disk that lets each write wait until the test lets it go, for some of the writes."""

    def __init__(self, file: Any, hold: threading.Event, held: threading.Event) -> None:
        self.file, self.hold, self.held = file, hold, held
        self.seek, self.truncate, self.fileno, self.close = file.seek, file.truncate, file.fileno, file.close

    def write(self, data: memoryview) -> int | None:
        self.held.set()
        self.hold.wait(30)
        return self.file.write(data)  # type: ignore[no-any-return]


def test_a_disk_that_hangs_for_a_while_loses_nothing(tmp_path, free_ports):
    """The recorder waits for its disk; meanwhile the bus keeps what comes, and all of it is written afterwards."""
    from loop2p.recording.service import Recording, RecordingOptions

    classes = {"recording": "loop2p.recording.service:Recording", "task": "toy_session:Conductor"}
    rig_file = toy_rig(free_ports(24), str(tmp_path / "runs"), classes=classes)
    hold, held = threading.Event(), threading.Event()
    hold.set()
    names = ("imaging", "task", "recording")
    peers = {name: Process(name, rig_file) for name in names}
    peers["recording"].service = Recording(
        RecordingOptions(), peers["recording"].context, lambda folder: SlowFile(open_segment(folder), hold, held)
    )
    threads = {name: threading.Thread(target=peer.run) for name, peer in peers.items()}
    for thread in threads.values():
        thread.start()
    recorder = peers["recording"].service
    try:
        wait_for(lambda: peers["recording"]._heard.keys() >= {"imaging", "task"})
        wait_for(
            lambda: ask_answer(rig_file.rig.services["task"].control, control.Ask("do", args={"run_id": "r"})).accepted
        )
        wait_for(recorder.flushed)
        held.clear()
        hold.clear()
        wait_for(held.is_set)  # a write hangs
        ask = control.Ask("do", args={"frames": "500"})
        assert ask_answer(rig_file.rig.services["imaging"].control, ask).accepted
        imaging = peers["imaging"].instance
        assert recorder.flushed().get(imaging, {}).get(Traces.topic, -1) < 499
        hold.set()
        wait_for(lambda: recorder.flushed().get(imaging, {}).get(Traces.topic) == 499)
        for name in names:  # recording last, when the others have said their last words
            peers[name].stop()
            threads[name].join(20)
    finally:
        hold.set()
        for name in names:
            if threads[name].is_alive():
                peers[name].stop()
                threads[name].join(20)
    run = Run(tmp_path / "runs" / "r")
    assert run.audit.topics[Traces.topic].written == run.audit.topics[Traces.topic].expected == 500
    assert run.audit.complete
