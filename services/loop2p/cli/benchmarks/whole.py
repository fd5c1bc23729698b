"""The whole rig for benchmarks: six services and both stand-ins on free ports, with a small field of view."""

import json
from pathlib import Path

from loop2p.cli.benchmarks.rig import free_ports
from loop2p.protocol import ROLES, RigFile, read_rig
from loop2p.simulation.scene import Scene

HEIGHT, WIDTH, N_CELLS, N_ROIS, RATE_HZ = 160, 192, 14, 8, 30.92
TASK = """
day = 1
[selection]
rois = [0, 1, 2, 3, 4, 5, 6, 7]
seed = 3
[baseline]
duration_s = 0
[trial]
loop_s = 4
[closed_loop]
duration_s = 36000
[calibration]
fixed = { minimum = -0.05, threshold = 0.08 }
"""
"""Trials are short, so that a boundary between two comes soon."""


def write_whole_rig(folder: Path, speed: float = 1.0) -> RigFile:
    """`speed`: how many times faster than life the stand-in microscope scans; decisions are on frame time."""
    scene = Scene(1, HEIGHT, WIDTH, N_CELLS, N_ROIS, 2)
    for plane in range(2):
        (folder / f"rois{plane}.json").write_text(scene.rois_json(plane), encoding="utf-8")
    ports = iter(free_ports(3 * len(ROLES) + 4))
    image, handshake, serial, wires = (next(ports) for _ in range(4))
    rois = ", ".join(f'{{plane = {p}, path = "rois{p}.json", format = "neurofinder"}}' for p in range(2))
    options = {
        "imaging": f'source = {{kind = "tcp", image_port = {image}, control_port = {handshake}}}\nrois = [{rois}]',
        "task": "start_timeout_s = 180",
        "stimulus": 'renderer = "software"\nwidth_px = 160\nheight_px = 90',
        "actuation": f'controller = "socket://127.0.0.1:{serial}"\ncalibration_stale_days = 0\n'
        'valve = {date = "2026-11-02", points = [{open_ms = 40, ul = 4}, {open_ms = 200, ul = 20}]}\n'
        "limits = {day_ul = 100000, session_ul = 100000}",
    }
    lines = [
        'name = "bench"',
        "simulated = true",
        f"[microscope]\nheight = {HEIGHT}\nwidth = {WIDTH}\nplanes = 2\nrate_hz = {RATE_HZ}",
        f"[data]\nfolder = {json.dumps(str(folder / 'runs'))}\nfree_gb = 0.1",
    ]
    for role in ROLES:
        lines.append(f"[services.{role}]")
        lines += [f'{which} = "tcp://127.0.0.1:{next(ports)}"' for which in ("publish", "bulk", "control")]
        if role in options:
            lines.append(f"[services.{role}.options]\n{options[role]}")
    lines += [
        '[standins.microscope]\nrun = "loop2p.simulation.microscope:Microscope"',
        f'options = {{image_port = {image}, control_port = {handshake}, wires = "127.0.0.1:{wires}", '
        f"rate_hz = {speed * RATE_HZ}, n_cells = {N_CELLS}, n_rois = {N_ROIS}}}",
        '[standins.controller]\nrun = "loop2p.simulation.controller:Controller"',
        f'options = {{tcp = "127.0.0.1:{serial}", wires = "127.0.0.1:{wires}"}}',
    ]
    path = folder / "bench.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_rig(path)
