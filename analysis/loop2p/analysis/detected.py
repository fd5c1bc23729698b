"""From a session's recording to its events, by what a microscope sees alone (docs/experiment.md 3.2-3.6)."""

from pathlib import Path

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from loop2p.analysis.detect import find_events, find_events_dff
from loop2p.analysis.fluorescence import Traces, dff
from loop2p.analysis.pairs import Pairs, in_proximal_rows, pair
from loop2p.analysis.sessions import (
    EVENT_TABLES,
    FLUORESCENCE,
    PlaneEvents,
    SessionData,
    SessionError,
    holds,
    read_plane,
    read_session,
)
from loop2p.analysis.spikes import Inference, Oasis
from loop2p.analysis.suite2p import neurons, read_suite2p_plane, read_suite2p_session

TABLES = tuple(f"events/{name}" for name in EVENT_TABLES)


class Detected(Struct, frozen=True, kw_only=True):
    """A session with its events and what they were found in; of a file that holds events alone, the session alone."""

    session: SessionData
    """Events of both planes carry the row of the proximal ROI; distal ones whose ROI has no partner are left out, and
    somatic ones stay all."""
    pairs: Pairs | None = None
    session_dff: SessionData | None = None
    """The same events, measured on dF/F itself."""
    dff: Traces | None = None
    rate: Traces | None = None
    """(n_frames, n_rois) of the proximal plane: dF/F, and what was inferred from it, a second (`Inference`)."""
    frame_s: NDArray[np.float64] | None = None
    """(n_frames,) times of these frames."""
    roi: dict[int, NDArray[np.int64]] = {}
    """By plane, (n_rois,) number in the recording of each ROI that was analysed: row of its table, or suite2p's."""


class _Plane(Struct, frozen=True):
    """A plane as it is analysed."""

    dff: Traces
    rate_hz: float
    start_s: float
    rows: NDArray[np.int64]
    """(n_rois,) of the recording's traces."""
    roi: NDArray[np.int64]


def read_any(path: Path, inference: Inference | None = None) -> Detected:
    """A session by its fluorescence, or where there is none by the events that its file holds.

    Raises SessionError naming both where it has neither, and what `read_detected` and `read_recorded` raise.
    """
    if path.is_dir() or holds(path, FLUORESCENCE):
        return read_detected(path, inference)
    if holds(path, TABLES):
        return read_recorded(path)
    raise SessionError(
        f"{path}: neither {' and '.join(FLUORESCENCE)} nor {' and '.join(TABLES)}, expected the fluorescence of both "
        "planes, or events: record with both planes, or simulate a cohort"
    )


def read_recorded(path: Path) -> Detected:
    """A session with the events that its file holds: those of a simulated cohort without traces.

    Raises SessionError naming the table that is missing, OSError.
    """
    if path.is_dir():
        raise SessionError(f"{path}: a folder, expected an NWB file with events: read this one's fluorescence")
    session = read_session(path)
    for plane, table in enumerate(TABLES):
        if plane not in session.events:
            raise SessionError(f"{path}: no {table}, expected the events of both planes: read its fluorescence")
    return Detected(session=session)


def read_detected(path: Path, inference: Inference | None = None) -> Detected:
    """A session with the events that its fluorescence shows, in place of any that its file holds.

    `path`: an NWB file, or a suite2p session's folder, whose duplicates are left out (`suite2p.neurons`). `inference`
    defaults to Oasis(). Raises SessionError without fluorescence or for a P+ or P- that has no dF/F, OSError.
    """
    infer = (inference or Oasis()).infer
    session = (read_suite2p_session if path.is_dir() else read_session)(path)
    soma, trunk = _plane(path, 0, session.role), _plane(path, 1)
    pairs = pair(soma.dff, trunk.dff, soma.rate_hz)
    rate = infer(soma.dff, soma.rate_hz)
    somatic = find_events(rate, soma.rate_hz, soma.start_s)
    distal = find_events(infer(trunk.dff, trunk.rate_hz), trunk.rate_hz, trunk.start_s)
    session = structs.replace(session, role=session.role[soma.rows])

    def holding(somatic: PlaneEvents, distal: PlaneEvents) -> SessionData:
        return structs.replace(session, events={0: somatic, 1: in_proximal_rows(distal, pairs)})

    on_dff = (find_events_dff(p.dff, e, p.rate_hz, p.start_s) for p, e in ((soma, somatic), (trunk, distal)))
    return Detected(
        session=holding(somatic, distal),
        pairs=pairs,
        session_dff=holding(*on_dff),
        dff=soma.dff,
        rate=rate,
        frame_s=soma.start_s + np.arange(len(rate)) / soma.rate_hz,
        roi={0: soma.roi, 1: trunk.roi},
    )


def _plane(path: Path, plane: int, role: NDArray[np.str_] | None = None) -> _Plane:
    """dF/F of a plane; of suite2p's ROIs only those that are analysed. Without `role` (n_rois,) all are other."""
    recorded = (read_suite2p_plane if path.is_dir() else read_plane)(path, plane)
    n_rois = len(recorded.roi)
    if role is None:
        role = np.full(n_rois, "other")
    if len(role) != n_rois:
        raise SessionError(
            f"{path}: {n_rois} traces of plane {plane}, {len(role)} rows in its table of ROIs, expected as many: "
            "export it again"
        )
    traces = dff(recorded.f, recorded.rate_hz)
    lost = (role != "other") & ~np.isfinite(traces).all(axis=0)
    if lost.any():
        row = int(np.argmax(lost))
        raise SessionError(
            f"{path}: ROI {recorded.roi[row]} of plane {plane} ({role[row]}) has no dF/F, expected fluorescence above "
            "0 at rest: see its trace; if it is the neuropil that takes it below 0, take off less (neuropil_share)"
        )
    rows = np.arange(n_rois)
    if path.is_dir():
        rows = neurons(traces, recorded.rate_hz, role, recorded.centre_um)
        traces = traces if len(rows) == n_rois else traces[:, rows]
    return _Plane(traces, recorded.rate_hz, recorded.start_s, rows, recorded.roi[rows])
