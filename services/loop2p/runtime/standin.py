"""A stand-in as a process: takes the place of hardware or animal at its own interface."""

import logging
import threading
from typing import Any, ClassVar, Protocol, Self

from msgspec import Struct

from loop2p.protocol import FileError, RigFile
from loop2p.runtime.process import EXIT_MISTAKE, EXIT_STOPPED, load, stop_on_signals


class StandIn(Protocol):
    """What a stand-in class offers."""

    Options: ClassVar[type[Struct]]

    @classmethod
    def from_rig(cls, options: Any, rig_file: RigFile) -> Self: ...

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set."""
        ...


def serve_standin(name: str, rig_file: RigFile, with_parent: bool = False) -> int:
    """Run a stand-in in this process until it is told to stop; returns the exit code."""
    stop = threading.Event()
    try:
        if name not in rig_file.rig.standins:
            raise FileError(f"{rig_file.path}: no stand-in {name!r}; there are {', '.join(rig_file.rig.standins)}")
        kind: Any = load(rig_file.rig.standins[name].run, f"{rig_file.path}: standins.{name}.run")
        standin = kind.from_rig(rig_file.standin_options(name, kind.Options), rig_file)
        restore = stop_on_signals(stop.set, with_parent)
        try:
            standin.run(stop)
        finally:
            restore()
    except (FileError, OSError) as error:
        logging.getLogger(f"loop2p.{name}").error("%s", error)
        return EXIT_MISTAKE
    return EXIT_STOPPED
