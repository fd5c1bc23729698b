"""Real-time scheduling: asked for, reported, never required; and nobody can freeze the machine by it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROBE = Path(__file__).parents[1] / "support" / "realtime_probe.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SCHED_RR is Linux'")
RR, ORDINARY = 2, 0


def probe(*how: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, str(PROBE), *how], capture_output=True, text=True, timeout=120)


def told(*how: str) -> dict[str, Any]:
    done = probe(*how)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said | {"log": done.stderr}


def need_permission() -> None:
    if not told("plain")["granted"]:
        pytest.skip("real-time scheduling is not permitted here (needs root, or RLIMIT_RTPRIO of 10)")


def test_without_permission_it_goes_on_and_says_why() -> None:
    said = told("limit", "0")
    assert (said["granted"], said["released"]) == (0, [ORDINARY, 0])
    assert "not granted: Operation not permitted (RLIMIT_RTPRIO is 0)" in said["log"]
    assert "docs/how-to/realtime.md" in said["log"]


def test_an_ordinary_user_whose_limit_allows_it_is_granted_it() -> None:
    said = told("limit", "20")
    if "refused" in said:
        pytest.skip(f"RLIMIT_RTPRIO can't be raised here: {said['refused']}")
    assert said["granted"] == 10
    assert "real-time priority 10 is granted" in said["log"]


def test_the_loop_and_zeromq_get_it_helpers_the_lowest_and_nobody_inherits_it() -> None:
    need_permission()
    said = told("threads")
    assert said["loop"] == [RR, 10]
    assert said["zmq"], "ZeroMQ's threads were not found by name"
    assert all(one == [RR, 10] for one in said["zmq"])
    assert said["helper"] == [RR, 1]
    assert said["later"] == [ORDINARY, 0], "a thread that starts later, as numba's and BLAS' do"
    assert said["child"] == ORDINARY
    assert said["released"] == [ORDINARY, 0]


def test_who_never_pauses_is_put_back_until_its_loop_comes_round() -> None:
    need_permission()
    said = told("busy")
    assert said["put back"] == [[ORDINARY, 0], [ORDINARY, 0]]
    assert said["renewed"] == [[RR, 10], [RR, 1]]
    assert "ran for 0.2 s without a pause (1 so far)" in said["log"]


def test_who_hangs_in_compiled_code_is_killed() -> None:
    need_permission()
    assert probe("hang").returncode == -signal.SIGKILL
