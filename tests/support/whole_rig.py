"""The whole rig as real processes, small and faster than life, for integration and fault tests.

The microscope scans a small field at `SPEED` times the rig's rate; decisions run on frame time, so a session is
that much shorter.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rigs import rig_text, toml_value

from loop2p.protocol import Envelope, RigFile, control, read_rig
from loop2p.runtime import Launcher, ask, ask_answer
from loop2p.runtime.monitor import Monitor
from loop2p.simulation.scene import Scene

HEIGHT, WIDTH, N_CELLS, N_ROIS = 160, 192, 14, 8
SPEED = 4.0
RATE_HZ = 30.92

TASK = """
day = 1
[selection]
rois = [0, 1, 2, 3, 4, 5, 6, 7]
seed = 3
[baseline]
duration_s = 0
[closed_loop]
duration_s = {seconds}
[calibration]
fixed = {{ minimum = -0.05, threshold = {threshold} }}
[opto]
armed = {opto}
"""


def task_text(seconds: float = 120.0, threshold: float = 0.1, opto: bool = True) -> str:
    """A session without baseline; the threshold is low, so that hits come soon."""
    return TASK.format(seconds=seconds, threshold=threshold, opto=str(opto).lower())


def whole_rig(folder: Path, ports: list[int], *, pty: bool = False, **more: Any) -> RigFile:
    """Write a rig of all services and stand-ins into `folder`; needs 28 ports."""
    scene = Scene(1, HEIGHT, WIDTH, N_CELLS, N_ROIS, 2)
    for plane in range(2):
        (folder / f"rois{plane}.json").write_text(scene.rois_json(plane))
    image, handshake, serial, wires = ports[24:28]
    link = folder / "controller-pty"
    options: dict[str, dict[str, Any]] = {
        "imaging": {
            "source": {"kind": "tcp", "image_port": image, "control_port": handshake},
            "rois": [{"plane": p, "path": f"rois{p}.json", "format": "neurofinder"} for p in range(2)],
        },
        "stimulus": {"renderer": "software", "width_px": 160, "height_px": 90},
        "actuation": {
            "controller": str(link) if pty else f"socket://127.0.0.1:{serial}",
            "lease_sources": ["imaging", "decoding", "task", "stimulus", "recording"],
            "calibration_stale_days": 0,
            "valve": {"date": "2026-11-02", "points": [{"open_ms": 40, "ul": 4}, {"open_ms": 200, "ul": 20}]},
        },
    }
    for role, extra in more.pop("options", {}).items():
        options[role] = options.get(role, {}) | extra
    standins = {
        "microscope": {
            "run": "loop2p.simulation.microscope:Microscope",
            "options": {
                "image_port": image,
                "control_port": handshake,
                "wires": f"127.0.0.1:{wires}",
                "rate_hz": SPEED * RATE_HZ,
                "n_cells": N_CELLS,
                "n_rois": N_ROIS,
            }
            | more.pop("microscope", {}),
        },
        "controller": {
            "run": "loop2p.simulation.controller:Controller",
            "options": {
                "tcp": "" if pty else f"127.0.0.1:{serial}",
                "link": str(link),
                "wires": f"127.0.0.1:{wires}",
                "pin_log": str(folder / "pins.jsonl"),
            },
        },
    }
    extra = f"[microscope]\nheight = {HEIGHT}\nwidth = {WIDTH}\nplanes = 2\nrate_hz = {RATE_HZ}"
    text = rig_text(ports, str(folder / "runs"), options=options, standins=standins, extra=extra, **more)
    path = folder / "rig.toml"
    path.write_text(text)
    return read_rig(path)


def with_console(rig_file: RigFile, port: int, sessions: dict[str, Any] | None = None) -> RigFile:
    """The same rig with the operator's page at this port; `sessions` may be started from it."""
    options = {"port": port, "sessions": sessions or {}}
    lines = ["[companions.console]", 'run = "loop2p.console:Console"', "[companions.console.options]"]
    lines += [f"{k} = {toml_value(v)}" for k, v in options.items()]
    rig_file.path.write_text(rig_file.text + "\n".join(lines) + "\n", encoding="utf-8")
    return read_rig(rig_file.path)


class Running:
    """A rig that is up, what was heard of it, and what has died."""

    def __init__(self, rig_file: RigFile, folder: Path, launcher: Launcher | None = None) -> None:
        self.rig_file, self.folder = rig_file, folder
        self.launcher = launcher or Launcher(rig_file, "local", folder / "logs")
        self.monitor = Monitor(rig_file.rig)
        self.heard: list[Envelope] = []
        self.lost: list[Any] = []

    def ask(self, kind: str, **args: str) -> control.Answer:
        return ask_answer(self.rig_file.rig.services["task"].control, control.Ask(kind, "test", args), 5.0)

    def ask_until_accepted(self, kind: str, timeout_s: float = 30.0) -> None:
        """Ask again while it is refused for what passes by itself, as an operator would."""
        deadline = time.monotonic() + timeout_s
        while not (answer := self.ask(kind)).accepted:
            assert time.monotonic() < deadline, f"{kind}: {answer.reason}"
            self.lost += self.launcher.poll()
            self.heard += self.monitor.wait(0.02)

    def start(self, text: str, run_id: str = "one") -> control.Answer:
        """Ask for a session as soon as task answers; once, since a second start would be refused."""
        endpoint = self.rig_file.rig.services["task"].control
        deadline = time.monotonic() + 60
        while ask(endpoint, control.Hello()) is None:
            assert time.monotonic() < deadline, f"task never answered\n{self.last_words()}"
        args = {"task": text, "task_path": "task.toml", "run_id": run_id, "by": "test"}
        return ask_answer(endpoint, control.Ask("start", "test", args), 30.0)

    def wait(self, condition: Callable[[Envelope], bool], what: str, timeout_s: float = 90.0) -> Envelope:
        """Wait for a message; keeps the launcher going, as `loop2p run` does. What came after it is left for later."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.lost += self.launcher.poll()
            for envelope in self.monitor.wait(0.02):
                self.heard.append(envelope)
                if condition(envelope):
                    return envelope
        raise AssertionError(f"{what} did not come within {timeout_s:g} s; last: {self.last_words()}")

    def wait_for(self, kind: type, what: str = "", **fields: Any) -> Any:
        """Wait for a message of a class with these field values; returns the message."""

        def right(envelope: Envelope) -> bool:
            message = envelope.message
            return isinstance(message, kind) and all(getattr(message, k) == v for k, v in fields.items())

        return self.wait(right, what or f"{kind.__name__} {fields}").message

    def last_words(self) -> str:
        """The end of every log, for a failed test's message."""
        names = (*self.launcher.services, *self.launcher.side)
        return "\n".join(f"--- {n}\n{self.launcher.last_words(n, 6)}" for n in names)

    @property
    def run_folder(self) -> Path:
        return Path(self.rig_file.rig.data.folder) / "one"


@contextmanager
def running(rig_file: RigFile, folder: Path, launcher: Launcher | None = None) -> Iterator[Running]:
    """The rig's processes until the block ends; none is left behind."""
    rig = Running(rig_file, folder, launcher)
    try:
        rig.launcher.start()
        yield rig
    finally:
        rig.launcher.stop()
        rig.monitor.close()


def pin_edges(folder: Path) -> list[dict[str, Any]]:
    """The stand-in controller's pin log: every edge of valve and LED, in order."""
    lines = (folder / "pins.jsonl").read_text().splitlines() if (folder / "pins.jsonl").exists() else []
    return [json.loads(line) for line in lines]
