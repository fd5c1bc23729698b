"""The simulated rig on three machines, with keys."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from lab import HOSTS

from loop2p.protocol import RigFile, read_rig

RIGS = Path(__file__).parents[2] / "deploy" / "rigs"
PLACES = {"imaging": "microscope", "microscope": "microscope", "stimulus": "stimulus"}
"""Process -> host; all others are on control."""


def three_hosts(folder: Path, more_hosts: Mapping[str, str] = {}) -> RigFile:
    """Writes lab.toml into a folder `rig`, and beside it the files that it names."""
    lines, host = [], ""
    alone = (RIGS / "simulated.toml").read_text(encoding="utf-8")
    alone = re.sub(r"(?ms)^\[companions\..*?(?=^\[standins\.)", "", alone)  # they are for the one PC
    for line in alone.splitlines():
        section = re.match(r"\[(services|standins)\.(\w+)\]", line)
        if section:
            host = PLACES.get(section[2], "control")
            line += f'\nhost = "{host}"'
        if re.match(r"(publish|bulk|control) = ", line):
            line = line.replace("127.0.0.1", HOSTS[host])
        lines.append(line)
    hosts = "\n".join(f'{name} = "{address}"' for name, address in {**HOSTS, **more_hosts}.items())
    text = "\n".join(lines).replace('name = "simulated"', 'name = "lab"')
    text = text.replace("[clock]", f'[hosts]\n{hosts}\n\n[security]\nkeys = "keys"\n\n[clock]', 1)
    folder = folder / "rig"
    folder.mkdir()
    (folder / "lab.toml").write_text(text + "\n", encoding="utf-8")
    for file in RIGS.glob("simulated_rois_*.json"):
        shutil.copy(file, folder)
    return read_rig(folder / "lab.toml")
