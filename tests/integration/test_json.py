"""What a program gets from commands that ask or make something: JSON, and the exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rigs import rig_text
from synthetic_session import write_journal

from loop2p.protocol import Lick, seal
from loop2p.recording.journal import read_journal

Ports = Callable[[int], list[int]]


def loop2p(*words: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "loop2p.cli.main", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_nobody_there_is_an_answer_too(tmp_path: Path, free_ports: Ports) -> None:
    rig = tmp_path / "rig.toml"
    rig.write_text(rig_text(free_ports(24), "runs"), encoding="utf-8")
    code, said = loop2p("ask", str(rig), "pause")
    assert (code, said["accepted"]) == (1, False)
    assert "is the service running?" in said["reason"]
    code, said = loop2p("stop", str(rig), "--host", "elsewhere")
    assert (code, said) == (0, {})


def test_keys_that_were_made_and_those_that_were_there(tmp_path: Path, free_ports: Ports) -> None:
    rig = tmp_path / "rig.toml"
    rig.write_text(rig_text(free_ports(24), "runs", extra='[security]\nkeys = "keys"'), encoding="utf-8")
    code, said = loop2p("keys", str(rig), "task")
    assert (code, said) == (0, {"task": {"made": True, "host": "local"}})
    _, said = loop2p("keys", str(rig), "task", "stimulus")
    assert [said[name]["made"] for name in ("task", "stimulus")] == [False, True]


def test_what_was_made_is_named(tmp_path: Path, free_ports: Ports) -> None:
    rig = tmp_path / "rig.toml"
    rig.write_text(rig_text(free_ports(24), "runs"), encoding="utf-8")
    code, said = loop2p("metrics", str(rig), "--out", str(tmp_path / "watch"))
    assert (code, Path(said["config"])) == (0, tmp_path / "watch" / "prometheus.yml")
    assert all((tmp_path / "watch" / name).exists() for name in said["rules"])
    write_journal(tmp_path, [(11, seal(Lick(count=3, t_ns=9), "actuation", "actuation-1", 0, 10))])
    code, said = loop2p("recover", str(tmp_path / "journal.mcap"))
    assert code == 0
    assert [record.topic for record in read_journal(Path(said["journal"]))] == [Lick.topic]
