"""A cohort: mice that live through the experiment day by day, and an NWB file of each day.

A folder is one arm: `cohort.toml` (what was asked), and for each mouse a folder with `day-NN.nwb` and `night-NN.npz`,
what outlived the night: the mouse's memory and the animal file. The night is written last, and a day without it is done
anew: a run that was killed at any time goes on where it stood, to the same result. Everything follows from the seed.
"""

import gc
import io
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tomli_w
from msgspec import Meta, Struct, structs, toml
from numpy.typing import NDArray

from loop2p.decoding.core import DifferenceDecoder
from loop2p.decoding.f0 import RollingF0
from loop2p.protocol import (
    DISTAL,
    PROXIMAL,
    Calibration,
    Done,
    Envelope,
    FileError,
    Lick,
    Message,
    Microscope,
    OptoCommand,
    Output,
    Phase,
    PlaneRois,
    RequestLog,
    RewardCommand,
    Rois,
    Selection,
    Session,
    Shown,
    Trial,
    Wheel,
    i32,
    parse_toml,
)
from loop2p.recording.nwb import build, write_nwb
from loop2p.recording.nwb_offline import add_counts, add_detected_events
from loop2p.recording.run import MemoryRun
from loop2p.runtime.atomic import write_atomically
from loop2p.simulation.arms import ARMS
from loop2p.simulation.inprocess import InProcessRig
from loop2p.simulation.mouse import LearningMouse
from loop2p.task.animal import parse_animal, updated
from loop2p.task.experiment import Experiment
from loop2p.task.passive import Passive
from loop2p.task.replay import schedule_of
from loop2p.task.selection import rank_by_event_rate

Level = Literal["events", "traces"]
KEPT: tuple[type[Message], ...] = (
    Session, Selection, Rois, Phase, Calibration, Output, Trial, Shown, RewardCommand, OptoCommand, RequestLog, Done,
    Lick, Wheel,
)  # fmt: skip
"""What a day's file is made of."""
CANDIDATES = 30
"""ROIs drawn on day 1 (Methods 2.1: 20-40)."""
REST_COUNTS = 250
"""Detector counts of an ROI at rest."""
SESSION_MB: dict[Level, float] = {"events": 4.0, "traces": 45.0}
"""Disk a session needs, rounded up (measured)."""
FIRST_DAY = datetime(2026, 1, 5, 9, tzinfo=UTC)
"""Wall time of every cohort's day 1, so that the same seed gives the same files."""
RIG = """name = "in-process"
simulated = true
[microscope]
height = 512
width = 796
planes = 2
rate_hz = 30.92
"""
"""What there is to say of a rig without processes."""


class CohortParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of a cohort; its folder keeps it."""

    arm: str
    mice: Annotated[int, Meta(ge=1, le=1000)] = 6
    days: Annotated[int, Meta(ge=1, le=100)] = 14
    level: Level = "events"
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    n_cells: Annotated[int, Meta(ge=40, le=5000)] = 300
    task: str = ""
    """Text of a task file that says more than the arm does; its tables stand in place of the arm's."""

    def __post_init__(self) -> None:
        if self.arm not in ARMS:
            raise ValueError(f"arm {self.arm!r}, expected one of {', '.join(ARMS)}")
        parse_toml(self.task, Experiment, "task file")

    @property
    def megabytes(self) -> float:
        """Disk that the whole cohort needs, about."""
        return self.mice * self.days * SESSION_MB[self.level] * max(1.0, self.n_cells / 300)


class DayResult(Struct, frozen=True):
    """One mouse's day in a line."""

    mouse: int
    day: int
    hits: int
    misses: int


# ------------------------------------------------------------ the folder


