"""Interlocks that are broken on purpose: schedules that don't notice are worth nothing."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from simavr_firmware import FIRMWARE, build_folder, build_host_library, host_library

from loop2p.actuation import LEASE_MS, Interlock, Ration
from loop2p.actuation.controller_client import ControllerClient


class Mutant(Struct, frozen=True):
    """`was` in controller.cpp becomes `is_now`, or `patch` breaks the host's side."""

    name: str
    was: str = ""
    is_now: str = ""
    patch: Callable[[pytest.MonkeyPatch], None] = lambda _: None

    @contextlib.contextmanager
    def library(self) -> Iterator[Path]:
        """The firmware to run it with, while the host's side is as broken as it should be."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            self.patch(monkeypatch)
            yield _broken(self.was, self.is_now) if self.was else host_library()


@functools.cache
def _broken(was: str, is_now: str) -> Path:
    folder = build_folder() / f"mutant-{abs(hash((was, is_now)))}"
    shutil.copytree(FIRMWARE, folder)
    source = folder / "loop2p_controller" / "controller.cpp"
    text = source.read_text("utf-8")
    assert text.count(was) == 1, f"{source}: {text.count(was)} times {was!r}, expected once: change the mutant"
    source.write_text(text.replace(was, is_now), "utf-8")
    build_host_library(folder, folder / "libcontroller.so")
    return folder / "libcontroller.so"


def _vouches_for_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interlock, "silence", lambda self, now_ns: "")
    monkeypatch.setattr(
        Interlock, "lease_until_ns", lambda self: max(self._heard_ns.values(), default=0) + LEASE_MS * 1_000_000
    )


def _opens_the_line_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, safe, opening = ControllerClient._opened, ControllerClient.safe, []

    def armed_as_before(self: ControllerClient) -> None:
        opening.append(self)
        opened(self)
        opening.clear()

    monkeypatch.setattr(ControllerClient, "_opened", armed_as_before)
    monkeypatch.setattr(ControllerClient, "safe", lambda self: None if opening else safe(self))


MUTANTS = (
    Mutant("the lease never ends", "now_us - leased_us_ >= lease_for_us_", "false"),
    Mutant("ids are forgotten", "if (ids_[i] == id)", "if (ids_[i] == id && false)"),
    Mutant("armed survives safe", "    leased_ = false;\n    pulse_us_ = 0;\n", "    leased_ = false;\n"),
    Mutant("late is as good as in time", "left_us <= limits::ahead_us ? left_us : 0", "left_us ? limits::lease_us : 1"),
    Mutant(
        "any boot's commands are obeyed", "if (in_.payload_u32(0) != boot_id_) return 0;", "if (!boot_id_) return 0;"
    ),
    Mutant("the valve stays open for twice as long", "board::valve_on(open_us)", "board::valve_on(2 * open_us)"),
    Mutant("the LED's duty is not held", "!credit_.spend(pulse_us_)", "(credit_.spend(pulse_us_), false)"),
    Mutant("rewards are not counted", patch=lambda m: m.setattr(Ration, "book", lambda self, ul, open_ms: None)),
    Mutant("actuation vouches for the dead", patch=_vouches_for_the_dead),
    Mutant("the line is opened as it was left", patch=_opens_the_line_as_it_is),
)
