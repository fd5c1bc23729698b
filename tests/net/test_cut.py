"""A session across three machines; the microscope's cable is out for 4 s in mid-trial."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lab import HALF_WAY, HOSTS, OFFSETS_S, Laboratory
from lab.rig import SpreadRig, small_rig
from lab.truth import clock_errors, said
from whole_rig import task_text

from loop2p.protocol import (
    Accepted,
    Done,
    Envelope,
    Heartbeat,
    Output,
    Phase,
    RequestLog,
    RewardCommand,
    Stall,
    Traces,
    Trial,
)
from loop2p.recording.journal import read_journal
from loop2p.recording.run import Run
from loop2p.simulation.controller import read_pin_log

pytestmark = pytest.mark.net
SEED = 20261130
CUT_S = 4.0


def edge(*edges: str) -> Any:
    return lambda e: isinstance(e.message, Trial) and e.message.edge in edges


def is_back(envelope: Envelope) -> bool:
    m = envelope.message
    return isinstance(m, RequestLog) and (m.kind, m.detail) == ("back", "imaging")


def pass_time(rig: SpreadRig, seconds: float) -> None:
    """Let the rig live on for so long, by the stamps of task's heartbeats."""
    first: list[int] = []

    def over(envelope: Envelope) -> bool:
        if envelope.topic != Heartbeat.topic or envelope.header.source != "task":
            return False
        first.append(envelope.header.sent_ns)
        return envelope.header.sent_ns - first[0] >= seconds * 1e9

    rig.wait(over, f"{seconds:g} s of heartbeats")


def missing_numbers(folder: Path, topic: str, source: str) -> list[int]:
    """Numbers that are not in the journal, of what one service has published of a topic."""
    numbers = [r.header.seq for r in read_journal(folder) if (r.topic, r.header.source) == (topic, source)]
    return sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))


def named(notes: list[str], topic: str) -> list[int]:
    """The numbers that the audit names."""
    found = []
    for note in notes:
        match = re.fullmatch(rf"{re.escape(topic)} of \S+: \d+ of \d+ missing, numbers ([\d, -]+)", note)
        for part in match[1].split(", ") if match else []:
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    return found


def test_a_cut_cable_is_noticed_made_safe_recorded_and_overcome(tmp_path: Path):
    with Laboratory(tmp_path, SEED, OFFSETS_S) as lab:
        lab.be(**HALF_WAY)
        rig_file = small_rig(tmp_path)
        with SpreadRig(lab, rig_file) as rig:
            answer = rig.begin(task_text(seconds=600))
            assert answer.accepted, answer.reason
            rig.wait(lambda e: isinstance(e.message, Done) and e.message.volume_ul > 0, "a reward")
            rig.wait(edge("start"), "a trial")
            cut_at = lab.now_ns("control")
            lab.cables["microscope"].cut()
            lost = rig.wait(lambda e: isinstance(e.message, Stall) and e.message.what == "imaging", "imaging's loss")
            void = rig.wait(edge("void"), "the end of the trial")
            pass_time(rig, CUT_S - (lab.now_ns("control") - cut_at) / 1e9)
            mended_at = lab.now_ns("control")
            lab.cables["microscope"].mend()
            back = rig.wait(is_back, "imaging's return")
            rig.wait(edge("start"), "the next trial")
            rig.wait(lambda e: isinstance(e.message, Done) and e.message.volume_ul > 0, "a reward behind the cut")
            assert rig.ask("stop").accepted
            rig.wait(lambda e: isinstance(e.message, Phase) and e.message.phase == "ended", "the end")
            errors = clock_errors(lab, rig.clocks)
            for host in HOSTS:
                assert rig.start(host, "stop", str(rig_file.path), "--host", host).wait(60) == 0, rig.last_words()
            rig.finish()
    noticed_s, back_s = (lost.header.sent_ns - cut_at) / 1e9, (back.header.sent_ns - mended_at) / 1e9
    print(f"cut noticed after {noticed_s:.2f} s; imaging back {back_s:.2f} s after the cable\n{said(errors)}")
    assert noticed_s <= 2.0
    assert void.message.reason == "imaging was lost"
    assert not [e for e in errors if abs(e.error_us) > e.bound_us]

    edges = read_pin_log(tmp_path / "pins.jsonl")
    in_the_cut = [e for e in edges if cut_at < e.ns < mended_at]
    late_ms = max([(e.ns - cut_at) / 1e6 for e in in_the_cut], default=0.0)
    print(f"pins low {late_ms:.0f} ms after the cut")
    before = [e for e in edges if e.ns <= mended_at]
    assert {pin: [e.level for e in before if e.pin == pin][-1] for pin in ("valve", "led")} == {"valve": 0, "led": 0}
    assert not [e for e in in_the_cut if e.level and e.ns - cut_at > 0.5e9], "something fired without a microscope"

    folder = lab.hosts["control"].folder / "runs" / "one"
    run = Run(folder)
    gone = missing_numbers(folder, Traces.topic, "imaging")
    print(f"imaging.traces missing: {gone[0]}-{gone[-1]}, {len(gone)}; audit: {run.audit.notes[:2]}")
    assert gone == list(range(gone[0], gone[-1] + 1)), "one cut, one gap"
    assert named(run.audit.notes, Traces.topic) == gone
    counts = run.audit.topics[Traces.topic]
    assert counts.expected - counts.written == len(gone)
    for kind in (Output, RewardCommand, Accepted, Done, Trial):
        assert run.audit.topics[kind.topic].expected == run.audit.topics[kind.topic].written, kind.topic
    assert_each_reward_was_given_once(folder, edges)


def assert_each_reward_was_given_once(folder: Path, edges: list[Any]) -> None:
    """Commands acknowledged, reports and the valve's own pin log tell of the same drops."""
    messages = [r.message for r in read_journal(folder)]
    done = Counter(m.id for m in messages if isinstance(m, Done) and m.volume_ul > 0)
    accepted = {m.id for m in messages if isinstance(m, Accepted)}
    commanded = {m.id for m in messages if isinstance(m, RewardCommand) and m.volume_ul > 0}
    assert set(done) == commanded & accepted
    assert set(done.values()) == {1}
    assert len([e for e in edges if e.pin == "valve" and e.level]) == len(done)
