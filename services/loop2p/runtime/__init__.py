"""The only shell: what turns a service into a process on the bus, or into a part of a simulation."""

from loop2p.runtime.clock import RigClock
from loop2p.runtime.local import LocalBus
from loop2p.runtime.service import Context, Input, NoOptions, Service

__all__ = ["Context", "Input", "LocalBus", "NoOptions", "RigClock", "Service"]
