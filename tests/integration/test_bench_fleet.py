"""The benchmarks of fan-out, observers, rivals and hogs: that messages come through and are counted, not how fast."""

import os
import signal
from typing import Any

import pytest

from loop2p.cli.bench import spread
from loop2p.cli.benchmarks.hogs import bench_hogs, hogs
from loop2p.cli.benchmarks.observers import bench_observers
from loop2p.cli.benchmarks.transport import compare
from loop2p.cli.benchmarks.transport.compare import FRAME_BYTES, RIVALS, SMALL_BYTES, bench_rivals
from loop2p.cli.benchmarks.transport.ends import A_BURST, OVER, Ends, Tally
from loop2p.cli.benchmarks.transport.fanout import bench_fanout


def ordered(q: dict[str, Any], n: int) -> bool:
    return q["n"] == n and 0 < q["p50"] <= q["p99"] <= q["p999"] <= q["max"]


@pytest.mark.parametrize("n_bytes", [FRAME_BYTES, SMALL_BYTES])
def test_every_subscriber_gets_every_message(n_bytes: int) -> None:
    found = bench_fanout(n_bytes, rate_hz=50.0, n=10, rounds=2, counts=(1, 2), say=print)
    assert found["lost"] == {"1": 0, "2": 0}
    assert ordered(found["took_us"]["1"], 20)
    assert ordered(found["took_us"]["2"], 40)


def test_what_is_lost_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for index in (0, 1, 3, 3):
        tally.note(0, A_BURST + index)
    for index in range(OVER):
        tally.note(0, 2 * A_BURST - OVER + index)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('{"burst": 1, "took_ns": [')
    assert line.count(",") == 3, "three different messages of four are there"


def test_rivals_carry_the_same_bytes_and_those_absent_are_named() -> None:
    said: list[str] = []
    found = bench_rivals(SMALL_BYTES, rate_hz=100.0, n=10, rounds=2, say=said.append)
    there = {"ours"} | (RIVALS.keys() - found["absent"].keys())
    assert found["took_us"].keys() == found["lost"].keys() == there
    assert found["lost"]["ours"] == 0
    assert ordered(found["took_us"]["ours"], 20)
    for rival in RIVALS:
        if rival in found["absent"]:
            assert any(line.startswith(f"{rival} is left out: ") for line in said)
        else:
            assert len(found["ratio_p50"][rival]) == 2


def test_a_rival_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PACKAGES", dict.fromkeys(RIVALS, "no_such_package"))
    said: list[str] = []
    found = bench_rivals(SMALL_BYTES, rate_hz=100.0, n=10, rounds=1, say=said.append)
    assert found["took_us"].keys() == {"ours"}
    assert found["absent"].keys() == RIVALS.keys()
    assert "no_such_package is not installed" in said[0]


def test_an_end_that_leaves_is_told_of() -> None:
    with pytest.raises(RuntimeError, match="an end has left"), Ends("ours", "no ports", SMALL_BYTES):
        pass


@pytest.mark.long
def test_the_loop_runs_beside_observers_who_miss_nothing() -> None:
    found = bench_observers((0, 1), n_commands=20, rounds=1, seed=1, say=print)
    assert found["missed"] == found["lost"] == {"0": 0, "1": 0}
    assert found["heard"]["0"] == 0
    assert found["heard"]["1"] > 60, "traces, control value and command of 20 frames at least"
    assert len(found["ratio_p50"]["1"]) == 1


def test_hogs_end_with_the_block() -> None:
    with hogs(2) as ids:
        for one in ids:
            os.kill(one, 0)
    for one in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(one, signal.SIGTERM)


@pytest.mark.long
def test_both_ways_of_scheduling_are_measured() -> None:
    found = bench_hogs(n_hogs=1, n_commands=20, rounds=1, seed=1, say=print)
    assert all(q["n"] >= 20 for q in found["command_ms"].values())
    assert found["lost"] == {"ordinary": 0, "real-time": 0}
    assert len(found["ratio_p99"]) == 1


def test_a_spread_is_median_least_and_most() -> None:
    assert spread([1.0, 4.0, 2.0]) == "2.00 (1.00 to 4.00)"
