"""The laboratory is what it says, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import HOSTS, OFFSETS_S, Laboratory

pytestmark = pytest.mark.net
SEED = 20261130
SUPPORT = Path(__file__).parents[1] / "support"
MADE_AND_KILLED = """
import os, signal, sys
from pathlib import Path
from lab import Laboratory
lab = Laboratory(Path(sys.argv[1]), 1)
lab.hosts["control"].start("sleep", "1000")
print(*(host.pid for host in lab.hosts.values()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def socket_pair(lab: Laboratory, near: str, far: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """UDP sockets on two machines, connected to one another."""
    with lab.hosts[near].inside():
        a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        a.bind((HOSTS[near], 0))
    with lab.hosts[far].inside():
        b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        b.bind((HOSTS[far], 0))
    with a, b:
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        a.settimeout(10)
        b.settimeout(10)
        a.send(b"first")  # the machines learn each other's address
        assert b.recv(9) == b"first"
        yield a, b


def test_a_wire_delays_loses_and_is_cut_as_asked(tmp_path: Path):
    with Laboratory(tmp_path, SEED) as lab, socket_pair(lab, "microscope", "control") as (a, b):
        lab.cables["microscope"].be(delay_ms=5.0, jitter_ms=1.0)
        took = []
        for k in range(100):
            started = time.perf_counter()
            a.send(str(k).encode())
            assert b.recv(9) == str(k).encode(), "in order"
            took.append(1e3 * (time.perf_counter() - started))
        print(f"5 ms +- 1 ms asked: {min(took):.2f} to {max(took):.2f} ms")
        assert min(took) >= 4.0
        counts = before = lab.cables["control"].be(there={"loss": 0.2})
        for k in range(1, 21):  # a hundred at a time: the device's own queue holds some more
            for _ in range(100):
                b.send(b"x")
            while sum(counts["there"].values()) < sum(before["there"].values()) + 100 * k:
                counts = lab.cables["control"].be()
        lab.cables["control"].be(loss=0.0)
        lost = counts["there"]["lost"] / 2000
        print(f"20 % loss asked: {100 * lost:.1f} %")
        assert lost == pytest.approx(0.2, abs=0.05)
        assert counts["back"]["lost"] == 0
        cut_before = lab.cables["control"].be(cut=True)["there"]["cut"]
        b.send(b"gone")
        while lab.cables["control"].be()["there"]["cut"] == cut_before:
            pass
        lab.cables["control"].mend()
        b.send(b"mended")
        arrived = list(iter(lambda: a.recv(9), b"mended"))
        assert arrived, "what was sent before the cut"
        assert b"gone" not in arrived


def test_clocks_are_off_as_asked(tmp_path: Path):
    with Laboratory(tmp_path, SEED, OFFSETS_S) as lab:
        for name, host in lab.hosts.items():
            before = time.perf_counter()
            there = float(host.call(sys.executable, "-S", "-c", "import time; print(time.perf_counter())"))
            assert before <= there - OFFSETS_S[name] <= time.perf_counter()


def test_nothing_is_left_of_a_laboratory_whose_test_was_killed(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    command = [sys.executable, "-c", MADE_AND_KILLED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.splitlines()[-1].split()]
    assert len(pids) == len(HOSTS)
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}/ns/net") for pid in pids):
        assert time.monotonic() < deadline, f"machines {pids} live on"
