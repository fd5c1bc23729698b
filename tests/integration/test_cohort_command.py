"""`loop2p cohort` as a user runs it: killed and gone on with, one worker or two."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from short_day import SHORT_DAY


def command(folder: Path, workers: int = 2, *more: str) -> list[str]:
    task = folder.parent / "short.toml"
    task.write_text(SHORT_DAY)
    asked = ["--mice", "2", "--days", "2", "--cells", "40", "--seed", "5", "--task", str(task)]
    program = [sys.executable, "-m", "loop2p.cli.main", "cohort", "--out", str(folder), "--workers", str(workers)]
    return [*program, *asked, *more]


def decisions(folder: Path) -> list[np.ndarray]:
    out = []
    for path in sorted(folder.rglob("*.nwb")):
        with h5py.File(path) as file:
            out += [file[name][()] for name in ("processing/behavior/D/data", "stimulus/presentation/ShownAngle/data")]
    return out


def test_a_killed_cohort_goes_on_and_ends_like_one_that_never_stopped(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[bytes]]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole, 1), check=True, capture_output=True, timeout=240)
    first = spawn(*command(killed), stdout=-1, stderr=-1, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(killed.rglob("night-*.npz")):
        assert first.poll() is None, first.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.02)

    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert len(list(killed.rglob("night-*.npz"))) < 4
    subprocess.run(command(killed), check=True, capture_output=True, timeout=240)
    one, other = decisions(whole), decisions(killed)
    assert len(one) == len(other) == 8
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))

    refused = subprocess.run(command(killed, 2, "--arm", "led"), capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "arm: 'main' there, 'led' asked" in refused.stderr


def test_a_full_disk_and_an_unknown_arm_are_refused_before_the_start(tmp_path: Path) -> None:
    huge = subprocess.run(
        command(tmp_path / "a", 2, "--level", "traces", "--mice", "1000", "--days", "100", "--cells", "5000"),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert huge.returncode == 2
    assert "GB free, expected" in huge.stderr
    unknown = subprocess.run(command(tmp_path / "b", 2, "--arm", "mian"), capture_output=True, text=True, timeout=60)
    assert unknown.returncode == 2
    assert "expected one of main, ndnf" in unknown.stderr
