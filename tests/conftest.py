"""What all tests share: free ports, rig files, real recordings, and processes that are always ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from loop2p.cli.benchmarks.rig import free_ports as benchmark_ports

ROOT = Path(__file__).parents[1]
SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))
# The same examples every time, however long one takes on a machine that is busy.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; skips where it is absent."""
    folder = Path(os.environ.get("LOOP2P_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; set LOOP2P_DATA")
    return folder


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Ports that are free now (another program may still take one: the bind error then says so)."""
    return benchmark_ports


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes that are killed at the end of the test, whatever happens."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: object) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(SUPPORT)} | options.pop("env", {})  # type: ignore[operator]
        process = subprocess.Popen(command, env=env, **options)  # type: ignore[call-overload]
        started.append(process)
        return process  # type: ignore[no-any-return]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
