"""The loop of a whole rig beside a browser of the operator's page that stops reading, round by round."""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loop2p.cli.benchmarks.latency import TASK, Commands, measure
from loop2p.cli.benchmarks.machine import machine, quantiles
from loop2p.cli.benchmarks.rig import free_ports, running, sending, wait_until_ready, write_rig

WAYS = ("without", "with")
RATE_HZ, PLANES, N_ROIS = 30.92, 2, 10
LEAVES = re.compile(r"browser \S+:(\d+) leaves: (\d+) pictures sent, (\d+) passed over")
CUT = re.compile(r"browser \S+:(\d+) does not read and is cut off; (\d+) bytes")


def one_round(n_commands: int, stalled: bool, seed: int) -> tuple[Commands, dict[str, Any]]:
    """Six services, microscope and controller stand-ins, the page, a browser that reads and perhaps one that does not.

    Returns the loop's latency, and what became of the browsers. Raises RuntimeError if a part of it ends.
    """
    with tempfile.TemporaryDirectory(prefix="loop2p-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        image_port, port = free_ports(2)
        page = f'[companions.console]\nrun = "loop2p.console:Console"\noptions = {{port = {port}}}'
        with socket.create_server(("127.0.0.1", port)):  # held, so that the rig draws others
            rig_file = write_rig(folder, image_port, PLANES, RATE_HZ, N_ROIS, TASK, seed, companions=page, whole=True)
        told: dict[str, Any] = {}
        with running(rig_file, folder) as launcher:
            wait_until_ready(launcher, rig_file, ["task"])
            with sending(image_port, RATE_HZ, seed, folder / "sender.log"):
                run = measure(
                    launcher, rig_file, n_commands, RATE_HZ, PLANES, N_ROIS, lambda: browsers(port, stalled, told)
                )
        log = (launcher.logs / "console.log").read_text("utf-8", "replace")
    ports = {str(one) for one in told.pop("ports", [])}
    left = [found for found in LEAVES.findall(log) if found[0] in ports]
    return run, told | {
        "pictures_sent_to_it": sum(int(sent) for _, sent, _ in left),
        "pictures_passed_over": sum(int(passed) for _, _, passed in left),
        "bytes_thrown_away": sum(int(size) for at, size in CUT.findall(log) if at in ports),
    }


@contextmanager
def browsers(port: int, stalled: bool, told: dict[str, Any]) -> Iterator[None]:
    """A process with the browsers, until the block ends; then what it tells."""
    command = [sys.executable, "-m", "loop2p.cli.benchmarks.console_stalled_clients", str(port)]
    command += ["stalled"] if stalled else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "connected\n":
                raise RuntimeError(f"the browsers did not reach the page at 127.0.0.1:{port}")
            yield
            told |= json.loads(process.communicate(timeout=60)[0])
        finally:
            process.kill()


def bench_stalled(n_commands: int, rounds: int, seed: int = 1, say: Callable[[str], None] = print) -> dict[str, Any]:
    """`n_commands` a round and way, at 30.92 Hz with two planes; the rig is started anew each time. ms.

    `rounds_p99_ms`: of each round; `browsers`: what they got, a round each; the stalled one counts in "with".
    """
    info = machine()
    runs: dict[str, list[Commands]] = {way: [] for way in WAYS}
    told: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for k in range(rounds):
        for way in WAYS if k % 2 == 0 else WAYS[::-1]:  # neither is always first
            begun_s = time.monotonic()
            run, browser = one_round(n_commands, way == "with", seed)
            q, took_s = quantiles(run.took_ms), time.monotonic() - begun_s
            say(f"{k + 1} of {rounds}, {way} ({took_s:.0f} s): p50 {q['p50']:.2f}, p99 {q['p99']:.2f} ms; {browser}")
            runs[way].append(run)
            told[way].append(browser)
    each = {way: [quantiles(run.took_ms) for run in runs[way]] for way in WAYS}
    return {
        "command_ms": {way: quantiles([x for run in runs[way] for x in run.took_ms]) for way in WAYS},
        "rounds_p50_ms": {way: [q["p50"] for q in each[way]] for way in WAYS},
        "rounds_p99_ms": {way: [q["p99"] for q in each[way]] for way in WAYS},
        "lost": {way: sum(run.lost for run in runs[way]) for way in WAYS},
        "browsers": told,
        "rate_hz": RATE_HZ,
        "seed": seed,
        "machine": info,
    }
