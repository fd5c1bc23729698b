"""A rig for benchmarks: real services on free ports, a separate sender, nothing else."""

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from loop2p.protocol import ROLES, RigFile, control, read_rig
from loop2p.runtime.ask import ask
from loop2p.runtime.launcher import Launcher

HEIGHT, WIDTH = 512, 796


PORTS = range(12_000, 32_000)
"""Below those that systems give to outgoing connections, which could take one before its service binds it."""


def free_ports(n: int) -> list[int]:
    """Ports that are free now, drawn at random."""
    found: list[int] = []
    for port in random.Random().sample(PORTS, len(PORTS)):  # of no seed: two at a time must not draw the same
        with socket.socket() as sock, contextlib.suppress(OSError):  # taken: the next one
            sock.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == n:
            return found
    raise OSError(f"{len(found)} free ports from {PORTS.start} to {PORTS.stop - 1}, expected {n}")


def write_rois(path: Path, n: int, seed: int) -> None:
    """n discs of about 150 px as neurofinder JSON."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[-7:8, -7:8]
    dy, dx = (a[yy**2 + xx**2 <= 48] for a in (yy, xx))
    rois = []
    for k in range(n):
        y, x = int(rng.integers(30, HEIGHT - 30)), int(rng.integers(30, WIDTH - 30))
        rois.append({"id": k, "coordinates": [[int(y + a), int(x + b)] for a, b in zip(dy, dx, strict=True)]})
    path.write_text(json.dumps(rois), encoding="utf-8")


def write_rig(
    folder: Path,
    image_port: int,
    planes: int,
    rate_hz: float,
    n_rois: int,
    task: str,
    seed: int,
    realtime_priority: int = 0,
    companions: str = "",
    whole: bool = False,
) -> RigFile:
    """imaging, decoding, task and actuation with its controller; stimulus and recording stay out unless it is `whole`,
    and so do previews.

    `companions`: tables of the rig file, as text.
    """
    for plane in range(planes):
        write_rois(folder / f"rois{plane}.json", n_rois, seed + plane)
    ports = iter(free_ports(3 * len(ROLES) + 2))
    serial_port, wires_port = next(ports), next(ports)
    lines = [
        'name = "bench"',
        "simulated = true",
        f"[microscope]\nheight = {HEIGHT}\nwidth = {WIDTH}\nplanes = {planes}\nrate_hz = {rate_hz}",
        f"[data]\nfolder = {json.dumps(str(folder / 'runs'))}\nfree_gb = 0.1",
    ]
    rois = ", ".join(f'{{plane = {p}, path = "rois{p}.json", format = "neurofinder"}}' for p in range(planes))
    options = {
        "imaging": f'source = {{kind = "tcp", image_port = {image_port}}}\nrois = [{rois}]\n'
        f"preview_hz = {5 if whole else 0}",
        "task": "start_timeout_s = 180",
        "stimulus": 'renderer = "software"\nwidth_px = 160\nheight_px = 90',
        "actuation": f'controller = "socket://127.0.0.1:{serial_port}"\n'
        'valve = {date = "2026-11-02", points = [{open_ms = 40, ul = 4}]}\ncalibration_stale_days = 0',
    }
    for role in ROLES:
        lines.append(f"[services.{role}]")
        lines += [f'{which} = "tcp://127.0.0.1:{next(ports)}"' for which in ("publish", "bulk", "control")]
        if role in ("stimulus", "recording") and not whole:
            lines.append("external = true")
        elif realtime_priority:
            lines.append(f"realtime_priority = {realtime_priority}")
        if role == "task":
            lines.append(f'class = "{task}"')
        if role in options:
            lines.append(f"[services.{role}.options]\n{options[role]}")
    lines.append('[standins.controller]\nrun = "loop2p.simulation.controller:Controller"')
    lines.append(f'options = {{tcp = "127.0.0.1:{serial_port}", wires = "127.0.0.1:{wires_port}"}}')
    lines.append(companions)
    path = folder / "bench.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_rig(path)


@contextmanager
def running(rig_file: RigFile, folder: Path) -> Iterator[Launcher]:
    """The rig's processes, until the block ends."""
    launcher = Launcher(rig_file, "local", folder / "logs")
    launcher.start()
    try:
        yield launcher
    finally:
        launcher.stop()


def wait_until_ready(launcher: Launcher, rig_file: RigFile, names: list[str], timeout_s: float = 90.0) -> None:
    """Wait until the named services say that they are ready. Raises RuntimeError with what they lack."""
    deadline = time.monotonic() + timeout_s
    why = {name: ["no answer"] for name in names}
    while any(why.values()):
        for lost in launcher.poll():
            raise RuntimeError(f"{lost.name} ended ({lost.how}):\n{launcher.last_words(lost.name, 8)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready within {timeout_s:g} s: {why}")
        for name in names:
            reply = ask(rig_file.rig.services[name].control, control.Hello(), 0.5)
            why[name] = list(reply.why_not_ready) if isinstance(reply, control.HelloReply) else ["no answer"]
        time.sleep(0.05)


@contextmanager
def sending(image_port: int, rate_hz: float, seed: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A separate process that streams frames, column-major; rate 0: flat out."""
    command = [sys.executable, "-m", "loop2p.cli.benchmarks.stream", str(image_port), str(rate_hz), str(seed)]
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)
