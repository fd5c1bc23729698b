"""A process beside the services: a stand-in for hardware or animal, or a companion that only listens and asks."""

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from msgspec import Struct

from loop2p.protocol import FileError, RigFile
from loop2p.runtime.process import EXIT_MISTAKE, EXIT_STOPPED, load, stop_on_signals

BEHIND = 10
"""Niceness of a companion: pages and bridges have what the loop leaves."""
AUTOGROUP = Path("/proc/self/autogroup")
"""Where Linux shares processors by terminal session, niceness counts within one alone, and this is the session's. The
launcher gives each process a session of its own; in somebody's terminal it is left alone."""


class SideProcess(Protocol):
    """What its class offers."""

    Options: ClassVar[type[Struct]]

    @classmethod
    def from_rig(cls, options: Any, rig_file: RigFile) -> Self: ...

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set."""
        ...


def serve_side(name: str, rig_file: RigFile, with_parent: bool = False) -> int:
    """Run a stand-in or companion in this process until it is told to stop; returns the exit code."""
    stop = threading.Event()
    try:
        if name not in rig_file.rig.side:
            raise FileError(f"{rig_file.path}: no process {name!r}; there are {', '.join(rig_file.rig.side)}")
        kind: Any = load(rig_file.rig.side[name].run, f"{rig_file.path}: {name}.run")
        process = kind.from_rig(rig_file.side_options(name, kind.Options), rig_file)
        if name in rig_file.rig.companions:
            stand_behind()
        restore = stop_on_signals(stop.set, with_parent)
        try:
            process.run(stop)
        finally:
            restore()
    except (FileError, OSError) as error:
        logging.getLogger(f"loop2p.{name}").error("%s", error)
        return EXIT_MISTAKE
    return EXIT_STOPPED


def stand_behind() -> None:
    """Let this process run behind the services of its machine. On Windows nothing is done."""
    if hasattr(os, "nice"):
        os.nice(BEHIND)
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # not Linux, or no sharing by session
            AUTOGROUP.write_text(str(BEHIND), encoding="ascii")
