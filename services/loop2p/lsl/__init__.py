"""The rig on Lab Streaming Layer: what it does goes out as streams, other programs' streams come in to be recorded."""

from loop2p.lsl.inlet import Inlet
from loop2p.lsl.outlet import Outlet

__all__ = ["Inlet", "Outlet"]
