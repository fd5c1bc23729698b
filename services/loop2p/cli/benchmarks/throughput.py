"""How many full frames a second go through imaging, decoding and task without loss."""

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from loop2p.cli.benchmarks.machine import machine
from loop2p.cli.benchmarks.rig import free_ports, running, sending, wait_until_ready, write_rig
from loop2p.protocol import Heartbeat, control
from loop2p.runtime.ask import ask_answer
from loop2p.runtime.monitor import Monitor

WINDOWS = 5
DECODED_HZ = 15.46
"""The rate in the rig file: F0 then has its real window of 464 frames, however fast the frames come."""
TASK = "loop2p.task.bench_task:LoopTask"
SERVICES = ["imaging", "decoding", "task"]
SESSION = """
[selection]
plus = [0, 1, 2, 3, 4]
minus = [5, 6, 7, 8, 9]
[baseline]
duration_s = 0
[calibration]
fixed = { minimum = -10.0, threshold = 10.0 }
"""


def bench_throughput(
    n_rois: int, seconds: float = 20.0, seed: int = 1, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """The sender pushes flat out; TCP's own flow control makes it wait for imaging. Task is in closed loop.

    Frames a second are counted by task (each frame of the one plane is decoded and decided on) in `WINDOWS` windows;
    memory is each service's resident size after the first window and at the end.
    """
    import psutil

    with tempfile.TemporaryDirectory(prefix="loop2p-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (port,) = free_ports(1)
        rig_file = write_rig(folder, port, 1, DECODED_HZ, n_rois, TASK, seed)
        say(f"flat out, {n_rois} ROIs, {seconds:g} s, seed {seed} ...")
        info = machine()
        with running(rig_file, folder) as launcher, Monitor(rig_file.rig, ("rig.heartbeat",)) as bus:
            wait_until_ready(launcher, rig_file, ["task"])
            args = {"task": SESSION, "task_path": "bench", "run_id": "bench", "by": "bench"}
            answer = ask_answer(rig_file.rig.services["task"].control, control.Ask("start", "bench", args), 5.0)
            if not answer.accepted:
                raise RuntimeError(f"task refuses to start: {answer.reason}")
            with sending(port, 0, seed, folder / "sender.log"):
                wait_until_ready(launcher, rig_file, SERVICES)
                beats: dict[str, Heartbeat] = {}
                sizes: list[dict[str, int]] = []
                marks: list[tuple[float, int, int, int]] = []
                for _ in range(WINDOWS + 1):
                    until = time.monotonic() + seconds / WINDOWS
                    while time.monotonic() < until:
                        beats |= {e.header.source: e.message for e in bus.wait(0.05)}  # type: ignore[misc]
                    counts = (
                        beats["imaging"].published.get("imaging.traces", 0),
                        beats["decoding"].published.get("decoding.output", 0),
                        beats["task"].counters.get("outputs_taken", 0),
                    )
                    marks.append((time.monotonic(), *counts))
                    sizes.append({n: psutil.Process(launcher.processes[n].pid).memory_info().rss for n in SERVICES})
                for lost in launcher.poll():
                    raise RuntimeError(f"{lost.name} ended ({lost.how}):\n{launcher.last_words(lost.name, 8)}")
    fps = [(b[3] - a[3]) / (b[0] - a[0]) for a, b in pairwise(marks)]
    grown = {name: (sizes[-1][name] - sizes[1][name]) / 1e6 for name in SERVICES}
    return {
        "frames_per_s": {"min": min(fps), "mean": (marks[-1][3] - marks[0][3]) / (marks[-1][0] - marks[0][0])},
        "frames": marks[-1][3] - marks[0][3],
        "behind_at_end": {"decoding": marks[-1][1] - marks[-1][2], "task": marks[-1][2] - marks[-1][3]},
        "lost": sum(b.gaps for b in beats.values()) + beats["imaging"].counters.get("frames_dropped", 0),
        "memory_mb": {name: sizes[-1][name] / 1e6 for name in SERVICES},
        "memory_grown_mb": grown,
        "n_rois": n_rois,
        "seed": seed,
        "machine": info,
    }
