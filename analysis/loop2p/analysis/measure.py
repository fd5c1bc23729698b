"""What is measured in one session by itself, and takes long: events, pairs, decoders. Kept on disk, so done once."""

import logging
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from msgspec import Meta, Struct, structs, to_builtins
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from loop2p.analysis import store
from loop2p.analysis.arm import Arm
from loop2p.analysis.columns import joined
from loop2p.analysis.detected import Detected, read_any, read_detected, read_recorded
from loop2p.analysis.learning import GROUPS
from loop2p.analysis.network import Network, network
from loop2p.analysis.neurons import in_phase, like_decoder, like_decoder_of
from loop2p.analysis.outcome import Outcomes, outcomes
from loop2p.analysis.pairs import Pairs
from loop2p.analysis.session_store import read_back, session_tables
from loop2p.analysis.sessions import PlaneEvents, SessionError

METHOD = 3
"""Counts up when what is measured here changes, so that what is on disk from before is measured anew."""
DFF = ("events_dff_soma", "events_dff_dendrite")
"""Tables of the events as they are measured on dF/F, by plane."""
Source = Literal["auto", "fluorescence", "recorded"]


T = TypeVar("T", bound=Struct)


class MeasureParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of each session."""

    events: Source = "auto"
    """Detected in the fluorescence, or as the file holds them (a simulated cohort without traces); auto: detected where
    there is fluorescence."""
    seed: Annotated[int, Meta(ge=0)] = 0
    n_shuffles: Annotated[int, Meta(ge=1)] = 19
    """Of the network decoder; with fewer than 19 no neuron can be significant by rank."""
    n_other: Annotated[int, Meta(ge=0)] = 8
    """P0 neurons of a session that the network decoder takes, drawn from those with enough events."""
    n_outcome_shuffles: Annotated[int, Meta(ge=1)] = 10


class Like(Struct, frozen=True):
    """(n_rois,) P0 that go with D, or against it."""

    role: NDArray[np.str_]


def measure(path: Path, arm: str, params: MeasureParams, folder: Path) -> str:
    """Measure a session and keep the result in `folder`; "done", "there" (from before), or why it can't be: a bad file
    is told of and does not stop the others.
    """
    stamp = stamp_for(path, arm, params)
    if store.stamp_of(folder) == stamp:
        return "there"
    try:
        with threadpool_limits(1):
            tables = _measure(path, arm, params)
    except (SessionError, OSError) as error:
        text = str(error)
        return text if str(path) in text else f"{path}: {text}"
    except Exception as error:  # damaged HDF5 raises nearly anything; none of it may cost the other sessions
        logging.getLogger(__name__).exception("%s", path)
        return f"{path}: {type(error).__name__}: {error}: a damaged file, or a mistake here: the log has the traceback"
    store.save(folder, tables, stamp)
    return "done"


def stamp_for(path: Path, arm: str, params: MeasureParams) -> dict[str, Any]:
    """What decides a result: the session's files, what is asked, how it is done."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    sizes = {p.relative_to(path.parent).as_posix(): [p.stat().st_size, p.stat().st_mtime_ns] for p in files}
    return {"method": METHOD, "arm": arm, "params": to_builtins(params), "files": sizes}


def _measure(path: Path, arm: str, params: MeasureParams) -> dict[str, Any]:
    read = {"auto": read_any, "fluorescence": read_detected, "recorded": read_recorded}[params.events]
    found = read(path)
    session = found.session
    tables = session_tables(session)
    if found.session_dff is not None:
        tables |= {name: store.to_table(found.session_dff.events[plane]) for plane, name in enumerate(DFF)}
    if found.pairs is not None:
        tables["pairs"] = store.to_table(found.pairs)
    if not (session.role == "plus").any() or not len(session.start_s):
        return tables  # a passive session: nothing to decode
    if set(GROUPS) <= set(session.role.tolist()):
        tables["like"] = store.to_table(Like(like(found)))
    # The seeds depend on the mouse and the day alone: not on what else is analysed, nor by how many workers.
    seed = (params.seed, zlib.crc32(session.mouse.encode()), session.day)
    tables["outcomes"] = store.to_table(outcomes([session], (*seed, 1), params.n_outcome_shuffles))
    if arm == "main":  # A7 asks for no other, and it takes long
        decoded = network([session], (*seed, 2), params.n_other, params.n_shuffles)
        tables["network"] = store.to_table(decoded)
    return tables


def like(found: Detected) -> NDArray[np.str_]:
    """(n_rois,) by the traces of the closed loop; by its events where there are none."""
    if found.dff is None or found.frame_s is None:
        return like_decoder_of(found.session)
    return like_decoder(found.dff[in_phase(found.session, found.frame_s, "closed_loop")], found.session.role)


def read_measured(name: str, folders: Sequence[Path]) -> Arm:
    """An arm from the folders of its sessions' results, by mouse and day.

    What only some of its sessions have (pairs, the dF/F variant, P0 like P+ and P-) is left out. Raises SessionError
    for a day that is there twice, OSError for a folder that `measure` did not finish.
    """
    rows = sorted(((read_back(folder), folder) for folder in folders), key=lambda row: (row[0].mouse, row[0].day))
    for (one, _), (other, _) in pairwise(rows):
        if (one.mouse, one.day) == (other.mouse, other.day):
            raise SessionError(
                f"{one.path} and {other.path} are both day {one.day} of {one.mouse}, expected one: move one elsewhere, "
                "or run sessions with an animal file, which counts the days"
            )

    def parts(table: str, kind: type[T]) -> list[T]:
        there = [folder for _, folder in rows if store.holds(folder, table)]
        return [store.from_table(kind, store.load(folder, table)) for folder in there]

    def in_all(found: list[T]) -> list[T]:
        return found if len(found) == len(rows) else []

    sessions = [session for session, _ in rows]
    dff = zip(sessions, *(in_all(parts(table, PlaneEvents)) for table in DFF), strict=False)
    decoded, told = parts("network", Network), parts("outcomes", Outcomes)
    return Arm(
        name=name,
        sessions=sessions,
        dff=[structs.replace(session, events={0: soma, 1: dendrite}) for session, soma, dendrite in dff],
        pairs=in_all(parts("pairs", Pairs)),
        like=[part.role for part in in_all(parts("like", Like))],
        network=joined(decoded) if decoded else None,
        outcomes=joined(told) if told else None,
    )
