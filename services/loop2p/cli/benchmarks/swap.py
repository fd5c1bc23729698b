"""Every service killed, and every service swapped, in one running session: how long until it goes on."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from loop2p.cli.benchmarks.machine import machine
from loop2p.cli.benchmarks.rig import running, wait_until_ready
from loop2p.cli.benchmarks.whole import TASK, write_whole_rig
from loop2p.cli.swapping.handover import HandOver
from loop2p.cli.swapping.shadow import ShadowSwap, Terms
from loop2p.protocol import PROXIMAL, Envelope, Output, Phase, RequestLog, RigFile, Swap, Traces, Trial, control
from loop2p.recording.journal import read_journal
from loop2p.runtime.ask import ask_answer
from loop2p.runtime.launcher import Launcher
from loop2p.runtime.monitor import Monitor

RESUME_S, SETTLE_S = 60.0, 60.0
"""At most, until a session goes on; then it hangs, and that is told."""
ORDER = ("decoding", "imaging", "stimulus", "actuation", "recording", "task")
WINDOW = 40
"""Frames before and after an exchange that are looked at."""


class Session:
    """A session in which things are done to services."""

    def __init__(self, rig_file: RigFile, launcher: Launcher, monitor: Monitor, say: Callable[[str], None]) -> None:
        self.rig_file, self.launcher, self.monitor, self.say = rig_file, launcher, monitor, say
        self.heard: list[Envelope] = []
        self.kills: dict[str, list[float]] = {name: [] for name in ORDER}
        self.swaps: dict[str, list[float]] = {name: [] for name in ORDER}
        self.voids: list[str] = []
        self._swappers: list[tuple[Any, list[int], threading.Thread]] = []

    def begin(self) -> None:
        wait_until_ready(self.launcher, self.rig_file, ["task"])
        args = {"task": TASK, "task_path": "bench", "run_id": "bench", "by": "bench"}
        answer = self.ask("start", args)
        if not answer.accepted:
            raise RuntimeError(f"task refuses to start: {answer.reason}")
        self.wait(lambda e: isinstance(e.message, Trial), "the first trial")

    def ask(self, kind: str, args: dict[str, str] | None = None) -> control.Answer:
        return ask_answer(self.rig_file.rig.services["task"].control, control.Ask(kind, "bench", args or {}), 5.0)

    # ------------------------------------------------------------ what is done

    def kill(self, name: str) -> None:
        """SIGKILL; the launcher starts it again by its rule. Time until task goes on."""
        self.launcher.forgive(name)
        killed_ns = time.perf_counter_ns()
        self.launcher.processes[name].kill()
        back = self.wait(
            lambda e: e.header.sent_ns > killed_ns and goes_on(e, name), f"a resume after {name} was killed"
        )  # fmt: skip
        self.kills[name].append((back.header.sent_ns - killed_ns) / 1e9)
        self.next_trial()

    def swap(self, name: str) -> None:
        """As `loop2p swap` does it. Time from the word that it leaves until task goes on."""
        asked: list[int] = []
        log = self.launcher.logs / f"{name}-newcomer.log"
        if name == "decoding":
            terms = Terms(after_s=1.0, keep_s=0.5)
            swapper: Any = ShadowSwap(self.rig_file, name, [], log, None, terms, asked, self.say)
        else:
            swapper = HandOver(self.rig_file, name, [], log, None, asked, self.say)
        problems: list[str] = []
        thread = threading.Thread(target=lambda: problems.append(swapper.run()), name=f"swap {name}")
        thread.start()
        self._swappers.append((swapper, asked, thread))
        since = len(self.heard)
        stage = "acting" if name == "decoding" else "handover"

        def begun(e: Envelope) -> bool:
            m = e.message
            if problems:
                raise RuntimeError(f"swap of {name}: {problems[0] or 'it ended'}")
            return isinstance(m, Swap) and m.service == name and m.stage == stage

        word = self.wait(begun, f"the {stage} of {name}")
        if name != "decoding":  # of a shadow the journal tells
            at_ns = word.header.sent_ns
            back = self.wait(
                lambda e: e.header.sent_ns > at_ns and goes_on(e, name), f"a resume after {name} was swapped"
            )  # fmt: skip
            self.swaps[name].append((back.header.sent_ns - at_ns) / 1e9)
        if not any(is_over(e, name) for e in self.heard[since:]):
            self.wait(lambda e: is_over(e, name), f"the end of the swap of {name}")
        self.next_trial()

    def next_trial(self) -> None:
        """It goes on by itself. What happened to the trial that ran is noted."""
        now_ns = time.perf_counter_ns()

        def starts(e: Envelope) -> bool:
            return isinstance(e.message, Trial) and e.message.edge == "start" and e.header.sent_ns > now_ns

        self.wait(starts, "the next trial", SETTLE_S)
        trials = [e.message for e in self.heard if isinstance(e.message, Trial)]
        self.voids += [trial.reason for trial in trials if trial.edge == "void"]
        del self.heard[:-1]

    def wait(self, right: Callable[[Envelope], bool], what: str, timeout_s: float = RESUME_S) -> Envelope:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.launcher.poll()
            for envelope in self.monitor.wait(0.02):
                self.heard.append(envelope)
                if right(envelope):
                    return envelope
        said = "\n".join([f"{e.message}"[:300] for e in self.heard if is_news(e)][-8:])
        raise RuntimeError(f"{what} did not come within {timeout_s:g} s; logs in {self.launcher.logs}\n{said}")

    def end(self) -> None:
        """Stop the session and everybody who was started."""
        self.ask("stop")
        for _, asked, _ in self._swappers:
            asked.append(1)
        for _, _, thread in self._swappers:
            thread.join(30.0)


def frames_lost(run_folder: Path) -> list[int]:
    """Decoder frames without an output on record, around each exchange with a shadow."""
    traces: set[int] = set()
    outputs: set[int] = set()
    at: list[int] = []
    for record in read_journal(run_folder):
        message, cause = record.message, record.header.cause
        if isinstance(message, Traces) and cause is not None and cause.plane == PROXIMAL:
            traces.add(cause.frame)
        elif isinstance(message, Output) and cause is not None:
            outputs.add(cause.frame)
        elif isinstance(message, Swap) and message.stage == "acting" and not record.header.resent:
            at.append(message.from_frame)
    near = [range(frame - WINDOW, frame + WINDOW) for frame in at]
    return [len({k for k in traces - outputs if k in window}) for window in near]


def goes_on(e: Envelope, name: str) -> bool:
    """Task's word that it goes on after a loss."""
    m = e.message
    if not isinstance(m, RequestLog):
        return False
    return m.kind == "resume" if name in ("task", "recording") else m.kind == "back" and m.detail == name


