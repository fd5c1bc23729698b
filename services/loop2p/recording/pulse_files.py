"""Reading the pulses of one line from a recording: a run of this rig, a DAQ file, a table."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import Done, Envelope, Shown, Traces
from loop2p.recording.journal import read_journal

Floats = NDArray[np.float64]
THORSYNC_HZ = 20e6
"""ThorSync's `Global/GCtr` counts at this rate: 36.0e6 counts in 54,000 samples at 30 kHz."""
COUNTER = "Global/GCtr"


class PulseFileError(ValueError):
    """A recording that can't be read as pulses: place, found, expected."""


def read_pulses(source: str, rate_hz: float = 0.0) -> Floats:
    """(n,) s, rising, of "PATH::LINE". Raises PulseFileError: place, found, expected.

    A run's folder: `frames` (last byte in), `shown` (flips), `patch` (flips that turned the photodiode patch on),
    `valve` (openings), by the rig clock. `.h5`: a dataset, its rising edges, by ThorSync's counter where the file has
    one, else by `rate_hz` samples a second. `.csv`: a column of seconds, by its name. `.jsonl`: a pin of the stand-in
    controller's log.
    """
    name, _, line = source.partition("::")
    path = Path(name)
    if not path.exists():
        raise PulseFileError(f"{path}: no such recording, expected PATH::LINE")
    if path.is_dir():
        return _from_run(path, line)
    readers: dict[str, Callable[[Path, str], Floats]] = {
        ".h5": lambda p, n: _from_hdf5(p, n, rate_hz),
        ".csv": _from_csv,
        ".jsonl": _from_pins,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PulseFileError(f"{path}: found {path.suffix or 'no suffix'}, expected a run, .h5, .csv or .jsonl")
    try:
        times = reader(path, line)
    except (OSError, UnicodeDecodeError) as error:
        raise PulseFileError(f"{path}: can't be read: {error}") from None
    return np.unique(times)


# ---------------------------------------------------------------- a run

RUN_LINES: dict[str, Callable[[Envelope], int | None]] = {
    "frames": lambda r: r.header.cause.arrival_ns if r.topic == Traces.topic and r.header.cause is not None else None,
    "shown": lambda r: m.flip_ns if isinstance(m := r.message, Shown) else None,
    "patch": lambda r: m.flip_ns if isinstance(m := r.message, Shown) and m.patch else None,
    "valve": lambda r: m.open_ns if isinstance(m := r.message, Done) and m.volume_ul > 0 else None,
}


def _from_run(folder: Path, line: str) -> Floats:
    if line not in RUN_LINES:
        raise PulseFileError(f"{folder}: found line {line!r}, expected one of {', '.join(RUN_LINES)}")
    wanted = (Traces.topic, Shown.topic, Done.topic)
    try:
        found = [RUN_LINES[line](r) for r in read_journal(folder) if r.topic in wanted and not r.header.resent]
    except (OSError, ValueError) as error:
        raise PulseFileError(f"{folder}: {error}") from None
    times_ns = np.array(sorted({ns for ns in found if ns is not None}), dtype=np.int64)
    return times_ns / 1e9


# ---------------------------------------------------------------- a DAQ's file


def _from_hdf5(path: Path, line: str, rate_hz: float) -> Floats:
    import h5py

    with h5py.File(path) as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        if line not in names:
            raise PulseFileError(f"{path}: found no line {line!r}, expected one of {', '.join(names)}")
        level = np.asarray(file[line]).ravel().astype(float)
        if COUNTER in names:
            time_s = np.asarray(file[COUNTER]).ravel().astype(float) / THORSYNC_HZ
        elif rate_hz > 0:
            time_s = np.arange(len(level)) / rate_hz
        else:
            raise PulseFileError(f"{path}: no {COUNTER} in it to tell the time, expected a sample rate (--rate-hz)")
    if len(time_s) != len(level):
        raise PulseFileError(f"{path}: {len(level)} samples of {line}, expected {len(time_s)} as of {COUNTER}")
    return time_s[rises(level)]


def rises(level: Floats) -> NDArray[np.int64]:
    """(n,) samples at which a line, (samples,), first stands above the middle of its range. A counter rises each time
    it counts."""
    values = np.unique(level)
    if len(values) > 2 and (np.diff(level) >= 0).all() and (values == np.round(values)).all():
        return np.flatnonzero(np.diff(level) > 0) + 1
    high = level > (values[0] + values[-1]) / 2
    return np.flatnonzero(~high[:-1] & high[1:]) + 1


# ---------------------------------------------------------------- tables


def _from_csv(path: Path, line: str) -> Floats:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        columns = list(rows.fieldnames or [])
        if line not in columns:
            raise PulseFileError(f"{path}: found no column {line!r}, expected one of {', '.join(columns)}")
        texts = [row[line] for row in rows if (row[line] or "").strip()]
    try:
        return np.array([float(text) for text in texts])
    except ValueError as error:
        raise PulseFileError(f"{path}: column {line!r}: {error}, expected seconds") from None


def _from_pins(path: Path, line: str) -> Floats:
    try:
        edges = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        found = [edge["ns"] for edge in edges if edge["pin"] == line and edge["level"]]
        pins = sorted({str(edge["pin"]) for edge in edges})
    except (ValueError, KeyError, TypeError) as error:
        raise PulseFileError(f"{path}: {error!r}, expected lines like {{ns, pin, level, t_us}}") from None
    if line not in pins:
        raise PulseFileError(f"{path}: found no pin {line!r}, expected one of {', '.join(pins)}")
    return np.array(found, dtype=float) / 1e9
