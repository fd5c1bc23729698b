"""Reward valve, LED, licks and wheel: what may reach the animal, and the serial protocol that says so."""

from loop2p.actuation.controller_clock import ControllerClock
from loop2p.actuation.core import (
    ARMED_PHASES,
    LEASE_MS,
    CalibrationPoint,
    ControllerLimits,
    Interlock,
    Limits,
    OpenValve,
    Refusal,
    Repeated,
    SetLed,
    ValveCalibration,
    Verdict,
)
from loop2p.actuation.ration import Ration

__all__ = [
    "ARMED_PHASES",
    "LEASE_MS",
    "CalibrationPoint",
    "ControllerClock",
    "ControllerLimits",
    "Interlock",
    "Limits",
    "OpenValve",
    "Ration",
    "Refusal",
    "Repeated",
    "SetLed",
    "ValveCalibration",
    "Verdict",
]
