"""A session as suite2p and an experiment leave it: a folder with planes, a sheet and tables."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loop2p.analysis.sessions import PlaneTraces, SessionData, read_plane, read_session

RATE_HZ = 15.46


def from_nwb(folder: Path, nwb: Path) -> Path:
    """The session of an NWB file; without neuropil, and every ROI is a cell."""
    return write_folder(folder, read_session(nwb), [read_plane(nwb, plane) for plane in (0, 1)])


def write_folder(folder: Path, session: SessionData, planes: Sequence[PlaneTraces]) -> Path:
    """Write a session and its two planes' fluorescence; returns the folder."""
    starts = ", ".join(str(plane.start_s) for plane in planes)
    write_sheet(
        folder,
        f'mouse = "{session.mouse}"\nday = {session.day}\nplane_rate_hz = {planes[0].rate_hz}\n'
        f"first_frame_s = [{starts}]\nsimulated = true\n",
    )
    for k, plane in enumerate(planes):
        write_plane(folder, k, plane.f, np.zeros_like(plane.f), np.ones(plane.f.shape[1]))
    chosen = np.flatnonzero(session.role != "other")
    tables: dict[str, tuple[str, Iterable[Any]]] = {
        "roles": ("roi,role", zip(chosen, session.role[chosen], strict=True)),
        "trials": (
            "start_s,outcome,hit_s,reward_s",
            zip(session.start_s, session.outcome, session.hit_s, session.reward_s, strict=True),
        ),
        "shown": ("t_s,angle_deg", zip(session.shown_s, session.shown_deg, strict=True)),
        "phases": ("phase,detail,start_s,stop_s", session.phases),
        "licks": ("t_s", ([t] for t in session.lick_s)),
        "speed": ("t_s,cm_s", zip(session.speed_t_s, session.speed_cm_s, strict=True)),
    }
    for name, (header, rows) in tables.items():
        write_table(folder / f"{name}.csv", header, rows)
    return folder


def write_sheet(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "session.toml").write_text(text, encoding="utf-8")


def write_plane(folder: Path, plane: int, f: np.ndarray, around: np.ndarray, is_cell: np.ndarray) -> None:
    """Fluorescence and neuropil (n_frames, n_rois), and which ROIs are cells, as suite2p has them."""
    place = folder / f"plane{plane}"
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "F.npy", np.ascontiguousarray(f.T, np.float32))
    np.save(place / "Fneu.npy", np.ascontiguousarray(around.T, np.float32))
    np.save(place / "iscell.npy", np.column_stack([is_cell, np.full(len(is_cell), 0.9)]))


def write_table(path: Path, header: str, rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file; NaN becomes an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{header}\n")
        csv.writer(file).writerows(["" if cell != cell else cell for cell in row] for row in rows)


def transients(n_frames: int, n_rois: int, seed: int = 0) -> np.ndarray:
    """(n_frames, n_rois) calcium of cells that fire by themselves, dF/F: an event every 6 s, decay 0.6 s."""
    rng = np.random.default_rng(seed)
    trace = (rng.random((n_frames, n_rois)) < 1 / (6 * RATE_HZ)) * rng.lognormal(0, 0.3, (n_frames, n_rois))
    for k in range(1, n_frames):
        trace[k] += np.exp(-1 / (0.6 * RATE_HZ)) * trace[k - 1]
    return trace


def small_folder(folder: Path, n_frames: int = 1200) -> Path:
    """Eight ROIs in each plane, 78 s, two trials. ROI 1 of plane0 and ROI 6 of plane1 are no cells.

    Of plane0, 0 and 4 are P+, 2 and 5 P-. ROI k is the same neuron in both planes.
    """
    rng = np.random.default_rng(1)
    calcium = transients(n_frames, 8)
    around = 40 + 4 * rng.standard_normal((n_frames, 1)) * np.ones(8)
    for plane, no_cell in enumerate((1, 6)):
        noise = 0.03 * rng.standard_normal(calcium.shape)
        write_plane(folder, plane, 100 * (1 + calcium + noise) + 0.7 * around, around, np.arange(8) != no_cell)
    write_sheet(folder, f'mouse = "m1"\nday = 2\nplane_rate_hz = {RATE_HZ}\nfirst_frame_s = [0.0, {0.5 / RATE_HZ}]\n')
    write_table(folder / "roles.csv", "roi,role", [(0, "plus"), (4, "plus"), (2, "minus"), (5, "minus")])
    write_table(
        folder / "trials.csv", "start_s,outcome,hit_s,reward_s", [(30, "hit", 40.5, 41.5), (45, "miss", np.nan, np.nan)]
    )
    write_table(
        folder / "shown.csv", "t_s,angle_deg",
        [(30, np.nan), (30.5, 30), (35, 45), (40.5, 90), (42.5, np.nan), (45.5, 15), (73, np.nan)],
    )  # fmt: skip
    write_table(
        folder / "phases.csv", "phase,detail,start_s,stop_s",
        [("baseline", "passive", 0, 29.5), ("closed_loop", "", 30, 76)],
    )  # fmt: skip
    write_table(folder / "licks.csv", "t_s", [[40.9], [41.7]])
    write_table(folder / "speed.csv", "t_s,cm_s", [(t, 3 + 0.1 * t) for t in range(76)])
    return folder
