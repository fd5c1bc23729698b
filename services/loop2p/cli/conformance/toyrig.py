"""A small rig file for the program under test: every endpoint on this machine, our own services' options filled in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loop2p.cli.benchmarks.rig import free_ports
from loop2p.protocol import ROLES, RigFile, read_rig

HEIGHT, WIDTH, RATE_HZ = 96, 128, 30.92
"""Frames are small: here the contract is tested, not the speed of registration."""


def value(x: Any) -> str:
    """As TOML."""
    if isinstance(x, Mapping):
        return "{" + ", ".join(f"{k} = {value(v)}" for k, v in x.items()) + "}"
    if isinstance(x, list | tuple):
        return "[" + ", ".join(map(value, x)) + "]"
    return json.dumps(x)


def write(folder: Path, service: str, options: Mapping[str, Any]) -> RigFile:
    """The rig file in that folder; all services but the one under test are external."""
    ports = iter(free_ports(3 * len(ROLES)))
    lines = [
        'name = "conform"',
        "simulated = true",
        f"[microscope]\nheight = {HEIGHT}\nwidth = {WIDTH}\nplanes = 2\nrate_hz = {RATE_HZ}",
        f"[data]\nfolder = {value(str(folder / 'runs'))}\nfree_gb = 0.001",
    ]
    for role in ROLES:
        lines.append(f"[services.{role}]")
        lines += [f'{which} = "tcp://127.0.0.1:{next(ports)}"' for which in ("publish", "bulk", "control")]
        if role == service:
            if options:
                lines.append(f"[services.{role}.options]")
                lines += [f"{k} = {value(v)}" for k, v in options.items()]
        else:
            lines.append("external = true")
    path = folder / "rig.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_rig(path)
