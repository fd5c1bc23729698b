"""A session as Parquet tables and back, so that results need no raw recording any more."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from loop2p.analysis import store
from loop2p.analysis.sessions import PlaneEvents, SessionData

EVENTS = ("events_soma", "events_dendrite")
"""Tables of the events, by plane."""
ABOUT = ("mouse", "day", "simulated", "followed")
TRIALS = ("start_s", "outcome", "hit_s", "reward_s")
PHASES = ("phase", "detail", "start_s", "stop_s")


def session_tables(session: SessionData) -> dict[str, pa.Table]:
    """All that `read_back` needs, by name."""
    phases = zip(*session.phases, strict=True) if session.phases else ((),) * len(PHASES)
    return {
        "session": pa.table({"path": [str(session.path)]} | {name: [getattr(session, name)] for name in ABOUT}),
        "rois": pa.table({"role": session.role.tolist()}),
        "trials": pa.table({name: pa.array(getattr(session, name).tolist()) for name in TRIALS}),
        "phases": pa.table({name: list(column) for name, column in zip(PHASES, phases, strict=True)}),
        "shown": pa.table({"t_s": session.shown_s, "angle_deg": session.shown_deg}),
        "licks": pa.table({"t_s": session.lick_s}),
        "speed": pa.table({"t_s": session.speed_t_s, "cm_s": session.speed_cm_s}),
    } | {EVENTS[plane]: store.to_table(events) for plane, events in session.events.items()}


def read_back(folder: Path) -> SessionData:
    """The session of a folder of results. Raises OSError where a table is missing."""
    about = store.load(folder, "session").to_pylist()[0]
    rois, trials, phases, shown, licks, speed = (
        store.load(folder, name) for name in ("rois", "trials", "phases", "shown", "licks", "speed")
    )
    events = {plane: store.load(folder, name) for plane, name in enumerate(EVENTS) if store.holds(folder, name)}
    return SessionData(
        path=Path(about["path"]),
        **{name: about[name] for name in ABOUT},
        role=np.array(rois["role"].to_pylist(), np.str_),
        start_s=np.array(trials["start_s"].to_pylist(), float),
        outcome=np.array(trials["outcome"].to_pylist(), np.str_),
        hit_s=np.array(trials["hit_s"].to_pylist(), float),
        reward_s=np.array(trials["reward_s"].to_pylist(), float),
        phases=[tuple(row[name] for name in PHASES) for row in phases.to_pylist()],
        shown_s=shown["t_s"].to_numpy(),
        shown_deg=shown["angle_deg"].to_numpy(),
        lick_s=licks["t_s"].to_numpy(),
        speed_t_s=speed["t_s"].to_numpy(),
        speed_cm_s=speed["cm_s"].to_numpy(),
        events={plane: store.from_table(PlaneEvents, table) for plane, table in events.items()},
    )
