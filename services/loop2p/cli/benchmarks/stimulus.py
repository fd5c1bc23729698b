"""From a picture asked for to its pixels: commands at random intervals, the real service, other X clients that look.

Every command must be shown, or named by a later picture as overtaken; every picture must be whole, and the one that
was reported.
"""

import os
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from msgspec import Struct

from loop2p.cli.benchmarks.machine import machine, quantiles
from loop2p.cli.benchmarks.rig import free_ports
from loop2p.cli.benchmarks.xserver import TORN, eye, photodiode, virtual_screen, watching
from loop2p.protocol import (
    ROLES,
    Cause,
    Fault,
    Heartbeat,
    Message,
    RigFile,
    Screen,
    Show,
    Shown,
    open_parts,
    read_rig,
    seal,
)
from loop2p.stimulus import Look, picture

SHOWS = [
    *(Show(what="grating", angle_deg=float(a)) for a in range(0, 91, 15)),
    Show(what="grey"),
    Show(what="black"),
]
"""What is asked for: all that the experiment shows."""
INTERVAL_MS = (1.0, 200.0)
"""Between commands, uniformly."""
HEARTBEAT_NS = 50_000_000
WAIT_S = 30.0


class Account(Struct):
    """What became of each command, by sequence number."""

    shown: dict[int, Shown]
    overtaken: dict[int, Shown]
    """By which picture it was named."""

    def missing(self, commands: range) -> list[int]:
        """Neither shown nor named by a later picture, or by one of the service's own."""
        named = {k for k, by in self.overtaken.items() if k < by.show_seq or by.show_seq < 0}
        return [k for k in commands if k not in self.shown and k not in named]


def account(pictures: list[Shown]) -> Account:
    """Who was shown, and who was overtaken by whom."""
    return Account(
        shown={m.show_seq: m for m in pictures if m.show_seq >= 0},
        overtaken={k: m for m in pictures for k in m.overtaken},
    )


