"""The arms of the experiment and their controls: what each does to the protocol, the animal and the model."""

from typing import Any

from msgspec import Struct

from loop2p.simulation.cortex import NOTHING, Condition
from loop2p.simulation.mouse import Control

NDNF_LIT = Condition(apical_gain=0.1, rate_factor=0.4, residual_shift=-0.9)
"""ChRmine in layer-1 NDNF cells: the apical input is all but gone, and with it somatic events (imposed; 4.5)."""
LED_LIT = Condition(apical_gain=0.95, rate_factor=0.93, residual_shift=-0.1)
"""The LED alone, in a mouse without ChRmine (imposed; 4.5)."""
ANAESTHETISED = Condition(apical_gain=0.3, rate_factor=0.4, residual_shift=-0.6)
"""1% isoflurane (imposed; 4.5)."""

LIT: dict[str, Any] = {
    "passive": [{"name": "led-off", "duration_s": 776.2}],
    "baseline": {"name": "led-on", "duration_s": 776.2, "seed": 1},
    "opto": {"armed": True, "baseline": True},
}
"""An NDNF day (deploy/tasks/ndnf.toml)."""
DRUGGED: dict[str, Any] = {
    "passive": [
        {"name": "awake", "duration_s": 1440.0},
        {"name": "anaesthetised", "duration_s": 1440.0, "seed": 1, "wait": True},
    ],
    "baseline": {"duration_s": 0.0},
    "closed_loop": {"duration_s": 0.0},
}
"""An anaesthesia session (deploy/tasks/anaesthesia.toml)."""


class Arm(Struct, frozen=True, kw_only=True):
    """One arm."""

    about: str
    protocol: dict[str, Any] = {}
    """What its task file says; the rest is the default, which is the paper's."""
    lit: Condition = NOTHING
    at_wait: Condition | None = None
    """What is done to the animal wherever the session waits for the operator."""
    control: Control = "none"
    swap_day: int = 0
    """From this day on P+ and P- are exchanged; 0: never."""
    yoked: bool = False
    """Sees and drinks what its twin of the main arm did on the same day, without control. Its cells are the twin's, and
    what they do by themselves is not: else it would repeat the twin's every burst."""


ARMS: dict[str, Arm] = {
    "main": Arm(about="the experiment as published"),
    "ndnf": Arm(about="LED through the task, with ChRmine in NDNF cells", protocol=LIT, lit=NDNF_LIT),
    "led": Arm(about="LED through the task, without ChRmine", protocol=LIT, lit=LED_LIT),
    "anaesthesia": Arm(about="awake, then anaesthetised, no task", protocol=DRUGGED, at_wait=ANAESTHETISED),
    "no-apical": Arm(about="control: the apical signal is without a role", control="no-apical"),
    "scalar": Arm(about="control: the apical signal is the same in all cells", control="scalar"),
    "permuted": Arm(about="control: roles act swapped between half of P+ and half of P-", control="permuted"),
    "yoked": Arm(about="control: the screen of the main arm's twin, no control over it", yoked=True),
    "swap": Arm(about="P+ and P- are exchanged on day 8", swap_day=8),
}
