"""The only shell: what turns a service into a process on the bus, or into a part of a simulation."""

from loop2p.runtime.ask import ask, ask_answer
from loop2p.runtime.clock import RigClock
from loop2p.runtime.launcher import Launcher, Lost, RigBusyError, RigLock
from loop2p.runtime.local import LocalBus
from loop2p.runtime.process import serve
from loop2p.runtime.service import Context, Input, NoOptions, Service
from loop2p.runtime.side import SideProcess, serve_side

__all__ = [
    "Context",
    "Input",
    "Launcher",
    "LocalBus",
    "Lost",
    "NoOptions",
    "RigBusyError",
    "RigClock",
    "RigLock",
    "Service",
    "SideProcess",
    "ask",
    "ask_answer",
    "serve",
    "serve_side",
]