def bench_stimulus(
    commands: int,
    seed: int,
    width: int = 1280,
    height: int = 720,
    refresh_hz: float = 60.0,
    display: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """`display`: an X display that is there, else a virtual one of `width` x `height`. Raises RuntimeError, OSError."""
    info = machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loop2p-bench-")))
        display = stack.enter_context(nullcontext(display) if display else virtual_screen(width, height))
        rig_file = _rig(folder, refresh_hz)
        stack.enter_context(_service(rig_file, folder, display))
        task = stack.enter_context(Task(rig_file))
        screen = task.until(lambda m: isinstance(m, Screen), "how the screen is")
        assert isinstance(screen, Screen)
        say(f"{screen.renderer}, {screen.refresh_hz:.2f} Hz, paced by {'the monitor' if screen.vsync else 'a clock'}")
        references = [
            picture(screen.width_px, screen.height_px, show, patch, Look()) for show in SHOWS for patch in (False, True)
        ]
        middle = Look().patch_px // 2
        at = (display, screen.width_px - middle, screen.height_px - middle)
        end_photodiode = stack.enter_context(watching(photodiode, *at))
        end_eye = stack.enter_context(watching(eye, display, references))
        task.until(lambda m: isinstance(m, Shown) and m.show_seq >= 0, "the first picture", say=SHOWS[0])
        began_ns = time.perf_counter_ns()
        run, sent_ns, first = task.run(commands, np.random.default_rng(seed), say)
        seen, (edges, long_ns) = end_eye(), end_photodiode()
    edges = [edge for edge in edges if edge[0] >= began_ns]
    seen = [look for look in seen if look[0] >= began_ns]
    return _result(run, sent_ns, first, edges, long_ns, seen, screen) | {"machine": info, "seed": seed}


def _result(
    run: list[Shown],
    sent_ns: dict[int, int],
    first: Shown,
    edges: list[tuple[int, int, bool]],
    long_ns: list[int],
    seen: list[tuple[int, int, int]],
    screen: Screen,
) -> dict[str, Any]:
    """`run`: the pictures reported from the first command on; `first`: the one before them; the rest as photodiode and
    eye have it.

    A toggle there and one back between two looks are missed together. Where drawing is late two pictures can follow one
    another within half a frame period, so each longer time between looks excuses two.
    """
    what = account(run)
    flips = [m.flip_ns for m in run]
    swap_ms = {k: (m.flip_ns - sent_ns[k]) / 1e6 for k, m in what.shown.items() if k in sent_ns}
    pixels_ms, after_swap_ms = [], []
    for before_ns, after_ns, level in edges:
        near = [m for m in _around(run, flips, before_ns) if m.patch == level]
        if near:
            one = min(near, key=lambda m: abs(m.flip_ns - after_ns))
            after_swap_ms.append((after_ns - one.flip_ns) / 1e6)
            if one.show_seq in sent_ns:
                pixels_ms.append((after_ns - sent_ns[one.show_seq]) / 1e6)
    torn = wrong = 0
    every = [first, *run]
    for before_ns, after_ns, number in seen:
        torn += number == TORN
        low, high = bisect_right(flips, before_ns), bisect_right(flips, after_ns)
        wrong += number != TORN and number not in {_number(m) for m in every[low : high + 2]}
    frame_ms = 1e3 / screen.refresh_hz
    swap = quantiles(list(swap_ms.values()))
    blind = sum(ns / 1e6 > frame_ms / 2 for ns in long_ns)
    missed = len(run) - len(edges)
    return {
        "commands": len(sent_ns),
        "shown": len(what.shown.keys() & sent_ns.keys()),
        "superseded": len(what.overtaken.keys() & sent_ns.keys()),
        "unaccounted": len(what.missing(range(min(sent_ns), max(sent_ns) + 1))),
        "own_pictures": sum(m.show_seq < 0 for m in run),
        "pictures_reported": len(run),
        "patch_toggles_seen": len(edges),
        "patch_not_looked_at": blind,
        "toggles_off": missed if missed < 0 else max(0, missed - 2 * blind),
        "looked": len(seen),
        "torn": torn,
        "wrong": wrong,
        "command_to_swap_ms": swap,
        "command_to_pixels_ms": quantiles(pixels_ms),
        "swap_to_pixels_ms": quantiles(after_swap_ms),
        "median_frames": swap["p50"] / frame_ms,
        "renderer": screen.renderer,
        "display": screen.display,
        "vsync": screen.vsync,
        "refresh_hz": screen.refresh_hz,
    }


def _around(run: list[Shown], flips: list[int], ns: int) -> list[Shown]:
    """The pictures reported just before and just after: the pixels may be seen before the swap returns."""
    k = bisect_right(flips, ns)
    return run[max(0, k - 1) : k + 2]


def _number(shown: Shown) -> int:
    """Of its reference, in the order in which bench_stimulus makes them."""
    pictures = [(show.what, show.angle_deg) for show in SHOWS]
    return 2 * pictures.index((shown.what, shown.angle_deg)) + shown.patch


# ---------------------------------------------------------------- what is measured, and who asks


def _rig(folder: Path, refresh_hz: float) -> RigFile:
    """A rig whose stimulus service alone runs here."""
    ports = iter(free_ports(3 * len(ROLES)))
    lines = ['name = "bench"', "simulated = true"]
    for role in ROLES:
        lines.append(f"[services.{role}]")
        lines += [f'{which} = "tcp://127.0.0.1:{next(ports)}"' for which in ("publish", "bulk", "control")]
        if role != "stimulus":
            lines.append("external = true")
    lines.append(f'[services.stimulus.options]\nrenderer = "window"\nrefresh_hz = {refresh_hz}')
    path = folder / "bench.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_rig(path)


@contextmanager
def _service(rig_file: RigFile, folder: Path, display: str) -> Any:
    """The stimulus service's process on this display. Raises RuntimeError with its last words if it ended by itself."""
    log = folder / "stimulus.log"
    command = [sys.executable, "-m", "loop2p.cli.main", "serve", "stimulus", str(rig_file.path)]
    hidden = ("WAYLAND_DISPLAY", "XDG_SESSION_TYPE")
    env = {name: value for name, value in os.environ.items() if name not in hidden} | {"DISPLAY": display}
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)
    try:
        yield process
    except TimeoutError as error:
        if process.poll() is None:
            raise
        words = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise RuntimeError(f"the stimulus service ended with {process.returncode}: {error}\n{words}") from None
    finally:
        process.terminate()
        process.wait(20)


