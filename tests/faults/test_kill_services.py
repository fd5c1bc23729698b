"""Each service killed in mid-trial: outputs go safe in time, the record is whole, the session goes on."""

import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from whole_rig import Running, pin_edges, running, task_text, whole_rig

from loop2p.protocol import Accepted, Envelope, Heartbeat, Phase, Stall, Trial
from loop2p.recording.journal import read_journal

SAFE_MS = 250.0
SERVICES = ["imaging", "decoding", "task", "stimulus", "actuation", "recording"]


def started(rig: Running) -> None:
    """The rig is in closed loop with the LED firing on every frame."""
    answer = rig.start(task_text(seconds=600, threshold=0.08))
    assert answer.accepted, answer.reason
    rig.wait_for(Phase, phase="closed_loop")
    rig.wait_for(Trial, edge="start")
    wait_for_led(rig, 0)


def wait_for_led(rig: Running, since_ns: int) -> None:
    """The LED fires, at a time later than this one."""
    deadline = time.monotonic() + 30
    while not any(e["pin"] == "led" and e["level"] and e["ns"] > since_ns for e in pin_edges(rig.folder)):
        assert time.monotonic() < deadline, "the LED did not fire\n" + rig.last_words()
        rig.lost += rig.launcher.poll()
        rig.heard += rig.monitor.wait(0.02)


@pytest.mark.parametrize("victim", SERVICES)
def test_a_killed_service(victim: str, tmp_path: Path, free_ports: Callable[[int], list[int]]) -> None:
    rig_file = whole_rig(tmp_path, free_ports(28))
    with running(rig_file, tmp_path) as rig:
        started(rig)
        flushed: dict[str, dict[str, int]] = {}
        for envelope in rig.heard:
            if isinstance(envelope.message, Heartbeat) and envelope.header.source == "recording":
                flushed = envelope.message.flushed
        before = rig.launcher.processes[victim].pid
        killed_ns = time.perf_counter_ns()
        os.kill(before, signal.SIGKILL)

        said = rig.wait(
            lambda e: (
                (isinstance(e.message, Trial) and e.message.edge == "void")
                or (isinstance(e.message, Stall) and victim in e.message.what)
                or (isinstance(e.message, Phase) and e.message.phase == "paused")
            ),
            f"a word on the loss of {victim}",
        )
        assert said is not None
        # it is started again by its policy, and the session goes on with a new trial

        def new_trial(envelope: Envelope) -> bool:
            message, sent_ns = envelope.message, envelope.header.sent_ns
            return isinstance(message, Trial) and message.edge == "start" and sent_ns > said.header.sent_ns

        trial = rig.wait(new_trial, f"a new trial after the loss of {victim}")
        wait_for_led(rig, trial.header.sent_ns)
        accepted = [e for e in rig.heard if isinstance(e.message, Accepted)]
        assert [lost.name for lost in rig.lost] == [victim]
        assert rig.launcher.processes[victim].pid != before
        rig.ask("stop")
        rig.wait_for(Phase, phase="ended")

    edges = pin_edges(tmp_path)
    after = [e for e in edges if e["ns"] > killed_ns]
    safe_ns = killed_ns + int(SAFE_MS * 1e6)
    # from the limit until the successor is armed again nothing is high
    level = {"valve": 0, "led": 0}
    for edge in edges:
        if edge["ns"] > safe_ns:
            break
        level[edge["pin"]] = edge["level"]
    assert level == {"valve": 0, "led": 0}, after[:5]
    gap_ns = longest_gap_ns(killed_ns, [e["ns"] for e in after if e["pin"] == "led" and e["level"]])
    assert gap_ns > SAFE_MS * 1e6, "the LED went on firing as if nothing had happened"

    records = list(read_journal(rig.run_folder))
    written = {(r.header.instance, r.topic): r.header.seq for r in records}
    for instance, topics in flushed.items():
        for topic, seq in topics.items():
            assert written[instance, topic] >= seq, (
                f"{topic} {seq} of {instance} was acknowledged and is not in the journal"
            )
    on_record = {r.message.id for r in records if isinstance(r.message, Accepted)}
    if victim != "recording":
        assert on_record >= {e.message.id for e in accepted}


def longest_gap_ns(start_ns: int, times_ns: list[int]) -> int:
    """The longest stretch without an LED pulse from `start_ns` on."""
    marks = [start_ns, *times_ns]
    return max((b - a for a, b in pairwise(marks)), default=0)


def test_a_second_run_on_the_same_rig_is_refused(
    tmp_path: Path, free_ports: Callable[[int], list[int]], spawn: Callable[..., object]
) -> None:
    rig_file = whole_rig(tmp_path, free_ports(28))
    task = tmp_path / "task.toml"
    task.write_text(task_text(seconds=600))
    command = [sys.executable, "-m", "loop2p.cli.main", "run", str(rig_file.path), str(task), "--quiet"]
    first = spawn(*command, stdout=-1, stderr=-1, cwd=tmp_path)
    rig = Running(rig_file, tmp_path)
    try:
        rig.wait(lambda e: isinstance(e.message, Trial), "the first session's first trial")
        second = spawn(*command, stdout=-1, stderr=-1, cwd=tmp_path)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 1
        assert b"this rig is in use by process" in err
        first.send_signal(signal.SIGINT)  # a clean end: files are made, exit code 0
        out, err = first.communicate(timeout=120)
        assert first.returncode == 0, err
        assert b"audit: complete" in out
        assert (tmp_path / "runs" / "latest" / "session.nwb").exists()
    finally:
        rig.monitor.close()
