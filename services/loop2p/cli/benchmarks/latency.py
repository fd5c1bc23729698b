"""From a frame's last byte in to the command in the actuator's hands, through five separate processes."""

import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from loop2p.cli.benchmarks.bare import bench_bare
from loop2p.cli.benchmarks.machine import machine, quantiles
from loop2p.cli.benchmarks.rig import free_ports, running, sending, wait_until_ready, write_rig
from loop2p.protocol import Accepted, Cause, Heartbeat, Output, RequestLog, RewardCommand, RigFile, Traces, control
from loop2p.runtime.ask import ask_answer
from loop2p.runtime.launcher import Launcher
from loop2p.runtime.monitor import Monitor

PUBLISHED_MS = {
    "one PC": {"p50": 2.99, "p99": 7.03, "max": 123.9},
    "two PCs": {"p50": 7.05, "p99": 10.7, "max": 29.9},
}
"""The authors' own hand-off of the same payload, for scale (performance sheet; not measured here)."""
TASK = "loop2p.task.bench_task:EchoTask"
SETTLE_S = 1.0
"""Commands of the first second are not counted: the session writes its files then."""
SERVICES = ["imaging", "decoding", "task", "actuation"]
BARE_MESSAGES = 300


class Commands(NamedTuple):
    """What became of the decoder frames of one run."""

    took_ms: list[float]
    """Frame's last byte in to command in actuation's hands."""
    hops_ms: dict[str, list[float]]
    lost: int
    """Frames and messages, by imaging's count and by sequence numbers."""
    rejected: int
    realtime: dict[str, bool]
    """By service: does its log say that real-time priority was granted, and not that it was put back?"""
    machine: dict[str, Any]


def bench_latency(
    rate_hz: float, n_commands: int, planes: int, n_rois: int = 10, seed: int = 1, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Stream at `rate_hz` until `n_commands` decoder frames have become commands.

    One zero-volume command for each decoder frame, by the ordinary path. Times in ms. Frames are counted by
    imaging, losses by sequence numbers; a run that lost anything says so in `lost`. `bare_ms`: the same hops, just
    before, by ZeroMQ alone: what this machine takes for nothing.
    """
    bare = bench_bare(rate_hz / planes, BARE_MESSAGES)
    say(f"{n_commands} commands at {rate_hz:g} Hz, {planes} plane(s), {n_rois} ROIs, seed {seed} ...")
    run = measure_commands(rate_hz, n_commands, planes, n_rois, seed)
    command = quantiles(run.took_ms)
    return {
        "command_ms": command,
        "hops_ms": {name: quantiles(values) for name, values in run.hops_ms.items()},
        "rate_hz": rate_hz,
        "planes": planes,
        "n_rois": n_rois,
        "seed": seed,
        "lost": run.lost,
        "rejected": run.rejected,
        "published_ms": PUBLISHED_MS,
        "machine": run.machine,
        "bare_ms": bare,
        "times_bare_p50": command["p50"] / bare["p50"],
    }


def measure_commands(
    rate_hz: float,
    n_commands: int,
    planes: int,
    n_rois: int,
    seed: int,
    realtime_priority: int = 0,
    companions: str = "",
    busy: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Commands:
    """One run of the rig. `companions`: tables of the rig file; `busy`: entered once the loop runs, left at the end."""
    with tempfile.TemporaryDirectory(prefix="loop2p-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (port,) = free_ports(1)
        rig_file = write_rig(folder, port, planes, rate_hz, n_rois, TASK, seed, realtime_priority, companions)
        with running(rig_file, folder) as launcher:
            wait_until_ready(launcher, rig_file, ["task"])
            with sending(port, rate_hz, seed, folder / "sender.log"):
                run = measure(launcher, rig_file, n_commands, rate_hz, planes, n_rois, busy)
            return run._replace(realtime={name: _is_realtime(launcher, name) for name in SERVICES})


def measure(
    launcher: Launcher,
    rig_file: RigFile,
    n: int,
    rate_hz: float,
    planes: int,
    n_rois: int,
    busy: Callable[[], AbstractContextManager[object]],
) -> Commands:
    """Start a session on a rig that is up and streamed to, and take n commands. Raises RuntimeError."""
    info = machine()
    sent: dict[str, dict[int, int]] = {"traces": {}, "output": {}, "command": {}}
    accepted: list[tuple[Cause, int]] = []
    first_s: float | None = None
    beats: dict[str, Heartbeat] = {}
    with Monitor(rig_file.rig, ("imaging.traces", "decoding.output", "task.re", "actuation.", "rig.heartbeat")) as bus:
        answer = ask_answer(
            rig_file.rig.services["task"].control, control.Ask("start", "bench", _start_args(n_rois)), 5.0
        )
        if not answer.accepted:
            raise RuntimeError(f"task refuses to start: {answer.reason}")
        wait_until_ready(launcher, rig_file, launcher.services)
        with busy():
            deadline = time.monotonic() + 60 + 3 * n * planes / rate_hz
            while len(accepted) < n:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"only {len(accepted)} of {n} commands came; logs in {launcher.logs}")
                for lost in launcher.poll():
                    raise RuntimeError(f"{lost.name} ended ({lost.how}):\n{launcher.last_words(lost.name, 8)}")
                for envelope in bus.wait(0.2):
                    message, cause = envelope.message, envelope.header.cause
                    if isinstance(message, RequestLog) and not message.accepted:
                        raise RuntimeError(f"task refuses to start: {message.reason}")
                    if isinstance(message, Heartbeat):
                        beats[envelope.header.source] = message
                    elif cause is None:
                        continue
                    elif isinstance(message, Accepted):
                        first_s = cause.time_s if first_s is None else first_s
                        if cause.time_s >= first_s + SETTLE_S:
                            accepted.append((cause, message.received_ns))
                    elif isinstance(message, Traces):
                        sent["traces"][cause.frame] = envelope.header.sent_ns
                    elif isinstance(message, Output):
                        sent["output"][cause.frame] = envelope.header.sent_ns
                    elif isinstance(message, RewardCommand):
                        sent["command"].setdefault(cause.frame, envelope.header.sent_ns)
    full = [(c, r) for c, r in accepted if all(c.frame in s for s in sent.values())]
    ms = 1e-6
    hops = {
        "imaging (registration, ROIs)": [(sent["traces"][c.frame] - c.arrival_ns) * ms for c, _ in full],
        "to and in decoding": [(sent["output"][c.frame] - sent["traces"][c.frame]) * ms for c, _ in full],
        "to and in task": [(sent["command"][c.frame] - sent["output"][c.frame]) * ms for c, _ in full],
        "to actuation": [(r - sent["command"][c.frame]) * ms for c, r in full],
    }
    n_lost = sum(b.gaps for b in beats.values()) + beats["imaging"].counters.get("frames_dropped", 0)
    took = [(r - c.arrival_ns) * ms for c, r in accepted]
    return Commands(took, hops, n_lost, sum(b.rejected for b in beats.values()), {}, info)


def _is_realtime(launcher: Launcher, name: str) -> bool:
    log = launcher.last_words(name, 1000)
    return "is granted" in log and "without a pause" not in log


def _start_args(n_rois: int) -> dict[str, str]:
    half = n_rois // 2
    text = f"[selection]\nplus = {list(range(half))}\nminus = {list(range(half, n_rois))}\n"
    return {"task": text, "task_path": "bench", "run_id": "bench", "by": "bench"}
