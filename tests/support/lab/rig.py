"""A rig spread over the laboratory's machines, and what was heard of it."""

import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import tomli_w
from whole_rig import whole_rig

from lab.laboratory import HOSTS, Laboratory
from loop2p.protocol import Clock, Envelope, RigFile, control, parse_rig, read_rig
from loop2p.runtime import ask, ask_answer
from loop2p.runtime.monitor import Monitor

WHERE = {"imaging": "microscope", "stimulus": "stimulus"}
"""The other services are on "control", with the rig clock."""
SIDE = {"microscope": "microscope", "controller": "control"}
SUPPORT = Path(__file__).parents[1]
LOOP2P = (sys.executable, "-m", "loop2p.cli.main")


def spread(text: str, folder: Path, **changed: Any) -> RigFile:
    """A one-machine rig file's text as one for three machines, written into `folder`. `changed`: whole tables of it."""
    rig = tomllib.loads(text) | changed
    rig |= {"hosts": HOSTS, "security": {"plain_on_network": True}}  # nobody else is on it
    for name, service in rig["services"].items():
        service["host"] = WHERE.get(name, "control")
        for key in ("publish", "bulk", "control"):
            service[key] = service[key].replace("127.0.0.1", HOSTS[service["host"]])
    for name, process in rig.get("standins", {}).items():
        process["host"] = SIDE[name]
        options = process.get("options", {})
        if "wires" in options:  # the trigger, lick and valve lines are cables of their own; here they share the network
            options["wires"] = options["wires"].replace("127.0.0.1", HOSTS["control"])
    path = folder / "rig.toml"
    path.write_text(tomli_w.dumps(rig), encoding="utf-8")
    parse_rig(path.read_text(), path)
    return read_rig(path)


def small_rig(folder: Path, bound_limit_ms: float = 10.0) -> RigFile:
    """All services and stand-ins, with a small field at four times the rig's rate (see whole_rig)."""
    return spread(
        whole_rig(folder, list(range(5500, 5528))).text,
        folder,
        clock={"reference": "task", "bound_limit_ms": bound_limit_ms},
        data={"folder": "runs", "free_gb": 0.001},
    )


class SpreadRig:
    """`loop2p up` on each machine (or on some), until the block ends; and an ear on control."""

    def __init__(self, lab: Laboratory, rig_file: RigFile, up: tuple[str, ...] = tuple(HOSTS)) -> None:
        self.lab, self.rig_file, self._up = lab, rig_file, up
        self.heard: list[Envelope] = []
        self.clocks: list[tuple[str, str, int, Clock]] = []
        """Source, instance, header's sent_ns and message of every rig.clock."""
        self._stack = ExitStack()
        self._monitor: Monitor | None = None

    def __enter__(self) -> Self:
        self._ups = [self.start(name, "up", str(self.rig_file.path), "--host", name) for name in self._up]
        with self.lab.hosts["control"].inside():
            self._monitor = self._stack.enter_context(Monitor(self.rig_file.rig))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, host: str, *words: str) -> "subprocess.Popen[bytes]":
        """Run a `loop2p` command there; what it says goes into the machine's `loop2p.log`. It ends with the machine."""
        machine = self.lab.hosts[host]
        machine.env["PYTHONPATH"] = str(SUPPORT)
        with open(machine.folder / "loop2p.log", "ab") as log:
            process = machine.start(*LOOP2P, *words, stdout=log, stderr=log)
        self._stack.callback(process.wait, 30)
        self._stack.callback(process.kill)
        return process

    def finish(self, timeout_s: float = 60.0) -> None:
        """Wait until every `up` has left of itself."""
        for process in self._ups:
            process.wait(timeout_s)

    def wait(self, condition: Callable[[Envelope], bool], what: str, timeout_s: float = 90.0) -> Envelope:
        """Wait for a message."""
        assert self._monitor is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for envelope in self._monitor.wait(0.05):
                self.heard.append(envelope)
                if isinstance(envelope.message, Clock) and not envelope.header.resent:
                    header = envelope.header
                    self.clocks.append((header.source, header.instance, header.sent_ns, envelope.message))
                if condition(envelope):
                    return envelope
        raise AssertionError(f"{what} did not come within {timeout_s:g} s\n{self.last_words()}")

    def ask(self, kind: str, **args: str) -> control.Answer:
        with self.lab.hosts["control"].inside():
            return ask_answer(self.rig_file.rig.services["task"].control, control.Ask(kind, "test", args), 10.0)

    def begin(self, task: str, run_id: str = "one") -> control.Answer:
        """Ask for a session as soon as task answers."""
        deadline = time.monotonic() + 60
        while True:
            with self.lab.hosts["control"].inside():
                if ask(self.rig_file.rig.services["task"].control, control.Hello()) is not None:
                    break
            assert time.monotonic() < deadline, f"task never answered\n{self.last_words()}"
        return self.ask("start", task=task, task_path="task.toml", run_id=run_id)

    def last_words(self) -> str:
        """The end of every log of every machine."""
        logs = [p for host in self.lab.hosts.values() for p in sorted(host.folder.rglob("*.log"))]
        return "\n".join(f"--- {p}\n" + "\n".join(p.read_text("utf-8", "replace").splitlines()[-6:]) for p in logs)
