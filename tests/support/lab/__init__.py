"""A laboratory in a box: machines as Linux namespaces, cables as seeded wires, clocks that are off and drift."""

from lab.drift import Drift
from lab.host import Host, why_not_here
from lab.laboratory import HALF_WAY, HOSTS, OFFSETS_S, Laboratory
from lab.wires import Cable

__all__ = ["HALF_WAY", "HOSTS", "OFFSETS_S", "Cable", "Drift", "Host", "Laboratory", "why_not_here"]
