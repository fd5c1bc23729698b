"""One session's NWB file as plain arrays. Times in seconds of frame time."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

EVENT_TABLES = ("somatic_events", "dendritic_events")
"""By plane: 0 proximal, 1 distal trunk."""


class SessionError(ValueError):
    """A file that is no session of ours: place, what is missing, what is expected."""


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
    """(n_frames, n_rois) detector counts."""
    start_s: float
    """Frame time of the first frame."""
    rate_hz: float


class SessionData(Struct, frozen=True):
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
    events: dict[int, PlaneEvents]
    """By plane; empty where the file holds no events."""

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
        day = re.search(r"\bDay (\d+)\b", _text(_get(file, "session_description", path)))
        if day is None:
            raise SessionError(f"{path}: session_description names no day, expected 'Day N of ...'")
        rois = _get(file, "processing/ophys/ImageSegmentation/RoisProximal", path)
        phases = _get(file, "intervals/phases", path)
        shown = file.get("stimulus/presentation/ShownAngle")
        trials = file.get("intervals/trials")
        licks = file.get("events/licks")
        wheel = file.get("processing/behavior/WheelSpeed")
        names = [_strings(phases[key]) if key in phases else [""] * len(phases["id"]) for key in ("phase", "detail")]
        tables = {plane: name for plane, name in enumerate(EVENT_TABLES) if f"events/{name}" in file}
        return SessionData(
            path=path,
            mouse=_text(_get(file, "general/subject/subject_id", path)),
            day=int(day.group(1)),
            role=np.array(_strings(_get(rois, "role", path))),
            start_s=trials["start_time"][:] if trials else np.zeros(0),
            outcome=np.array(_strings(trials["outcome"]) if trials else [], dtype=np.str_),
            hit_s=trials["hit_time"][:] if trials else np.zeros(0),
            reward_s=trials["reward_time"][:] if trials else np.zeros(0),
            phases=list(zip(*names, phases["start_time"][:].tolist(), phases["stop_time"][:].tolist(), strict=True)),
            shown_s=_times(shown) if shown else np.zeros(0),
            shown_deg=shown["data"][:] if shown else np.zeros(0),
            lick_s=licks["timestamp"][:] if licks else np.zeros(0),
            speed_cm_s=wheel["data"][:] if wheel else np.zeros(0),
            events={plane: _events(file["events"][name]) for plane, name in tables.items()},
        )


def read_fluorescence(path: Path) -> dict[int, PlaneTraces]:
    """Fluorescence of both planes, frames that were lost filled in between their neighbours.

    Raises SessionError naming what is missing, or a hole longer than LONGEST_HOLE_S; OSError.
    """
    planes = {}
    with h5py.File(path, "r") as file:
        for plane, name in enumerate(("Proximal", "Distal")):
            series = _get(file, f"processing/ophys/Fluorescence/RawFluorescence{name}", path)
            times, f = _times(series), np.asarray(series["data"][:], np.float32)
            if len(times) < 2:
                raise SessionError(f"{path}: {series.name} holds {len(times)} frames, expected at least 2")
            step_s = float(np.median(np.diff(times)))
            frame = np.rint((times - times[0]) / step_s).astype(int)
            hole_s = np.diff(frame).max() * step_s
            if hole_s > LONGEST_HOLE_S:
                raise SessionError(f"{path}: {series.name}: a hole of {hole_s:.1f} s, expected <= {LONGEST_HOLE_S:g} s")
            every = np.arange(frame[-1] + 1)
            if len(every) > len(frame):
                f = np.stack([np.interp(every, frame, column).astype(np.float32) for column in f.T], axis=1)
            planes[plane] = PlaneTraces(f, float(times[0]), 1 / step_s)
    return planes


def read_arm(folder: Path) -> list[SessionData]:
    """All sessions below a folder, by mouse and day. Raises SessionError where there is none, or one twice."""
    sessions = sorted((read_session(path) for path in sorted(folder.rglob("*.nwb"))), key=lambda s: (s.mouse, s.day))
    if not sessions:
        raise SessionError(f"{folder}: no NWB file, expected one for each mouse and day")
    for one, other in pairwise(sessions):
        if (one.mouse, one.day) == (other.mouse, other.day):
            raise SessionError(f"{one.path} and {other.path} are both day {one.day} of {one.mouse}, expected one")
    return sessions


def _get(group: Any, name: str, path: Path) -> Any:
    if name not in group:
        raise SessionError(f"{path}: no {group.name.rstrip('/')}/{name}, expected a session as loop2p records it")
    return group[name]


def _text(dataset: Any) -> str:
    value = dataset[()]
    return value.decode() if isinstance(value, bytes) else str(value)


def _strings(dataset: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]]


def _times(series: Any) -> NDArray[np.float64]:
    if "timestamps" in series:
        return np.asarray(series["timestamps"][:], float)
    start = series["starting_time"]
    return np.asarray(start[()] + np.arange(len(series["data"])) / start.attrs["rate"], float)


def _events(table: Any) -> PlaneEvents:
    return PlaneEvents(t_s=table["timestamp"][:], roi=table["roi"][:], magnitude=table["magnitude"][:])
