"""What offline analysis adds to a recording, in the same file: traces of all cells, and detected events."""

import numpy as np
from hdmf.backends.hdf5 import H5DataIO
from numpy.typing import ArrayLike, NDArray
from pynwb import NWBFile
from pynwb.ophys import Fluorescence, PlaneSegmentation, RoiResponseSeries

from loop2p.recording.nwb_imaging import name_of
from loop2p.recording.nwb_parts import add_events, timing

EVENT_TABLES = {0: "somatic_events", 1: "dendritic_events"}
"""By plane: the proximal trunk stands for the soma (docs/experiment.md 1)."""


def roi_table(nwb: NWBFile, plane: int) -> PlaneSegmentation:
    """The plane's table of ROIs."""
    return nwb.processing["ophys"]["ImageSegmentation"][f"Rois{name_of(plane).capitalize()}"]


def add_counts(nwb: NWBFile, plane: int, counts: NDArray[np.uint16], times_s: ArrayLike) -> None:
    """Fluorescence of every ROI of a plane as whole detector counts, (n_frames, n_rois), where imaging's would stand.

    Compressed as a session of simulated traces needs it: bytes shuffled, then the fastest gzip (measured: half of the
    bytes).
    """
    ophys = nwb.processing["ophys"]
    if "Fluorescence" not in ophys.data_interfaces:
        ophys.add(Fluorescence())
    table = roi_table(nwb, plane)
    chunks = (min(len(counts), 4096), min(counts.shape[1], 16))
    region = table.create_roi_table_region(description="all ROIs, in the set's order", region=list(range(len(table))))
    ophys["Fluorescence"].add_roi_response_series(
        RoiResponseSeries(
            name=f"RawFluorescence{name_of(plane).capitalize()}",
            description="Mean detector counts of each ROI after rigid registration.",
            data=H5DataIO(counts, compression="gzip", compression_opts=1, shuffle=True, chunks=chunks),
            rois=region,
            unit="counts",
            **timing(times_s),
        )
    )


def add_detected_events(
    nwb: NWBFile, plane: int, times_s: NDArray[np.float64], rois: NDArray[np.int64], magnitudes: NDArray[np.float64]
) -> None:
    """Events of a plane: frame time, row of the plane's ROI table, magnitude (dF/F); all (n_events,)."""
    order = np.argsort(times_s, kind="stable")
    add_events(
        nwb, EVENT_TABLES[plane], f"Events of the {name_of(plane)} plane's ROIs.", times_s[order],
        {
            "roi": (f"row of the table Rois{name_of(plane).capitalize()}", rois[order]),
            "magnitude": ("size of the event, dF/F", magnitudes[order]),
        },
    )  # fmt: skip
