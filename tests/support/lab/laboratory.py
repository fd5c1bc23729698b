"""Three machines on one switch."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from lab.drift import Drift
from lab.host import Host
from lab.wires import Cable

HOSTS = {"microscope": "10.77.0.1", "stimulus": "10.77.0.2", "control": "10.77.0.3"}
"""The machines of a rig, and their addresses. Their network has no way out."""
OFFSETS_S = {"microscope": 3, "stimulus": -86, "control": 7}
"""How far their clocks are off, for want of a reason to have others."""
HALF_WAY = {"delay_ms": 1.0, "jitter_ms": 0.25, "loss": 0.0005}
"""Of each cable. Two of them lie between two machines: 2 ms +- 0.5 ms each way, 0.1 % of the frames lost."""


class Laboratory:
    """The machines and their cables, until the block ends; nothing is left of them, whatever happens.

    `offsets_s`: how far a machine's perf_counter is ahead of ours; `drifts`: host -> how fast it runs away (ppm).
    """

    def __init__(
        self, folder: Path, seed: int, offsets_s: Mapping[str, int] = {}, drifts: Mapping[str, float] = {}
    ) -> None:
        self._stack = ExitStack()
        self.hosts: dict[str, Host] = {}
        self.cables: dict[str, Cable] = {}
        self.drifts: dict[str, Drift] = {}
        print(f"laboratory: seed {seed}, offsets {dict(offsets_s)} s, drifts {dict(drifts)} ppm")
        try:
            switch = Host("switch", folder / "switch")
            self._stack.callback(switch.close)
            switch.call("ip", "link", "add", "br0", "mtu", "9000", "type", "bridge")
            switch.call("ip", "link", "set", "br0", "up")
            for name, address in HOSTS.items():
                host = self.hosts[name] = Host(name, folder / name, offsets_s.get(name, 0))
                self._stack.callback(host.close)
                cable = self.cables[name] = Cable(host, switch, address, seed)
                self._stack.callback(cable.close)
                if name in drifts:
                    self.drifts[name] = Drift(host, drifts[name])
                    self._stack.callback(self.drifts[name].close)
        except BaseException:
            self._stack.close()
            raise

    def be(self, **conditions: Any) -> None:
        """All cables alike."""
        for cable in self.cables.values():
            cable.be(**conditions)

    def now_ns(self, name: str) -> int:
        """What the perf_counter of a machine without drift shows."""
        assert name not in self.drifts
        return time.perf_counter_ns() + self.hosts[name].offset_s * 10**9

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
