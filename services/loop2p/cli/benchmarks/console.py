"""What the operator's page costs its machine: a puppet rig publishes as a real one does, browsers are plain readers."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from loop2p.cli.benchmarks.machine import machine
from loop2p.cli.benchmarks.rig import HEIGHT, WIDTH, free_ports, write_rig
from loop2p.protocol import (
    Cause,
    Clock,
    Heartbeat,
    Message,
    Output,
    Phase,
    PlaneRois,
    Preview,
    RigFile,
    Rois,
    Selection,
    Session,
    Show,
    Shown,
    Traces,
    Wheel,
    f32,
    i32,
)
from loop2p.runtime.bus import Bus

RATE_HZ, PLANES, N_ROIS = 30.92, 2, 10
PREVIEW_HZ, BEAT_HZ, WHEEL_HZ = 5.0, 20.0, 50.0
SETTLE_S = 3.0
"""Not counted: start, login, the first pictures."""
ROI_SIDE_PX = 12


class Puppets:
    """All six services of a rig, as far as their messages go; what they say is made up."""

    def __init__(self, rig_file: RigFile, seed: int) -> None:
        self._buses = {n: Bus(n, f"{n}-bench", spec) for n, spec in rig_file.rig.services.items()}
        self._rng = np.random.default_rng(seed)
        image = self._rng.gamma(2.0, 20.0, (HEIGHT, WIDTH)).clip(0, 255).astype(np.uint8)
        self._images = [np.roll(image, k, 1).tobytes() for k in range(8)]
        self._due_s: dict[str, float] = {}
        self._frame = self._pictures = 0
        self._say("task", Session(run_id="bench", rig=rig_file.text, task="", simulated=True))
        half = N_ROIS // 2
        self._say("task", Selection(plus=list(range(half)), minus=list(range(half, N_ROIS)), seed=seed))
        self._say("task", Phase(phase="closed_loop", day=1))
        self._say("imaging", self._rois(image))

    def _rois(self, image: "np.ndarray[Any, np.dtype[np.uint8]]") -> Rois:
        rows, cols = np.mgrid[:ROI_SIDE_PX, :ROI_SIDE_PX]
        at = np.arange(N_ROIS)[:, None] * 40 + 20
        planes = [
            PlaneRois(
                plane=p,
                names=[str(k) for k in range(N_ROIS)],
                lengths=i32([rows.size] * N_ROIS),
                rows=i32((at + rows.ravel()).ravel()),
                cols=i32((at + cols.ravel()).ravel()),
            )
            for p in range(PLANES)
        ]
        reference = f32(image)
        return Rois(set_id="bench", height=HEIGHT, width=WIDTH, planes=planes, buffers=(reference, reference))

    def _say(self, name: str, message: Message) -> None:
        self._buses[name].publish(message, time.perf_counter_ns())

    def _is_due(self, what: str, rate_hz: float, now_s: float) -> bool:
        due_s = self._due_s.setdefault(what, now_s)
        if now_s < due_s:
            return False
        self._due_s[what] = max(due_s + 1 / rate_hz, now_s - 1)
        return True

    def step(self) -> None:
        """Publish what is due."""
        now_s, now_ns = time.perf_counter(), time.perf_counter_ns()
        for bus in self._buses.values():
            bus.welcome()
        if self._is_due("frame", RATE_HZ, now_s):
            frame, plane = self._frame, self._frame % PLANES
            self._frame += 1
            cause = Cause(frame, plane, frame / RATE_HZ, now_ns)
            values = self._rng.normal(100, 5, N_ROIS)
            self._say("imaging", Traces(plane=plane, f=f32(values), shift_y_px=0.3, quality=0.9, cause=cause))
            if plane == 0:
                value = float(values[0] / 1000)
                self._say("decoding", Output(d=value, value=value, dff=f32(values / 100), cause=cause))
            if frame % 20 == 0:
                show = Show(what="grating", angle_deg=float(15 * (frame // 20 % 7)), cause=cause)
                self._say("task", show)
                self._say("stimulus", Shown(what="grating", angle_deg=show.angle_deg, flip_ns=now_ns, cause=cause))
        if self._is_due("preview", PREVIEW_HZ, now_s):
            image = self._images[self._pictures % len(self._images)]
            plane = self._pictures % PLANES
            self._pictures += 1
            self._say("imaging", Preview(plane=plane, height=HEIGHT, width=WIDTH, low=0, high=255, buffers=(image,)))
        if self._is_due("beat", BEAT_HZ, now_s):
            for name in self._buses:
                self._say(name, Heartbeat(health="ready", run_id="bench", counters={"trials_hit": 1}))
        if self._is_due("wheel", WHEEL_HZ, now_s):
            self._say("actuation", Wheel(count=0, speed_cm_s=float(self._rng.normal(10, 1)), t_ns=now_ns))
        if self._is_due("clock", 1.0, now_s):
            for name in self._buses:
                self._say(name, Clock(offset_ns=0, bound_ns=50_000, round_trip_ns=100_000))

    def until(self, end_s: float) -> None:
        """Publish in real time until then (perf_counter)."""
        while (left_s := end_s - time.perf_counter()) > 0:
            self.step()
            time.sleep(min(left_s, 0.004))

    def close(self) -> None:
        for bus in self._buses.values():
            bus.close()


def bench_console(clients: int, seconds: float, seed: int) -> dict[str, Any]:
    """Serve so many readers for so long: processor time of the page's process, and what each reader got, a second.

    Raises RuntimeError if the page or the readers end.
    """
    import psutil

    info = machine()
    with tempfile.TemporaryDirectory(prefix="loop2p-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        image_port, port = free_ports(2)
        page = f'[companions.console]\nrun = "loop2p.console:Console"\noptions = {{port = {port}}}'
        task = "loop2p.task.bench_task:EchoTask"
        rig_file = write_rig(folder, image_port, PLANES, RATE_HZ, N_ROIS, task, seed, companions=page)
        puppets = Puppets(rig_file, seed)
        serve = [sys.executable, "-m", "loop2p.cli.main", "serve", "console", str(rig_file.path)]
        read = [sys.executable, "-m", "loop2p.cli.benchmarks.console_readers", str(port), str(clients), str(seconds)]
        try:
            with _process(serve, folder / "console.log") as console, _process(read, folder / "readers.json") as readers:
                until_ready(puppets, console, folder / "readers.json")
                watched = psutil.Process(console.pid)
                puppets.until(time.perf_counter() + SETTLE_S)
                before, begun_s = watched.cpu_times(), time.perf_counter()
                puppets.until(begun_s + seconds)
                after, took_s = watched.cpu_times(), time.perf_counter() - begun_s
                rss_mb = watched.memory_info().rss / 1e6
                while readers.poll() is None:
                    puppets.until(time.perf_counter() + 0.1)
                got = json.loads((folder / "readers.json").read_text("utf-8").splitlines()[-1])
        finally:
            puppets.close()
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "clients": clients,
        "seconds": seconds,
        "seed": seed,
        "cpu_percent_of_a_core": 100 * cpu_s / took_s,
        "rss_mb": rss_mb,
        "rows_per_s": got["rows_per_s"],
        "pictures_per_s": got["pictures_per_s"],
        "kb_per_s": got["kb_per_s"],
        "machine": info,
    }


def until_ready(puppets: Puppets, console: "subprocess.Popen[bytes]", said: Path, timeout_s: float = 60.0) -> None:
    """Wait until all readers are connected. Raises RuntimeError."""
    deadline = time.perf_counter() + timeout_s
    while "connected" not in said.read_text("utf-8"):
        if console.poll() is not None or time.perf_counter() > deadline:
            raise RuntimeError(f"the page was not reached within {timeout_s:g} s: {said.read_text('utf-8')}")
        puppets.until(time.perf_counter() + 0.1)


@contextmanager
def _process(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()
