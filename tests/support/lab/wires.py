"""The cable between a host and the switch, as a test holds it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab.host import Host

MTU = 9000
"""Jumbo frames: the wire is a Python program, and a preview picture is 400 kB."""


class Cable:
    """A wire from `host` to the bridge of `switch`; "there" is from the host to the switch."""

    def __init__(self, host: Host, switch: Host, address: str, seed: int) -> None:
        self.host, self.address = host, address
        near, far = f"h{host.name}"[:15], f"s{host.name}"[:15]
        program = str(Path(__file__).with_name("wire.py"))
        self._wire = switch.start(
            sys.executable, program, near, far, f"{seed} {host.name}",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._line()
        in_switch = ("nsenter", "-t", str(switch.pid), "-n", "--")  # not its process namespace: PIDs are ours here
        subprocess.run([*in_switch, "ip", "link", "set", near, "netns", str(host.pid)], check=True, timeout=30)
        switch.call("ip", "link", "set", far, "mtu", str(MTU), "master", "br0", "up")
        host.call("ip", "link", "set", near, "name", "eth0", "mtu", str(MTU))
        host.call("ip", "address", "add", f"{address}/24", "dev", "eth0")
        host.call("ip", "link", "set", "eth0", "up")

    def be(self, **conditions: Any) -> dict[str, dict[str, int]]:
        """Change the wire (see wire.Conditions); returns frames passed, lost, cut of each way so far."""
        assert self._wire.stdin is not None
        self._wire.stdin.write(json.dumps(conditions).encode() + b"\n")
        self._wire.stdin.flush()
        counts: dict[str, dict[str, int]] = json.loads(self._line())
        return counts

    def cut(self) -> None:
        self.be(cut=True)

    def mend(self) -> None:
        self.be(cut=False)

    def _line(self) -> bytes:
        assert self._wire.stdout is not None
        line = bytes(self._wire.stdout.readline())
        if not line:
            raise RuntimeError(f"the wire of {self.host.name} has ended")
        return line

    def close(self) -> None:
        for pipe in (self._wire.stdin, self._wire.stdout):
            if pipe is not None:
                pipe.close()
        self._wire.wait(10)