class Task:
    """Speaks as the task on its endpoint, and hears the stimulus service."""

    def __init__(self, rig_file: RigFile) -> None:
        self._context = zmq.Context()
        self._pub, self._sub = self._context.socket(zmq.PUB), self._context.socket(zmq.SUB)
        self._pub.bind(rig_file.rig.services["task"].publish)
        self._sub.subscribe(b"")
        self._sub.connect(rig_file.rig.services["stimulus"].publish)
        self._seq: dict[str, int] = {}
        self._beat_ns = 0
        self._latest: Shown | None = None

    def __enter__(self) -> "Task":
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def say(self, message: Message) -> tuple[int, int]:
        """Publish; returns its sequence number and when it left."""
        seq = self._seq.get(message.topic, 0)
        self._seq[message.topic] = seq + 1
        now_ns = time.perf_counter_ns()
        self._pub.send_multipart(seal(message, "task", "task-1", seq, now_ns).parts())
        return seq, now_ns

    def hear(self, until_ns: int) -> Message | None:
        """The next message, or None at `until_ns`; sends heartbeats meanwhile. Raises RuntimeError at a Fault."""
        while True:
            now_ns = time.perf_counter_ns()
            if now_ns >= self._beat_ns:
                self._beat_ns = now_ns + HEARTBEAT_NS
                self.say(Heartbeat(health="ready"))
            left_ns = min(until_ns, self._beat_ns) - now_ns
            if self._sub.poll(max(0, left_ns // 1_000_000)):
                message = open_parts(self._sub.recv_multipart()).message
                if isinstance(message, Fault):
                    raise RuntimeError(f"{message.service} stopped: {message.error}: {message.detail}")
                if isinstance(message, Shown):
                    self._latest = message
                return message
            if 0 < (left_ns := until_ns - time.perf_counter_ns()) < 1_000_000:
                time.sleep(left_ns / 1e9)  # poll counts in whole milliseconds
            if left_ns <= 0:
                return None

    def until(self, wanted: Callable[[Message], bool], what: str, say: Message | None = None) -> Message:
        """Wait for a message, saying `say` now and then. Raises TimeoutError: what was waited for."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if say is not None:
                self.say(say)
            message = self.hear(time.perf_counter_ns() + HEARTBEAT_NS)
            if message is not None and wanted(message):
                return message
        raise TimeoutError(f"stimulus did not tell {what} within {WAIT_S:g} s")

    def run(
        self, n: int, rng: np.random.Generator, say: Callable[[str], None]
    ) -> tuple[list[Shown], dict[int, int], Shown]:
        """n commands, each for another picture than the one before it; returns the pictures reported, when each
        command left, and the picture before the first."""
        assert self._latest is not None
        first, pictures, sent_ns = self._latest, [], {}
        which, seq = 0, -1
        due_ns = time.perf_counter_ns()
        for k in range(n):
            which = (which + int(rng.integers(1, len(SHOWS)))) % len(SHOWS)
            due_ns += round(rng.uniform(*INTERVAL_MS) * 1e6)
            while (message := self.hear(due_ns)) is not None:
                if isinstance(message, Shown):
                    pictures.append(message)
            show = SHOWS[which]
            cause = Cause(frame=k, plane=0, time_s=k / 10, arrival_ns=time.perf_counter_ns())
            seq, sent = self.say(Show(what=show.what, angle_deg=show.angle_deg, cause=cause))
            sent_ns[seq] = sent
            due_ns = max(due_ns, sent - 50_000_000)  # after a standstill: not all that was missed at once
            if (k + 1) % 1000 == 0:
                say(f"{k + 1} of {n} commands")
        while not (pictures and pictures[-1].show_seq == seq):
            message = self.until(lambda m: isinstance(m, Shown), "the last picture")
            assert isinstance(message, Shown)
            pictures.append(message)
        return pictures, sent_ns, first