def prepare(folder: Path, params: CohortParams) -> None:
    """Make the cohort's folder, or see that it is the same cohort's. Raises FileError with what differs."""
    path = folder / "cohort.toml"
    if path.exists():
        known = read_params(folder)
        differing = [
            f"{name}: {getattr(known, name)!r} there, {getattr(params, name)!r} asked"
            for name in structs.asdict(params)
            if getattr(known, name) != getattr(params, name) and name not in ("mice", "days")
        ]
        if differing:
            found = "; ".join(differing)
            raise FileError(f"{folder} holds another cohort ({found}); expected the same or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, tomli_w.dumps(structs.asdict(params)))


def read_params(folder: Path) -> CohortParams:
    """What was asked of this folder's cohort. Raises FileError."""
    path = folder / "cohort.toml"
    try:
        return toml.decode(path.read_bytes(), type=CohortParams)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: {error}; expected what `loop2p cohort` wrote") from None


def mouse_folder(folder: Path, mouse: int) -> Path:
    return folder / f"mouse-{mouse:02d}"


def night_file(folder: Path, mouse: int, day: int) -> Path:
    return mouse_folder(folder, mouse) / f"night-{day:02d}.npz"


def days_to_do(folder: Path, params: CohortParams, mouse: int) -> range:
    """The days that a mouse has still before it."""
    done = 0
    while done < params.days and night_file(folder, mouse, done + 1).exists():
        done += 1
    return range(done + 1, params.days + 1)


# ------------------------------------------------------------ a day


class Subject:
    """A mouse and its animal file."""

    def __init__(self, params: CohortParams, number: int, arm: str) -> None:
        self.params, self.number, self.arm = params, number, ARMS[arm]
        self.seed = 1000 * params.seed + number
        self.mouse = LearningMouse(
            self.seed,
            params.n_cells,
            Microscope().rate_hz,
            control=self.arm.control,
            lit=self.arm.lit,
            keep_calcium=params.level == "traces",
            luck=int(self.arm.yoked),
        )
        self.animal = (
            f'id = "sim-{arm}-{self.seed}"\nsex = "U"\ndescription = "{arm}: {self.arm.about}"\n'
        )

    def wake(self, night: dict[str, NDArray[Any]], prefix: str = "") -> None:
        """Stand where it went to sleep."""
        state = {k.removeprefix(prefix): v for k, v in night.items() if k.startswith(prefix)}
        self.animal = bytes(state.pop("animal")).decode()
        self.mouse.restore(state)

    def night(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """What outlives the night."""
        animal = np.frombuffer(self.animal.encode(), np.uint8)
        return {prefix + k: v for k, v in {**self.mouse.state(), "animal": animal}.items()}

    def run(self, day: int, schedule: dict[str, Any] | None = None) -> tuple[InProcessRig, list[Envelope]]:
        """Live through a day; the night is not over yet."""
        task = self._task(day)
        if schedule is not None:
            task["yoked"] = schedule
        known = parse_animal(self.animal, "animal")
        if day == self.arm.swap_day:
            self.animal = updated(self.animal, structs.replace(known, plus=known.minus, minus=known.plus))
        if day > 1:
            self.mouse.permute = known.plus, known.minus
        self.mouse.begin_day(day)
        scope = Microscope()

        def at_wait() -> None:
            if self.arm.at_wait is not None:
                self.mouse.condition = self.arm.at_wait

        wall_time = (FIRST_DAY + timedelta(days=day - 1)).isoformat()
        rig = InProcessRig(
            self.mouse,
            tomli_w.dumps(task),
            self.animal,
            rig=RIG,
            microscope=scope,
            build=lambda plus, minus: DifferenceDecoder(plus, minus, scope.plane_rate_hz, record_dff=False),
            before=(all_cells(scope, self.params.n_cells),),
            at_wait=at_wait,
            run_id=f"{self.params.arm}-{self.seed}-day-{day:02d}",
            wall_time=wall_time,
            keep=KEPT,
        )
        sent = rig.run()
        calibration = rig.task.core.calibration
        if calibration is not None:
            after = rig.plan.animal_after(calibration.z_star, "simulation", wall_time)
            self.animal = updated(self.animal, after)
        elif day == 1:  # nothing was calibrated, yet the draw holds
            drawn = structs.replace(rig.plan.animal, plus=rig.plan.plus, minus=rig.plan.minus)
            self.animal = updated(self.animal, drawn)
        return rig, sent

    def _task(self, day: int) -> dict[str, Any]:
        """The day's task file: the arm's protocol, the cohort's own tables, seeds of the day, P+ and P- on day 1."""
        task: dict[str, Any] = {"day": day, **self.arm.protocol, **tomllib.loads(self.params.task)}
        seed = 100 * self.seed + day
        task["baseline"] = {**task.get("baseline", {}), "seed": 2 * seed}
        task["calibration"] = {**task.get("calibration", {}), "seed": seed}
        task["passive"] = [{**b, "seed": 2 * seed + 1 + 10_000_000 * k} for k, b in enumerate(task.get("passive", []))]
        if day == 1:
            task["selection"] = {"rois": self._chosen(), "seed": self.seed}
        return task

    def _chosen(self) -> list[int]:
        """Day 1: a passive recording, ROIs ranked on it, the best 8 or 10 in alternating mice (Methods 2.1)."""
        drawn = np.random.default_rng([self.seed, 5]).permutation(self.params.n_cells)[:CANDIDATES]
        dff = self._passive_dff(np.sort(drawn))
        best = [int(np.sort(drawn)[c.roi]) for c in rank_by_event_rate(dff, Microscope().plane_rate_hz)]
        return sorted(best[: 8 if self.number % 2 else 10])

    def _passive_dff(self, cells: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n_frames, n_cells) of a passive baseline before day 1."""
        scope, baseline = Microscope(), Experiment().baseline
        screen = Passive(baseline.orientations_deg, baseline.shown_s, baseline.jitter_s, self.seed)
        f0 = RollingF0(len(cells), round(30 * scope.plane_rate_hz))
        self.mouse.begin_day(0)
        dff = np.empty((round(baseline.duration_s * scope.plane_rate_hz), len(cells)), np.float32)
        for k in range(len(dff)):
            frame = scope.planes * k
            f = self.mouse.step(frame, PROXIMAL)[cells]
            base = f0.update(f)
            dff[k] = (f - base) / base
            for picture in screen.step(frame / scope.rate_hz):
                self.mouse.see(frame, picture.what, picture.angle_deg)
        return dff


def all_cells(scope: Microscope, n_cells: int) -> Rois:
    """Every cell as an ROI without outline, in both planes."""
    names, lengths = [f"cell {k}" for k in range(n_cells)], i32(np.zeros(n_cells))
    planes = [PlaneRois(plane=p, names=names, lengths=lengths, rows=b"", cols=b"") for p in (PROXIMAL, DISTAL)]
    return Rois(set_id="all cells", height=scope.height, width=scope.width, planes=planes)


def run_day(folder: Path, number: int, day: int) -> DayResult:
    """Live through one day of one mouse and write it down; the days before must be done. Raises FileError, OSError."""
    with no_garbage_collection():
        return _run_day(folder, number, day)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A day makes half a million messages that all are kept: looking through them for garbage takes a tenth of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _run_day(folder: Path, number: int, day: int) -> DayResult:
    params = read_params(folder)
    home = mouse_folder(folder, number)
    home.mkdir(exist_ok=True)
    subject = Subject(params, number, params.arm)
    twin = Subject(params, number, "main") if subject.arm.yoked else None
    if day > 1:
        with np.load(night_file(folder, number, day - 1), allow_pickle=False) as file:
            night = dict(file)
        subject.wake(night, "own_")
        if twin:
            twin.wake(night, "twin_")
    schedule = None
    if twin:
        rig, sent = twin.run(day)
        messages = [envelope.message for envelope in sent]
        schedule = structs.asdict(schedule_of(next(m for m in messages if isinstance(m, Session)), messages))
        if day == 1:
            subject.animal = updated(subject.animal, parse_animal(twin.animal, "twin"))
        twin.mouse.sleep()
    rig, sent = subject.run(day, schedule)
    write_day(home / f"day-{day:02d}.nwb", subject, sent, params.level)
    subject.mouse.sleep()
    kept = subject.night("own_") | (twin.night("twin_") if twin else {})
    packed = io.BytesIO()
    np.savez_compressed(packed, **kept)  # type: ignore[arg-type]
    write_atomically(night_file(folder, number, day), packed.getvalue())
    outcomes = rig.task.core.outcomes
    return DayResult(number, day, outcomes["hit"], outcomes["miss"])


def write_day(path: Path, subject: Subject, sent: list[Envelope], level: Level) -> None:
    """A day's NWB file: the live rig's layout, with events in place of fluorescence, or (level "traces") beside it."""
    mouse = subject.mouse
    nwb = build(MemoryRun(path.stem, sent))
    if level == "traces":
        for plane in (PROXIMAL, DISTAL):
            counts = np.round(REST_COUNTS * mouse.fluorescence(plane)).clip(0, 65535).astype(np.uint16)
            n = np.arange(len(counts))
            add_counts(nwb, plane, counts, (mouse.planes * n + plane) / mouse.rate_hz)
    else:
        events = mouse.events()
        add_detected_events(nwb, PROXIMAL, events.t_s, events.cell.astype(np.int64), events.soma)
        into = events.dendrite > 0
        add_detected_events(
            nwb, DISTAL, events.dendrite_t_s[into], events.cell[into].astype(np.int64), events.dendrite[into]
        )
    write_nwb(nwb, path)


def hours(params: CohortParams) -> float:
    """Simulated time of the whole cohort."""
    task = tomli_w.dumps({**ARMS[params.arm].protocol, **tomllib.loads(params.task)})
    experiment = parse_toml(task, Experiment, "task file")
    return experiment.duration_s * params.mice * params.days / 3600
