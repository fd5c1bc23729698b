"""Small pieces from which the NWB file is put together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from hdmf.backends.hdf5 import H5DataIO
from hdmf.common import ElementIdentifiers, VectorData
from numpy.typing import ArrayLike
from pynwb import NWBFile
from pynwb.epoch import TimeIntervals
from pynwb.event import EventsTable, TimestampVectorData


def packed(data: ArrayLike) -> Any:
    """Compressed and chunked; an empty array is left as it is."""
    array = np.asarray(data)
    return H5DataIO(array, compression="gzip", compression_opts=4, chunks=True) if array.size else array


def timing(times: ArrayLike) -> dict[str, Any]:
    """Start and rate where the times (n,) are regular to a microsecond, else every time."""
    at = np.asarray(times, dtype=float)
    steps = np.diff(at)
    if len(at) > 2 and steps[0] > 0 and np.ptp(steps) < 1e-6:
        return {"starting_time": float(at[0]), "rate": 1 / float(steps.mean())}
    return {"timestamps": packed(at)}


def module(nwb: NWBFile, name: str, description: str) -> Any:
    """The processing module of that name, made when first asked for."""
    if name in nwb.processing:
        return nwb.processing[name]
    return nwb.create_processing_module(name, description)


def behavior(nwb: NWBFile) -> Any:
    return module(nwb, "behavior", "Control value, calibration and treadmill.")


def add_events(
    nwb: NWBFile, name: str, description: str, times: ArrayLike, more: Mapping[str, tuple[str, Any]]
) -> None:
    """A table of events at frame times (s); `more` has each further column's description and values."""
    columns = [TimestampVectorData(name="timestamp", description="frame time, s", data=_column(times))]
    columns += [VectorData(name=key, description=text, data=_column(values)) for key, (text, values) in more.items()]
    nwb.add_events_table(EventsTable(name=name, description=description, columns=columns, id=_ids(times)))


def intervals(
    name: str, description: str, start: ArrayLike, stop: ArrayLike, more: Mapping[str, tuple[str, Any]]
) -> TimeIntervals:
    """A table of intervals, column by column: pynwb checks each value of a row."""
    columns = [
        VectorData(name="start_time", description="frame time, s", data=np.asarray(start, float)),
        VectorData(name="stop_time", description="frame time, s", data=np.asarray(stop, float)),
        *[VectorData(name=key, description=text, data=_column(values)) for key, (text, values) in more.items()],
    ]
    return TimeIntervals(name=name, description=description, columns=columns, id=_ids(start))


def _ids(rows: ArrayLike) -> ElementIdentifiers:
    return ElementIdentifiers(name="id", data=np.arange(len(np.asarray(rows))))


def _column(values: Any) -> Any:
    """Numbers as an array: pynwb looks at every element of a list (measured: 0.1 s for 10,000)."""
    array = np.asarray(values)
    return array if array.dtype.kind in "biuf" else list(values)


def plain(text: str) -> str:
    """A text as HDF5 takes it: without NUL."""
    return text.replace("\0", "")


def or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)
