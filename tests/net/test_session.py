"""The session of `make run` across three machines: 2 ms +- 0.5 ms from one to another, 0.1 % of frames lost."""

import json
import shutil
from pathlib import Path

import pytest
from lab import HALF_WAY, HOSTS, OFFSETS_S, Laboratory
from lab.rig import SpreadRig, spread
from lab.truth import clock_errors, said
from test_cut import assert_each_reward_was_given_once

from loop2p.protocol import Clock, Shown
from loop2p.recording.journal import read_journal
from loop2p.recording.trace import trace_frame
from loop2p.simulation.controller import read_pin_log

pytestmark = [pytest.mark.net, pytest.mark.long, pytest.mark.timeout(900)]
SEED = 20261130
DEPLOY = Path(__file__).parents[2] / "deploy"
SETTLED_S = 30.0
"""By then the clocks have half of the exchanges that they remember."""


def test_make_run_across_three_machines(tmp_path: Path):
    for rois in (DEPLOY / "rigs").glob("simulated_rois_*.json"):
        shutil.copy(rois, tmp_path)
    text = (DEPLOY / "rigs" / "simulated.toml").read_text(encoding="utf-8")
    pins = f'\npin_log = "{tmp_path / "pins.jsonl"}"\n'  # behind the controller's options, the file's last table
    with Laboratory(tmp_path, SEED, OFFSETS_S) as lab:
        lab.be(**HALF_WAY)
        rig_file = spread(text + pins, tmp_path, clock={"reference": "task", "bound_limit_ms": 10.0})
        with SpreadRig(lab, rig_file, ("microscope", "stimulus")) as rig:
            task = str(DEPLOY / "tasks" / "short.toml")
            session = rig.start("control", "run", str(rig_file.path), task, "--host", "control", "--json")
            code = session.wait(600)
            counts = {name: cable.be() for name, cable in lab.cables.items()}
            for host in HOSTS:
                rig.start(host, "stop", str(rig_file.path), "--host", host).wait(60)
            rig.finish()
        assert code == 0, rig.last_words()
        folder = (lab.hosts["control"].folder / "runs" / "latest").resolve()
        clocks = [
            (r.header.source, r.header.instance, r.header.sent_ns, r.message)
            for r in read_journal(folder)
            if isinstance(r.message, Clock) and not r.header.resent
        ]
        errors = clock_errors(lab, clocks)
    summary = json.loads((folder / "summary.json").read_text())
    lost = sum(way["lost"] for cable in counts.values() for way in cable.values())
    passed = sum(way["passed"] for cable in counts.values() for way in cable.values())
    print(f"{passed} Ethernet frames passed, {lost} lost ({100 * lost / (passed + lost):.3f} % of each cable's)")
    print(f"latency {json.dumps(summary['latency_ms'])}")
    print(f"{summary['trials']} trials, {summary['hits']} hits, {summary['voids']} void, alarms {summary['alarms']}")
    print(said(errors))
    settled = [e for e in errors if e.at_s > SETTLED_S]
    print(f"behind the first {SETTLED_S:g} s\n{said(settled)}")
    assert not [e for e in errors if abs(e.error_us) > e.bound_us], "the true error was beyond the stated bound"
    for name in ("command", "shown", "valve"):  # two machines stamped these
        row = summary["latency_ms"][name]
        assert row["n"] == 0 or row["bound"] > 1.0, f"{name}: half a round trip of 4 ms, less the jitter"
    causes = [r.header.cause for r in read_journal(folder) if r.topic == Shown.topic]
    shown = [cause.frame for cause in causes if cause is not None]
    steps = {step["topic"]: step["bound_ms"] for step in trace_frame(folder, shown[-1])}
    assert steps["stimulus.shown"] > 1.0
    assert steps["frame"] == steps["imaging.traces"] == 0.0
    assert summary["audit"]["complete"], summary["notes"]
    assert all(row["lost"] == 0 for row in summary["services"].values()), summary["services"]
    assert_each_reward_was_given_once(folder, read_pin_log(tmp_path / "pins.jsonl"))
