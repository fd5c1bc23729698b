"""Starts this machine's services and what runs beside them, starts again what dies, and says what was lost."""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from msgspec import Struct

from loop2p.protocol import FileError, RigFile, WireError, control
from loop2p.runtime.ask import ask, ask_answer
from loop2p.runtime.keys import load_keys
from loop2p.runtime.process import EXIT_FAULT, EXIT_MISTAKE, EXIT_STOPPED
from loop2p.runtime.restart import RestartPolicy

log = logging.getLogger("loop2p.launcher")


class RigBusyError(RuntimeError):
    """The rig is in use on this machine."""


class RigLock:
    """One launcher a rig and machine; the file tells who holds it."""

    def __init__(self, rig_file: RigFile) -> None:
        port = rig_file.rig.services["task"].control.rsplit(":", 1)[-1]
        self.path = Path(tempfile.gettempdir()) / f"loop2p-{rig_file.rig.name}-{port}.lock"
        self._lock = FileLock(self.path)

    def __enter__(self) -> "RigLock":
        note = self.path.with_suffix(".holder")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = note.read_text(encoding="utf-8") if note.exists() else "another process"
            raise RigBusyError(
                f"this rig is in use by {holder} (lock {self.path}); stop it with `loop2p stop RIG` or wait"
            ) from None
        note.write_text(f"process {os.getpid()}", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Lost(Struct, frozen=True):
    """A service has died."""

    name: str
    code: int
    """Exit code; negative: the signal that killed it."""
    how: str
    """"fault", "mistake", "crash", or "stopped" by somebody else's request."""
    restarting: bool


class Launcher:
    """The processes of one machine. `poll` is to be called often; it reports what died, to task as well."""

    def __init__(self, rig_file: RigFile, host: str, logs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.rig_file, self.host, self.logs, self._now = rig_file, host, logs, clock
        rig = rig_file.rig
        if host not in rig.used_hosts:
            raise FileError(f"{rig_file.path}: nothing runs on host {host!r}")
        self.services = [n for n, s in rig.services.items() if s.host == host and not s.external]
        self.side = [n for n, s in rig.side.items() if s.host == host]
        self._keys = load_keys(rig_file, self.services[0]) if self.services else None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._policies = {name: RestartPolicy() for name in (*self.services, *self.side)}
        self._due: dict[str, float] = {}
        self._untold: deque[Lost] = deque()
        self._left: set[str] = set()
        """Services that were stopped by somebody else: a successor may be at their endpoints (`loop2p swap`)."""
        self.stopping = False

    @property
    def waiting(self) -> list[str]:
        """Who is to be started again soon."""
        return list(self._due)

    def start(self) -> None:
        """Start everything of this machine."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in (*self.services, *self.side):
            self._spawn(name)

    def _spawn(self, name: str) -> None:
        command = [sys.executable, "-m", "loop2p.cli.main", "serve", name, str(self.rig_file.path), "--with-parent"]
        with open(self.logs / f"{name}.log", "ab") as out:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                # a terminal's Ctrl-C is for the launcher alone, which stops them in order
                start_new_session=os.name == "posix",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )

    def poll(self) -> list[Lost]:
        """Start again what is due; returns what has died since the last call."""
        now = self._now()
        for name in [n for n, due in self._due.items() if due <= now]:
            del self._due[name]
            self._spawn(name)
        lost = []
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code is None or self.stopping:
                continue
            self._reap(name)
            how = {EXIT_FAULT: "fault", EXIT_MISTAKE: "mistake", EXIT_STOPPED: "stopped"}.get(code, "crash")
            delay = self._policies[name].delay_s(now) if how in ("fault", "crash") else None
            if delay is not None:
                self._due[name] = now + delay
            if how == "stopped" and name in self.services:
                self._left.add(name)
            log.warning("%s ended (%s, code %d)%s", name, how, code, "; starts again" if delay is not None else "")
            lost.append(Lost(name, code, how, delay is not None))
        self._untold.extend(lost)
        self._tell_task()
        return lost

    def _tell_task(self) -> None:
        """Put what died on the record; while task itself is down, the news wait for its successor."""
        endpoint = self.rig_file.rig.services["task"].control
        while self._untold:
            lost = self._untold[0]
            args = {"service": lost.name, "how": lost.how, "code": str(lost.code)}
            try:
                if ask(endpoint, control.Ask("lost", "launcher", args), 0.2, self._keys) is None:
                    return
            except WireError as error:
                log.error("task's answer: %s", error)
            self._untold.popleft()

    def forgive(self, name: str) -> None:
        """As if it had never died: for benchmarks that kill more often than a session would bear."""
        self._policies[name] = RestartPolicy()

    def _reap(self, name: str) -> None:
        process = self.processes.pop(name)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def last_words(self, name: str, lines: int = 3) -> str:
        """The end of a process's log."""
        try:
            return "\n".join((self.logs / f"{name}.log").read_text("utf-8", "replace").splitlines()[-lines:])
        except OSError:  # it has said nothing yet
            return ""

    def stop(self, timeout_s: float = 10.0) -> list[str]:
        """Stop all: actuation first, recording after the others, those beside last. Returns who had to be killed."""
        self.stopping = True
        self._due.clear()
        order = sorted(self.services, key=lambda n: {"actuation": 0, "recording": 2}.get(n, 1))
        killed = self._end(["actuation"], timeout_s) if "actuation" in order else []
        killed += self._end([n for n in order if n not in ("actuation", "recording")], timeout_s)
        killed += self._end(["recording"], timeout_s)
        return killed + self._end(self.side, timeout_s)

    def _end_successor(self, name: str, timeout_s: float) -> None:
        """Stop whoever took a service's place, and wait until it answers no more; its own starter sees to the rest."""
        endpoint, deadline = self.rig_file.rig.services[name].control, time.monotonic() + timeout_s
        if not ask_answer(endpoint, control.Stop(by="launcher"), 0.3, self._keys).accepted:
            return
        while ask(endpoint, control.Hello(), 0.1, self._keys) is not None and time.monotonic() < deadline:
            time.sleep(0.02)

    def _end(self, names: list[str], timeout_s: float) -> list[str]:
        running = [n for n in names if n in self.processes]
        for name in self._left.intersection(names):
            self._end_successor(name, timeout_s)
        for name in running:
            spec = self.rig_file.rig.services.get(name)
            if self.processes[name].poll() is None and spec is not None and name in self.services:
                ask_answer(spec.control, control.Stop(by="launcher"), 1.0, self._keys)
            stdin = self.processes[name].stdin
            if stdin is not None:
                stdin.close()  # a process that missed the request ends when its parent's pipe does
        deadline = time.monotonic() + timeout_s
        killed = []
        for name in running:
            process = self.processes.pop(name)
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed.append(name)
                log.error("%s did not stop within %g s and was killed", name, timeout_s)
        return killed
