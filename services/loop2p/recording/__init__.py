"""The log: a crash-safe journal during the run; audit, NWB, summary and report made from it afterwards."""

from loop2p.recording.core import Auditor, Runs

__all__ = ["Auditor", "Runs"]
