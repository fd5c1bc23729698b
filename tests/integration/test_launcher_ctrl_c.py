"""Ctrl-C in a terminal goes to every process of its foreground group; the rig's must not be among them."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rigs import toy_rig
from runtime_threads import wait_for

from loop2p.protocol import RigFile, parse_rig
from loop2p.runtime.launcher import Launcher

STANDBY = """
import msgspec


class Standby:
    class Options(msgspec.Struct):
        pass

    @classmethod
    def from_rig(cls, options, rig_file):
        return cls()

    def run(self, stop):
        print("here", flush=True)
        stop.wait()
"""


@pytest.fixture
def rig(free_ports: Callable[[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RigFile:
    (tmp_path / "standby.py").write_text(STANDBY, encoding="utf-8")
    support = Path(__file__).parents[1] / "support"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(support), os.environ.get("PYTHONPATH", ""))))
    text = toy_rig(free_ports(24), str(tmp_path), standins={"microscope": {"run": "standby:Standby"}}).text
    path = tmp_path / "toy.toml"
    path.write_text(text, encoding="utf-8")
    return parse_rig(text, path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other process groups")
def test_a_terminals_ctrl_c_reaches_the_launcher_alone(rig: RigFile, tmp_path: Path) -> None:
    launcher = Launcher(rig, "local", tmp_path / "logs")
    launcher.start()
    try:
        groups = {name: os.getpgid(process.pid) for name, process in launcher.processes.items()}
        assert os.getpgid(0) not in groups.values(), groups
        assert "microscope" in groups
    finally:
        launcher.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once there")
def test_a_stand_in_that_left_by_itself_does_not_break_the_stop(rig: RigFile, tmp_path: Path) -> None:
    launcher = Launcher(rig, "local", tmp_path / "logs")
    launcher.start()
    try:
        wait_for(lambda: "here" in launcher.last_words("microscope"))
        launcher.processes["microscope"].send_signal(signal.SIGTERM)
        wait_for(lambda: any((lost.name, lost.how) == ("microscope", "stopped") for lost in launcher.poll()))
    finally:
        assert launcher.stop() == []
