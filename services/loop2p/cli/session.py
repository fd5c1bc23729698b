"""One session from start to finished files, on one machine or on a rig that is up already."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from loop2p.cli.progress import Progress
from loop2p.protocol import RigFile, control
from loop2p.runtime.ask import ask, ask_answer
from loop2p.runtime.keys import OPERATOR, load_keys
from loop2p.runtime.launcher import Launcher, RigLock
from loop2p.runtime.monitor import Monitor

UP_TIMEOUT_S = 60.0
"""From the start of the processes to an answer from task."""
END_TIMEOUT_S = 15.0


class Outcome(Struct):
    """How a session ended."""

    run_id: str
    folder: Path
    ended: bool
    """The session ran to its end or to an operator's stop."""
    problem: str = ""


def new_run_id(rig_name: str) -> str:
    """Such as "2026-11-24T14-05-09-simulated": sorts by time, is a valid file name everywhere."""
    return f"{datetime.now().astimezone():%Y-%m-%dT%H-%M-%S}-{rig_name}"


class Conductor:
    """Starts the rig if asked, asks task for a session, follows it, stops the rig."""

    def __init__(self, rig_file: RigFile, host: str, show: Callable[[Progress], None] = lambda _: None) -> None:
        self.rig_file, self.host, self.show = rig_file, host, show
        self.progress = Progress()
        self.launcher: Launcher | None = None
        self._keys = load_keys(rig_file, OPERATOR)
        self.stop_asked = 0
        self.mistake = False
        """A service could not start: a mistake in a file, or a port that is taken."""

    def ask_stop(self, *_: object) -> None:
        """The operator's Ctrl-C: once for a clean end, twice to leave at once."""
        self.stop_asked += 1

    def run(self, task_text: str, task_path: str, animal: str, overrides: list[str], run_id: str, up: bool) -> Outcome:
        """Run one session; returns when everything that this command started has stopped."""
        folder = Path(self.rig_file.rig.data.folder) / run_id
        outcome = Outcome(run_id, folder, ended=False)
        with ExitStack() as stack:
            if up:
                stack.enter_context(RigLock(self.rig_file))
                self.launcher = Launcher(self.rig_file, self.host, folder / "logs")
                stack.callback(self._stop_rig, outcome)
                self.launcher.start()
            monitor = stack.enter_context(Monitor(self.rig_file.rig, keys=self._keys))
            outcome.problem = self._wait_for_task(monitor)
            if not outcome.problem:
                args = {"task": task_text, "task_path": task_path, "animal": animal, "run_id": run_id}
                args |= {"overrides": ",".join(overrides), "by": _who()}
                answer = ask_answer(self._task, control.Ask("start", _who(), args), 5.0, self._keys)
                outcome.problem = "" if answer.accepted else f"start refused: {answer.reason}"
            if not outcome.problem:
                self._follow(monitor, outcome)
        return outcome

    @property
    def _task(self) -> str:
        return self.rig_file.rig.services["task"].control

    def _wait_for_task(self, monitor: Monitor) -> str:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while time.monotonic() < deadline and not self.stop_asked:
            problem = self._poll_launcher()
            if problem:
                return problem
            self._listen(monitor, 0.05)
            reply = ask(self._task, control.Hello(rig_hash=self.rig_file.hash), 0.3, self._keys)
            if isinstance(reply, control.HelloReply):
                if reply.rig_hash != self.rig_file.hash:
                    return f"task runs with another rig file (hash {reply.rig_hash}, this one is {self.rig_file.hash})"
                return ""
        return "stopped" if self.stop_asked else f"task did not answer at {self._task} within {UP_TIMEOUT_S:g} s"

    def _follow(self, monitor: Monitor, outcome: Outcome) -> None:
        asked = 0
        give_up: float | None = None
        while True:
            self._listen(monitor, 0.1)
            problem = self._poll_launcher()
            if problem and not outcome.problem:
                outcome.problem = problem
                self.stop_asked = max(self.stop_asked, 1)
            if self.progress.phase == "ended":
                outcome.ended = True
                return
            if self.progress.refused:
                outcome.problem = f"start refused: {self.progress.refused}"
                return
            if self.stop_asked > asked:
                asked = self.stop_asked
                kind = "stop" if asked == 1 and not outcome.problem else "abort"
                ask_answer(self._task, control.Ask(kind, _who()), 1.0, self._keys)
                if self.progress.phase in ("starting", "idle"):  # it never began: there is no end to wait for
                    outcome.problem = outcome.problem or "stopped before the session began"
                    return
                give_up = give_up or time.monotonic() + END_TIMEOUT_S
            if give_up is not None and (time.monotonic() > give_up or asked > 1):
                outcome.problem = outcome.problem or "stopped before task had ended the session"
                return

    def _listen(self, monitor: Monitor, timeout_s: float) -> None:
        for envelope in monitor.wait(timeout_s):
            self.progress.take(envelope)
        self.show(self.progress)

    def _poll_launcher(self) -> str:
        """Take note of what died (task is told); returns what makes going on impossible."""
        if self.launcher is None:
            return ""
        problem = ""
        for lost in self.launcher.poll():
            self.progress.event(f"{lost.name} ended ({lost.how}, code {lost.code})")
            if lost.how == "stopped" and lost.name in self.progress.swapped:
                continue  # another one acts for it
            if not lost.restarting and lost.name in self.rig_file.rig.companions:
                self.progress.event(f"{lost.name}: {self.launcher.last_words(lost.name, 1)}")
                continue  # no session depends on it
            if not lost.restarting:
                words = self.launcher.last_words(lost.name)
                problem = f"{lost.name} ended ({lost.how}, code {lost.code}) and is not started again:\n{words}"
                if lost.how == "mistake":  # its last line says place, found and expected
                    self.mistake = True
                    said = self.launcher.last_words(lost.name, 1).partition(" ERROR ")[2] or words
                    problem = f"{lost.name}: {said.removeprefix(f'{lost.name}: ')}"
        return problem

    def _stop_rig(self, outcome: Outcome) -> None:
        assert self.launcher is not None
        killed = self.launcher.stop()
        if killed and not outcome.problem:
            outcome.problem = f"had to be killed at the end: {', '.join(killed)}"


def _who() -> str:
    return os.environ.get("USER") or os.environ.get("USERNAME") or "operator"


def point_latest(folder: Path) -> None:
    """runs/latest -> the newest run; a text file with its name where links are not allowed (Windows)."""
    latest = folder.parent / "latest"
    temporary = folder.parent / f".latest-{os.getpid()}"
    try:
        temporary.symlink_to(folder.name, target_is_directory=True)
    except OSError:
        temporary.write_text(folder.name, encoding="utf-8")
    try:
        os.replace(temporary, latest)
    except OSError:  # `latest` is something else: a folder of that name
        temporary.unlink(missing_ok=True)
        raise
