"""The benchmark of a browser that stops reading: that it does stop, is cut off and told of; not how fast."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rigs import toy_rig

from loop2p.cli.benchmarks.console_stalled import CUT, LEAVES, bench_stalled
from loop2p.console import Console, server
from loop2p.console.board import LIVE
from loop2p.console.options import ConsoleOptions

Ports = Callable[[int], list[int]]


def test_a_browser_that_stops_reading_is_cut_off_and_told_of_and_the_other_reads_on(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    *ports, port = free_ports(25)
    monkeypatch.setattr(server, "PING_S", 0.3)
    monkeypatch.setattr(server, "SILENT_S", 1.0)
    caplog.set_level(logging.INFO, "loop2p.console")
    console, stop = Console(ConsoleOptions(port=port), toy_rig(ports, str(tmp_path))), threading.Event()
    thread = threading.Thread(target=console.run, args=(stop,))
    command = [sys.executable, "-m", "loop2p.cli.benchmarks.console_stalled_clients", str(port), "stalled"]
    thread.start()
    try:
        console.board.put_picture(LIVE, 0, b"what a browser finds")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
            assert clients.stdout is not None
            assert clients.stdout.readline() == "connected\n"
            deadline = time.monotonic() + 60
            while not CUT.search(caplog.text):
                assert time.monotonic() < deadline, caplog.text
                console.board.put_picture(LIVE, 0, os.urandom(400_000))
                time.sleep(0.05)
            while not (left := LEAVES.findall(caplog.text)):
                assert time.monotonic() < deadline, caplog.text
                time.sleep(0.05)
            told = json.loads(clients.communicate(timeout=60)[0])
    finally:
        stop.set()
        thread.join(60)
    ((port_of_it, bytes_thrown_away), *_) = CUT.findall(caplog.text)
    assert int(port_of_it) in told["ports"]
    assert int(bytes_thrown_away) > 0
    assert told["cut_off"] >= 1  # it has noticed: what the system had for it is gone too
    assert told["pictures_per_s"] > 0
    (sent, passed_over), *_ = [(int(a), int(b)) for at, a, b in left if at == port_of_it]
    assert sent < passed_over


@pytest.mark.long
def test_the_loop_is_measured_without_and_with_a_browser_that_stops_reading() -> None:
    found = bench_stalled(n_commands=20, rounds=1, seed=1, say=print)
    assert all(q["n"] >= 20 for q in found["command_ms"].values())
    assert found["lost"] == {"without": 0, "with": 0}
    (without,), (with_,) = found["browsers"]["without"], found["browsers"]["with"]
    assert "ports" not in with_
    assert with_["stalled_s"] > 0
    assert min(without["pictures_per_s"], with_["pictures_per_s"]) > 0
    assert without["pictures_sent_to_it"] == 0 < with_["pictures_sent_to_it"]
