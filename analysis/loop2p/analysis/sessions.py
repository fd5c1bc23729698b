"""One session's NWB file as plain arrays. Times in seconds of frame time."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from loop2p.analysis.fluorescence import subtract_neuropil

EVENT_TABLES = ("somatic_events", "dendritic_events")
"""By plane: 0 proximal, 1 distal trunk."""
FLUORESCENCE = tuple(f"processing/ophys/Fluorescence/RawFluorescence{plane}" for plane in ("Proximal", "Distal"))
NEUROPIL = tuple(f"processing/ophys/Fluorescence/RawNeuropil{plane}" for plane in ("Proximal", "Distal"))
"""By plane. loop2p records no neuropil; where a file holds it, in the shape of the fluorescence, it is taken off."""
SUITE2P_SHEET = "session.toml"
"""A folder that holds this file is a suite2p session."""


class SessionError(ValueError):
    """A recording that can't be analysed: place, what is missing, what is expected, what to do."""


LONGEST_HOLE_S = 1.0
"""Fluorescence may be missing for so long and be filled in; a calcium transient lasts about as long."""


class PlaneEvents(Struct, frozen=True):
    """Events of a plane, in order of time; all (n_events,)."""

    t_s: NDArray[np.float64]
    roi: NDArray[np.int64]
    """Row of the plane's ROI table."""
    magnitude: NDArray[np.float64]
    """dF/F."""


class PlaneTraces(Struct, frozen=True):
    """Fluorescence of a plane's ROIs, at the rate of its own frames."""

    f: NDArray[np.float32]
    """(n_frames, n_rois) detector counts; neuropil is taken off where it was recorded."""
    start_s: float
    """Frame time of the first frame."""
    rate_hz: float
    roi: NDArray[np.int64]
    """(n_rois,) number of each ROI in the recording: row of the plane's ROI table, or suite2p's."""
    centre_um: NDArray[np.float64] | None = None
    """(n_rois, 2) y, x; None where they are not known."""


class SessionData(Struct, frozen=True, kw_only=True):
    """One mouse's day."""

    path: Path
    mouse: str
    day: int
    role: NDArray[np.str_]
    """(n_rois,) of the proximal plane: plus, minus or other."""
    start_s: NDArray[np.float64]
    """(n_trials,) when the trial began, with its grey screen."""
    outcome: NDArray[np.str_]
    """(n_trials,) hit, miss, void or unfinished."""
    hit_s: NDArray[np.float64]
    """(n_trials,) when the target was reached; NaN."""
    reward_s: NDArray[np.float64]
    """(n_trials,) when the drop fell; NaN."""
    phases: list[tuple[str, str, float, float]]
    """Phase, its name or reason, start, stop."""
    shown_s: NDArray[np.float64]
    """(n_pictures,) when each picture came."""
    shown_deg: NDArray[np.float64]
    """(n_pictures,) angle of the grating; NaN for grey and black."""
    lick_s: NDArray[np.float64]
    """(n_licks,)"""
    speed_cm_s: NDArray[np.float64]
    """(n_readings,) of the treadmill."""
    speed_t_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """(n_readings,) when each was taken; none where only the speeds themselves matter."""
    events: dict[int, PlaneEvents]
    """By plane; empty where the file holds no events."""
    simulated: bool = False
    """The recording says so of itself."""
    followed: bool = True
    """A row of `role` is the same cell on each of the mouse's days."""

    @property
    def loop_s(self) -> float:
        """How long the closed loop ran."""
        return sum(stop - start for phase, _, start, stop in self.phases if phase == "closed_loop")

    @property
    def duration_s(self) -> float:
        """All phases together."""
        return sum(stop - start for *_, start, stop in self.phases)


def read_session(path: Path) -> SessionData:
    """Read what the analysis needs. Raises SessionError naming the object that is missing, OSError."""
    with h5py.File(path, "r") as file:
        about = _text(_get(file, "session_description", path))
        day = re.search(r"\bDay (\d+)\b", about)
        if day is None:
            raise SessionError(f"{path}: session_description names no day, expected 'Day N of ...'")
        rois = _get(file, "processing/ophys/ImageSegmentation/RoisProximal", path)
        phases = _get(file, "intervals/phases", path)
        shown = file.get("stimulus/presentation/ShownAngle")
        trials = file.get("intervals/trials")
        licks = file.get("events/licks")
        wheel = file.get("processing/behavior/WheelSpeed")
        names = [_strings(phases[key]) if key in phases else [""] * len(phases["id"]) for key in ("phase", "detail")]
        limits = [_get(phases, key, path)[:].tolist() for key in ("start_time", "stop_time")]
        tables = {plane: name for plane, name in enumerate(EVENT_TABLES) if f"events/{name}" in file}
        return SessionData(
            path=path,
            mouse=_text(_get(file, "general/subject/subject_id", path)),
            day=int(day.group(1)),
            simulated="SIMULATED" in about,
            role=np.array(_strings(_get(rois, "role", path))),
            start_s=_get(trials, "start_time", path)[:] if trials else np.zeros(0),
            outcome=np.array(_strings(_get(trials, "outcome", path)) if trials else [], dtype=np.str_),
            hit_s=_get(trials, "hit_time", path)[:] if trials else np.zeros(0),
            reward_s=_get(trials, "reward_time", path)[:] if trials else np.zeros(0),
            phases=list(zip(*names, *limits, strict=True)),
            shown_s=_times(shown, path) if shown else np.zeros(0),
            shown_deg=_get(shown, "data", path)[:] if shown else np.zeros(0),
            lick_s=_get(licks, "timestamp", path)[:] if licks else np.zeros(0),
            speed_cm_s=_get(wheel, "data", path)[:] if wheel else np.zeros(0),
            speed_t_s=_times(wheel, path) if wheel else np.zeros(0),
            events={plane: _events(file["events"][name], path) for plane, name in tables.items()},
        )


