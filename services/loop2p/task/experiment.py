"""The task file: one session in seconds, microlitres and degrees. Every default is the paper's (Methods)."""

from typing import Annotated

from msgspec import Meta, Struct, structs

from loop2p.protocol import FileError, parse_toml
from loop2p.task.animal import Animal, parse_animal
from loop2p.task.blocks import BlockParams, Name, PassiveParams, Positive
from loop2p.task.calibration import CalibrationParams
from loop2p.task.selection import SelectionParams, split
from loop2p.task.trials import Seconds, TrialParams
from loop2p.task.yoked import YokedParams


class BaselineParams(BlockParams, frozen=True, forbid_unknown_fields=True):
    """The last passive block, the one that calibrates the day (Methods 2.2). Its LED is `opto.baseline`."""

    name: Name = "passive"
    """Goes into the calibration: which baseline was used."""


class LoopParams(Struct, frozen=True, forbid_unknown_fields=True):
    duration_s: Seconds = 2475.6
    """41.26 min of frame time, the same for every session (Methods 2.6); pauses and gaps are left out.
    0: nothing is calibrated, and the session ends behind its passive blocks."""


class RewardParams(Struct, frozen=True, forbid_unknown_fields=True):
    volume_ul: Seconds = 4.0
    """10% sucrose (Methods 2.6)."""
    day_limit_ul: Positive = 1200.0
    """The day's ration is 1.2 ml (Methods 1): no free reward beyond it. The animal file's ration_ul holds where it is
    less; actuation enforces its own limit."""


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
    """In the calibrating baseline too, as in the paper's NDNF sessions; other passive blocks have their own `led`."""
    pulse_ms: Annotated[float, Meta(ge=0, le=30)] = 6.0
    """First 6 ms of every frame."""


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    """A session as the experimenter wrote it down."""

    day: Annotated[int, Meta(ge=1)] | None = None
    """None: the day after the animal file's last one, else 1."""
    selection: SelectionParams = SelectionParams()
    passive: list[PassiveParams] = []
    """Passive blocks before the baseline, in this order; none of them calibrates."""
    baseline: BaselineParams = BaselineParams()
    closed_loop: LoopParams = LoopParams()
    yoked: YokedParams | None = None
    """In place of the closed loop, and then nothing is calibrated: another day's pictures and rewards."""
    trial: TrialParams = TrialParams()
    reward: RewardParams = RewardParams()
    calibration: CalibrationTable = CalibrationTable()
    opto: OptoParams = OptoParams()

    def __post_init__(self) -> None:
        if self.calibrates and self.calibration.fixed is None and self.baseline.duration_s < self.calibration.window_s:
            raise ValueError(
                f"baseline.duration_s is {self.baseline.duration_s}, expected at least "
                f"calibration.window_s ({self.calibration.window_s}) or calibration.fixed"
            )
        names = [block.name for block in self.blocks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two passive blocks are called {twice[0]!r}, expected a name of its own for each")
        if not self.blocks and not self.loop_s:
            raise ValueError("neither a passive block nor a closed loop has a duration, expected something to do")

    @property
    def blocks(self) -> list[PassiveParams]:
        """All passive blocks in their order; the baseline is the last, and left out where its duration is 0."""
        baseline = PassiveParams(**structs.asdict(self.baseline), led=self.opto.baseline)
        return [*self.passive, *([baseline] if baseline.duration_s else [])]

    @property
    def loop_s(self) -> float:
        """How long the closed loop lasts, or what is played in its place; 0: there is none."""
        return self.closed_loop.duration_s if self.yoked is None else self.yoked.duration_s

    @property
    def calibrates(self) -> bool:
        """Is there a closed loop, so that a threshold is wanted?"""
        return self.loop_s > 0 and self.yoked is None

    @property
    def lights(self) -> bool:
        """May the LED be on at any time of the session?"""
        return self.opto.armed or any(block.led for block in self.blocks)

    @property
    def duration_s(self) -> float:
        """Frame time of the whole session, without pauses and what is not valid."""
        return sum(block.duration_s for block in self.blocks) + self.loop_s

    @property
    def seeds(self) -> dict[str, int]:
        return {
            "selection": self.selection.seed,
            **{f"passive {block.name}": block.seed for block in self.passive},
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

    @property
    def day_limit_ul(self) -> float:
        """No free reward beyond it: the smaller one of task file and animal file."""
        limit_ul = self.experiment.reward.day_limit_ul
        return min(limit_ul, self.animal.ration_ul or limit_ul)

    def animal_after(self, z_star: float, drawn_by: str, drawn_at: str) -> Animal:
        """What the animal file says once this day is calibrated; the draw stays as it was on day 1."""
        animal = structs.replace(self.animal, day=self.day, z_star=z_star, plus=self.plus, minus=self.minus)
        if self.animal.plus:
            return animal
        return structs.replace(animal, seed=self.experiment.selection.seed, drawn_by=drawn_by, drawn_at=drawn_at)


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
        if z_star is None and experiment.calibrates and experiment.calibration.fixed is None:
            raise FileError(
                f"{animal_path}: loop2p.z_star: none, but it is day {day}; expected the z* of day 1: give the "
                "animal.toml that day 1's run folder holds"
            )
    if not plus:
        raise FileError(f"{task_path}: selection: no ROIs; expected rois (to be split at random) or plus and minus")
    return Plan(experiment, known, day, plus, minus, z_star)
