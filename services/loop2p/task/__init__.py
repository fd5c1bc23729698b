"""The experiment: calibration, trials, phases, commands. These are the cores; the service is `loop2p.task.service`."""

from loop2p.task.animal import Animal
from loop2p.task.calibration import CalibrationError, CalibrationParams, calibrate
from loop2p.task.core import Drop, Opto, SessionCore
from loop2p.task.experiment import Experiment, Plan, make_plan
from loop2p.task.mapping import Mapping
from loop2p.task.passive import Passive
from loop2p.task.replay import core_of, replay
from loop2p.task.selection import Candidate, candidates, rank_by_event_rate, ranked, split, with_selection
from loop2p.task.trials import Reward, TrialParams, Trials, Value

__all__ = [
    "Animal", "CalibrationError", "CalibrationParams", "Candidate", "Drop", "Experiment", "Mapping", "Opto", "Passive",
    "Plan", "Reward", "SessionCore", "TrialParams", "Trials", "Value", "calibrate", "candidates", "core_of",
    "make_plan", "rank_by_event_rate", "ranked", "replay", "split", "with_selection",
]  # fmt: skip
