"""The task file: one session in seconds, microlitres and degrees. Every default is the paper's (Methods)."""

from typing import Annotated

from msgspec import Meta, Struct

from loop2p.protocol import FileError, parse_toml
from loop2p.task.animal import Animal, parse_animal
from loop2p.task.calibration import CalibrationParams
from loop2p.task.selection import SelectionParams, split
from loop2p.task.trials import Seconds, TrialParams

Positive = Annotated[float, Meta(gt=0)]
Seed = Annotated[int, Meta(ge=0)]
Orientation = Annotated[float, Meta(ge=0, lt=180)]


class BaselineParams(Struct, frozen=True, forbid_unknown_fields=True):
    """The passive baseline that calibrates the day (Methods 2.2)."""

    duration_s: Seconds = 776.2
    """12,000 valid frames at 15.46 Hz; 0 only with a fixed calibration."""
    name: str = "passive"
    """Goes into the calibration: which baseline was used."""
    orientations_deg: tuple[Orientation, ...] = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)
    """Shown static, in random order; none: the screen stays grey."""
    shown_s: Positive = 1.0
    jitter_s: Seconds = 0.5
    """Each is shown for shown_s + U(-jitter_s, jitter_s)."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.jitter_s >= self.shown_s:
            raise ValueError(f"jitter_s is {self.jitter_s}, expected less than shown_s ({self.shown_s})")


class LoopParams(Struct, frozen=True, forbid_unknown_fields=True):
    duration_s: Positive = 2475.6
    """41.26 min of frame time, the same for every session (Methods 2.6); pauses and gaps are left out."""


class RewardParams(Struct, frozen=True, forbid_unknown_fields=True):
    volume_ul: Seconds = 4.0
    """10% sucrose (Methods 2.6)."""
    day_limit_ul: Positive = 1200.0
    """The day's ration is 1.2 ml (Methods 1): no free reward beyond it. actuation enforces its own limit."""


class FixedCalibration(Struct, frozen=True, forbid_unknown_fields=True):
    """Taken as they are, for tests and benchmarks."""

    minimum: float
    threshold: float

    def __post_init__(self) -> None:
        if not self.minimum < self.threshold:
            raise ValueError(f"minimum is {self.minimum}, threshold {self.threshold}, expected minimum < threshold")


class CalibrationTable(CalibrationParams, frozen=True, forbid_unknown_fields=True):
    fixed: FixedCalibration | None = None


class OptoParams(Struct, frozen=True, forbid_unknown_fields=True):
    """LED pulses on every frame trigger, fired by the controller (Methods 4.5)."""

    armed: bool = False
    """Through the whole closed loop."""
    baseline: bool = False
    """In the baseline too: the paper's NDNF sessions calibrate on a baseline with the LED on."""
    pulse_ms: Annotated[float, Meta(ge=0, le=30)] = 6.0
    """First 6 ms of every frame."""


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    """A session as the experimenter wrote it down."""

    day: Annotated[int, Meta(ge=1)] | None = None
    """None: the day after the animal file's last one, else 1."""
    selection: SelectionParams = SelectionParams()
    baseline: BaselineParams = BaselineParams()
    closed_loop: LoopParams = LoopParams()
    trial: TrialParams = TrialParams()
    reward: RewardParams = RewardParams()
    calibration: CalibrationTable = CalibrationTable()
    opto: OptoParams = OptoParams()

    def __post_init__(self) -> None:
        if self.calibration.fixed is None and self.baseline.duration_s < self.calibration.window_s:
            raise ValueError(
                f"baseline.duration_s is {self.baseline.duration_s}, expected at least "
                f"calibration.window_s ({self.calibration.window_s}) or calibration.fixed"
            )

    @property
    def seeds(self) -> dict[str, int]:
        return {
            "selection": self.selection.seed,
            "baseline": self.baseline.seed,
            "calibration": self.calibration.seed,
        }


class Plan(Struct, frozen=True):
    """A task file and an animal file, put together: what is to be done today."""

    experiment: Experiment
    animal: Animal
    day: int
    plus: list[int]
    minus: list[int]
    z_star: float | None
    """Day 1's; None: today's threshold comes from chance alone."""


def make_plan(task: str, animal: str = "", task_path: str = "task file", animal_path: str = "animal file") -> Plan:
    """Check both texts and put them together. Raises FileError: file, line or key, found, expected."""
    experiment = parse_toml(task, Experiment, task_path)
    known = parse_animal(animal, animal_path)
    day = experiment.day or known.day + 1
    chosen = experiment.selection
    plus, minus = split(chosen.rois, chosen.seed) if chosen.rois else (list(chosen.plus), list(chosen.minus))
    z_star = None
    if day > 1:
        if known.plus and plus and (plus, minus) != (known.plus, known.minus):
            raise FileError(
                f"{task_path}: selection: P+ {plus}, P- {minus} on day {day}; expected those of day 1, "
                f"P+ {known.plus}, P- {known.minus} ({animal_path}): leave the selection out of the task file"
            )
        plus, minus = known.plus or plus, known.minus or minus
        z_star = known.z_star
        if z_star is None and experiment.calibration.fixed is None:
            raise FileError(
                f"{animal_path}: loop2p.z_star: none, but it is day {day}; expected the z* of day 1: give the "
                "animal.toml that day 1's run folder holds"
            )
    if not plus:
        raise FileError(f"{task_path}: selection: no ROIs; expected rois (to be split at random) or plus and minus")
    return Plan(experiment, known, day, plus, minus, z_star)