def read_plane(path: Path, plane: int) -> PlaneTraces:
    """Fluorescence of a plane, less its neuropil where the file has it, lost frames filled in between their neighbours.

    Raises SessionError naming what is missing or does not fit, or a hole longer than LONGEST_HOLE_S; OSError.
    """
    with h5py.File(path, "r") as file:
        series = _get(file, FLUORESCENCE[plane], path)
        times, f = _times(series, path), np.asarray(_get(series, "data", path)[:], np.float32)
        if NEUROPIL[plane] in file:
            around = _get(file, f"{NEUROPIL[plane]}/data", path)
            if around.shape != f.shape:
                raise SessionError(
                    f"{path}: {around.name} of shape {around.shape}, expected {f.shape} as {series.name}: a trace for "
                    "each ROI, a value for each frame"
                )
            f = subtract_neuropil(f, around[:])
        where = f"{path}: {series.name}"
    if len(times) < 2:
        raise SessionError(f"{where} holds {len(times)} frames, expected at least 2")
    if not (np.diff(times) > 0).all():
        raise SessionError(f"{where}: times that do not rise, expected each frame after the one before")
    step_s = float(np.median(np.diff(times)))
    frame = np.rint((times - times[0]) / step_s).astype(int)
    hole_s = np.diff(frame).max() * step_s
    if hole_s > LONGEST_HOLE_S:
        raise SessionError(
            f"{where}: a hole of {hole_s:.1f} s, expected <= {LONGEST_HOLE_S:g} s: leave the session out"
        )
    every = np.arange(frame[-1] + 1)
    if len(every) > len(frame):
        f = np.stack([np.interp(every, frame, column).astype(np.float32) for column in f.T], axis=1)
    return PlaneTraces(f, float(times[0]), 1 / step_s, np.arange(f.shape[1]))


def holds(path: Path, names: tuple[str, ...]) -> bool:
    """Has an NWB file all of these objects? Raises OSError."""
    with h5py.File(path, "r") as file:
        return all(name in file for name in names)


def find_sessions(folder: Path) -> list[Path]:
    """Every session in a folder and below it, sorted: NWB files, and folders with a SUITE2P_SHEET.

    What lies inside a suite2p session is part of it (suite2p can write an NWB file of its own), and a file whose name
    begins with a dot is one that is being written.
    """
    folders = {sheet.parent for sheet in folder.rglob(SUITE2P_SHEET)}
    files = {path for path in folder.rglob("*.nwb") if path.is_file() and not path.name.startswith(".")}
    return sorted(path for path in folders | files if not folders.intersection(path.parents))


def read_arm(folder: Path) -> list[SessionData]:
    """All sessions below a folder, by mouse and day. Raises SessionError where there is none, or one twice."""
    sessions = sorted((read_session(path) for path in sorted(folder.rglob("*.nwb"))), key=lambda s: (s.mouse, s.day))
    if not sessions:
        raise SessionError(f"{folder}: no NWB file, expected one for each mouse and day")
    for one, other in pairwise(sessions):
        if (one.mouse, one.day) == (other.mouse, other.day):
            raise SessionError(
                f"{one.path} and {other.path} are both day {one.day} of {one.mouse}, expected one: move one elsewhere, "
                "or run sessions with an animal file, which counts the days"
            )
    return sessions


def _get(group: Any, name: str, path: Path) -> Any:
    if name not in group:
        where = f"{path}: no {group.name.rstrip('/')}/{name}"
        raise SessionError(f"{where}, expected a session as loop2p records it: export it again")
    return group[name]


def _text(dataset: Any) -> str:
    value = dataset[()]
    return value.decode() if isinstance(value, bytes) else str(value)


def _strings(dataset: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]]


def _times(series: Any, path: Path) -> NDArray[np.float64]:
    if "timestamps" in series:
        return np.asarray(series["timestamps"][:], float)
    start, data = (_get(series, name, path) for name in ("starting_time", "data"))
    return np.asarray(start[()] + np.arange(len(data)) / start.attrs["rate"], float)


def _events(table: Any, path: Path) -> PlaneEvents:
    t_s, roi, magnitude = (_get(table, name, path)[:] for name in ("timestamp", "roi", "magnitude"))
    return PlaneEvents(t_s=t_s, roi=roi, magnitude=magnitude)
