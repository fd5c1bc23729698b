"""session.nwb: the run as a Neurodata Without Borders file, made from the journal alone.

One clock: seconds of frame time. What belongs to a frame has that frame's time. What was stamped with the rig clock
(flips, valve, licks, wheel) is mapped by `run.FrameTime`: every frame carries both its frame time and its arrival on
the rig clock, and between two frames the map is a straight line through them. session_start_time is the wall time
of frame time 0. What happened before it (the wheel turns, too) is left to the journal.
"""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject

from loop2p.protocol import Phase
from loop2p.recording.nwb_behaviour import add_behaviour
from loop2p.recording.nwb_external import add_external
from loop2p.recording.nwb_imaging import add_imaging
from loop2p.recording.nwb_parts import plain
from loop2p.recording.run import Run
from loop2p.recording.summary import no_display


def export_nwb(run_folder: Path, run: Run | None = None) -> Path:
    """Make session.nwb, at once or not at all; returns its path. `run`: the folder's, if it was read already.

    Raises FileNotFoundError without a journal, OSError.
    """
    run = run or Run(run_folder)
    target = run_folder / "session.nwb"
    write_nwb(build(run), target)
    return target


def write_nwb(nwb: NWBFile, target: Path) -> None:
    """Write the file, at once or not at all. Raises OSError."""
    temporary = target.with_name(f".{target.stem}.partial.nwb")
    try:
        with NWBHDF5IO(temporary, "w") as file:
            file.write(nwb)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def build(run: Run) -> NWBFile:
    """The run as an NWBFile in memory; raw frames are read from the journal while it is written."""
    session, animal = run.session, run.animal
    about = f"Day {_day(run)} of closed-loop brain-computer-interface training under a two-photon microscope."
    if session.simulated:
        about += " SIMULATED: stand-ins took the place of hardware or animal."
    if no_display(run):
        about += " No display: pictures were drawn but not shown on a screen."
    nwb = NWBFile(
        session_description=about,
        identifier=session.run_id,
        session_id=re.sub(r"[/\\]", "-", session.run_id),
        session_start_time=_start(run),
        experiment_description=(
            "The difference of the mean activity of two groups of layer 5 neurons sets the orientation of a grating; "
            "reaching the target orientation is rewarded."
        ),
        keywords=[
            "brain-computer interface",
            "two-photon",
            "closed loop",
            *(["simulated"] if session.simulated else []),
        ],
        related_publications=["https://doi.org/10.1038/s41586-026-10190-7"],
        experimenter=_strings(animal.get("experimenter")),
        institution=_string(animal.get("institution")),
        lab=_string(animal.get("lab")),
        notes=plain(_notes(run)),
        source_script="loop2p export",
        source_script_file_name="loop2p",
        subject=_subject(animal, session.simulated),
    )
    add_imaging(nwb, run, animal)
    add_behaviour(nwb, run)
    add_external(nwb, run)
    return nwb


def _string(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _strings(value: Any) -> list[str] | None:
    if isinstance(value, list):
        return [str(v) for v in value] or None
    return [str(value)] if value else None


def _subject(animal: dict[str, Any], simulated: bool) -> Subject:
    """The animal, by the animal file. What it does not say is said to be unknown."""
    sex = str(animal.get("sex", "U"))[:1].upper()
    description = str(animal.get("description", ""))
    if simulated:
        description = f"Simulated: stand-ins took the place of hardware or animal. {description}".strip()
    age = _string(animal.get("age"))
    if age is None or not re.fullmatch(r"P[\dYMWDTHS.]+(/(P[\dYMWDTHS.]+)?)?", age):
        age = "P0D/"  # unknown: not less than 0 days
    species = str(animal.get("species", "Mus musculus"))
    name = animal.get("id", animal.get("subject_id", animal.get("name", "unknown")))
    return Subject(
        subject_id=re.sub(r"[/\\]", "-", str(name)) or "unknown",
        species="Mus musculus" if species.lower() in ("mouse", "mus musculus") else species,
        sex=sex if sex in "MFUO" and sex else "U",
        age=age,
        genotype=_string(animal.get("genotype")),
        strain=_string(animal.get("strain")),
        description=description or "head-fixed mouse",
    )


def _start(run: Run) -> datetime:
    """Wall time of frame time 0; the journal's own date where the session gives no wall time."""
    session, zero_ns = run.session, run.frame_time.rig_ns_of_zero()
    try:
        wall = datetime.fromisoformat(session.wall_time)
    except ValueError:
        return datetime.fromtimestamp(run.segments[0].stat().st_mtime if run.segments else 0, UTC)
    if wall.tzinfo is None:
        wall = wall.astimezone()
    return wall + timedelta(microseconds=(zero_ns - session.anchor_ns) / 1000)


def _day(run: Run) -> int | str:
    phase = run.last(Phase)
    return phase.day if phase is not None else "unknown"


def _notes(run: Run) -> str:
    session, audit = run.session, run.audit
    parts = [
        f"run {session.run_id}, simulated: {str(session.simulated).lower()}",
        f"wall time of the session: {session.wall_time or 'unknown; the start time is the date of the journal file'}",
        f"overrides: {', '.join(session.overrides) or 'none'}",
        f"versions: {json.dumps(session.versions)}",
        f"seeds: {json.dumps(session.seeds)}",
        f"audit: {'complete' if audit.complete else 'NOT COMPLETE'}",
        *[f"  {note}" for note in audit.notes],
    ]
    for name, text in (("rig file", session.rig), ("task file", session.task), ("animal file", session.animal)):
        if text:
            parts += ["", f"=== {name} ===", text.rstrip()]
    return "\n".join(parts)