def is_over(e: Envelope, name: str) -> bool:
    m = e.message
    return isinstance(m, Swap) and m.service == name and m.stage == "none"


def is_news(e: Envelope) -> bool:
    return isinstance(e.message, RequestLog | Swap | Phase | Trial)


def quantiles_s(values: list[float]) -> dict[str, Any]:
    if not values:
        return {"n": 0, "p50": None, "p90": None, "max": None}
    p50, p90, most = np.quantile(values, (0.5, 0.9, 1.0))
    return {"n": len(values), "p50": float(p50), "p90": float(p90), "max": float(most)}


def bench_swap(
    n: int, speed: float = 1.0, kills: bool = True, swaps: bool = True, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Each service killed n times, then swapped n times, one after another. Seconds until the session goes on.

    Raises RuntimeError where it does not.
    """
    with tempfile.TemporaryDirectory(prefix="loop2p-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        rig_file = write_whole_rig(folder, speed)
        with running(rig_file, folder) as launcher, Monitor(rig_file.rig) as monitor:
            session = Session(rig_file, launcher, monitor, say)
            try:
                session.begin()
                for k in range(n if kills else 0):
                    for service in ORDER:
                        session.kill(service)
                    say(f"{k + 1} of {n}: every service killed")
                for k in range(n if swaps else 0):
                    for service in ORDER:
                        session.swap(service)
                    say(f"{k + 1} of {n}: every service swapped")
            finally:
                session.end()
        lost = frames_lost(Path(rig_file.rig.data.folder) / "bench")
    session.swaps["decoding"] = [n * 2 / rig_file.rig.microscope.rate_hz for n in lost]
    return {
        "kill_s": {name: quantiles_s(values) for name, values in session.kills.items()},
        "swap_s": {name: quantiles_s(values) for name, values in session.swaps.items()},
        "frames_lost": lost,
        "voids": sorted({reason for reason in session.voids}),
        "speed": speed,
        "machine": machine(),
    }
