"""The interlock: which commands may reach the animal, and how long the valve opens for a volume.

Pure: time is passed in, verdicts come out as values. The controller enforces its own limits besides.
"""

import datetime
import itertools
import math
from collections import OrderedDict

import numpy as np
from msgspec import Struct

from loop2p.actuation.ration import Ration
from loop2p.protocol import OptoCommand, PhaseName, RewardCommand

LEASE_MS = 200
"""Longest silence of task or decoding while actuators may work (decision: pins low within 250 ms of a loss)."""
LEASE_SOURCES = ("task", "decoding")
ARMED_PHASES: frozenset[PhaseName] = frozenset(("baseline", "calibration", "closed_loop"))
"""Phases in which the valve may open and the LED may be armed. In the others nothing moves."""
KNOWN_IDS = 1024
"""Verdicts that are remembered; whatever was forgotten is too old to be obeyed."""


class CalibrationPoint(Struct, frozen=True, forbid_unknown_fields=True):
    open_ms: float
    ul: float


class ValveCalibration(Struct, frozen=True, forbid_unknown_fields=True):
    """How much comes out for how long the valve is open, as weighed on a day.

    Raises ValueError for a date that is none, or points that don't rise.
    """

    date: str
    """ISO date of the weighing, such as "2026-11-02"."""
    points: list[CalibrationPoint]
    """Rising open times and volumes. Linear between points and from (0, 0) to the first; never beyond the last."""

    def __post_init__(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(
                f"valve calibration date {self.date!r}, expected the day of weighing as YYYY-MM-DD"
            ) from None
        if not self.points:
            raise ValueError("valve calibration has no points, expected at least one such as {open_ms = 50, ul = 4}")
        previous = CalibrationPoint(0.0, 0.0)
        for number, point in enumerate(self.points, 1):
            if not (math.isfinite(point.open_ms) and math.isfinite(point.ul)):
                raise ValueError(f"valve calibration point {number}: {point}, expected finite numbers")
            if point.open_ms <= previous.open_ms or point.ul <= previous.ul:
                raise ValueError(
                    f"valve calibration point {number}: {point.open_ms} ms gives {point.ul} ul after {previous.open_ms}"
                    f" ms gave {previous.ul} ul, expected both to rise from 0"
                )
            previous = point

    def open_us(self, volume_ul: float) -> int:
        """Open time for a volume, microseconds. Raises ValueError beyond the last point."""
        last = self.points[-1]
        if volume_ul > last.ul:
            raise ValueError(f"{volume_ul:g} ul is beyond the calibration of {self.date}, which ends at {last.ul:g} ul")
        return round(float(np.interp(volume_ul, self._ul, self._ms)) * 1000)

    def volume_ul(self, open_us: float) -> float:
        """Volume for an open time; the last point's for anything longer."""
        return float(np.interp(open_us / 1000, self._ms, self._ul))

    @property
    def most_ul_per_ms(self) -> float:
        """The steepest part: counts an open time of unknown pieces on the safe side."""
        pairs = itertools.pairwise(zip(self._ms, self._ul, strict=True))
        return max((b_ul - a_ul) / (b_ms - a_ms) for (a_ms, a_ul), (b_ms, b_ul) in pairs)

    @property
    def _ms(self) -> list[float]:
        return [0.0, *(p.open_ms for p in self.points)]

    @property
    def _ul(self) -> list[float]:
        return [0.0, *(p.ul for p in self.points)]

    def age_days(self, today: datetime.date) -> int:
        return (today - datetime.date.fromisoformat(self.date)).days


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What no command can exceed. Raises ValueError for a limit that is none."""

    max_open_ms: float = 200.0
    """Longest single opening of the valve."""
    session_ul: float = 1000.0
    """In one run: twice the 0.51 ml that a good session gives (docs/experiment.md 6)."""
    day_ul: float = 1200.0
    """For one animal on one day: the ration of water restriction (docs/experiment.md 1)."""
    led_duty_max: float = 0.2
    """Largest part of the time the LED may be on: 6 ms of each 32.3 ms frame are 0.186 (docs/experiment.md 4.5)."""
    led_day_s: float = 1500.0
    """Seconds of light for one animal on one day: twice the 605 s of an LED-on baseline and a session."""
    lease_ms: float = LEASE_MS

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {name} is {value}, expected a number above 0")
        if self.led_duty_max > 1:
            raise ValueError(f"limit led_duty_max is {self.led_duty_max}, expected at most 1 (a part of the time)")
        if self.lease_ms > LEASE_MS:
            raise ValueError(f"limit lease_ms is {self.lease_ms:g}, expected at most {LEASE_MS}")


class ControllerLimits(Struct, frozen=True):
    """What the controller said at hello that it enforces. The stricter of these and `Limits` holds."""

    max_open_ms: float = math.inf
    led_duty_max: float = 1.0
    led_pulse_ms: float = math.inf


class OpenValve(Struct, frozen=True):
    """Verdict: give this reward. It is booked already."""

    volume_ul: float
    open_us: int


class SetLed(Struct, frozen=True):
    """Verdict: arm or disarm the LED."""

    armed: bool
    pulse_us: int


class Refusal(Struct, frozen=True):
    """Verdict: nothing is done, and why, for the operator."""

    reason: str


class Repeated(Struct, frozen=True):
    """Verdict: the same command was taken before, at `received_ns`; it is not done a second time."""

    received_ns: int


Verdict = OpenValve | SetLed | Refusal | Repeated


class Interlock:
    """Judges commands. Starts unarmed: needs the heartbeats of `lease_sources` and a phase before anything moves.

    `now_ns` is this machine's perf_counter, for silence; `rig_ns` the rig clock, for expiry: the offset between
    them may be corrected at any time, and that must neither make nor break a lease.
    """

    def __init__(
        self,
        instance: str,
        limits: Limits,
        calibration: ValveCalibration,
        ration: Ration,
        frame_rate_hz: float,
        lease_sources: tuple[str, ...] = LEASE_SOURCES,
    ) -> None:
        self.lease_sources = lease_sources
        self.instance, self.limits, self.calibration, self.ration = instance, limits, calibration, ration
        self.frame_rate_hz = frame_rate_hz
        self.phase: PhaseName = "idle"
        self.controller: ControllerLimits | None = None
        """None while there is no controller to command."""
        self.blocked = ""
        """A reason to refuse everything, such as a ration file that can't be read."""
        self._heard_ns: dict[str, int] = {}
        self._known: OrderedDict[int, Refusal | Repeated] = OrderedDict()
        self._forgotten: int | None = None

    # ------------------------------------------------------------ armed or not

    def heard(self, source: str, now_ns: int) -> None:
        """A heartbeat of a service that holds the lease."""
        self._heard_ns[source] = now_ns

    def lost(self, source: str) -> None:
        """A service that says itself that it is leaving need not fall silent first."""
        self._heard_ns.pop(source, None)

    def lease_until_ns(self) -> int | None:
        """When the oldest of the last heartbeats goes stale; None while one of them is missing."""
        if any(source not in self._heard_ns for source in self.lease_sources):
            return None
        return min(self._heard_ns[source] for source in self.lease_sources) + int(self.limits.lease_ms * 1e6)

    def why_unarmed(self, now_ns: int) -> str:
        """What keeps the actuators from being armed; empty while they are."""
        if self.blocked:
            return self.blocked
        if self.controller is None:
            return "the controller is not connected"
        silence = self.silence(now_ns)
        if silence:
            return silence
        if self.phase not in ARMED_PHASES:
            return f"the phase is {self.phase}"
        return ""

    def silence(self, now_ns: int) -> str:
        """Who of those that hold the lease is not heard; empty while all are."""
        for source in self.lease_sources:
            heard_ns = self._heard_ns.get(source)
            if heard_ns is None:
                return f"{source} is not heard"
            silent_ms = (now_ns - heard_ns) / 1e6
            if silent_ms > self.limits.lease_ms:
                return f"{source} has been silent for {silent_ms:.0f} ms, limit {self.limits.lease_ms:g} ms"
        return ""

    def armed(self, now_ns: int) -> bool:
        return not self.why_unarmed(now_ns)

    # ------------------------------------------------------------ commands

    def judge(self, source: str, command: RewardCommand | OptoCommand, now_ns: int, rig_ns: int) -> Verdict:
        """The verdict on a command. A verdict other than a refusal comes once for an id, and is booked at once."""
        if source != "task":
            return Refusal(f"command from {source}, only task may command")
        if command.target != self.instance:
            return Refusal(f"command for instance {command.target!r}, this is {self.instance!r}")
        if command.id in self._known:
            return self._known[command.id]
        if self._forgotten is not None and command.id <= self._forgotten:
            return Refusal(f"id {command.id} is as old as those forgotten, the newest of which is {self._forgotten}")
        verdict = self._judge_new(command, now_ns, rig_ns)
        self._remember(command.id, verdict if isinstance(verdict, Refusal) else Repeated(rig_ns))
        return verdict

    def _judge_new(self, command: RewardCommand | OptoCommand, now_ns: int, rig_ns: int) -> Verdict:
        if rig_ns > command.expires_ns:
            return Refusal(f"command expired {(rig_ns - command.expires_ns) / 1e6:.1f} ms ago")
        if isinstance(command, OptoCommand) and not command.armed and self.controller is not None:
            return SetLed(False, 0)  # always allowed: it only makes things safer
        why = self.why_unarmed(now_ns)
        if why:
            return Refusal(f"unarmed: {why}")
        assert self.controller is not None
        if isinstance(command, OptoCommand):
            return self._judge_opto(command.pulse_ms, self.controller)
        return self._judge_reward(command.volume_ul, self.controller)

    def _judge_reward(self, volume_ul: float, controller: ControllerLimits) -> Verdict:
        if not (math.isfinite(volume_ul) and volume_ul >= 0):
            return Refusal(f"volume of {volume_ul} ul, expected a finite number, 0 or more")
        try:
            open_us = self.calibration.open_us(volume_ul)
        except ValueError as error:
            return Refusal(str(error))
        longest_ms = min(self.limits.max_open_ms, controller.max_open_ms)
        if open_us > longest_ms * 1000:
            return Refusal(f"{volume_ul:g} ul takes {open_us / 1000:g} ms, the largest open time is {longest_ms:g} ms")
        for had_ul, limit_ul, what in (
            (self.ration.session_ul, self.limits.session_ul, "session"),
            (self.ration.day_ul, self.limits.day_ul, "day"),
        ):
            if had_ul + volume_ul > limit_ul:
                return Refusal(f"{volume_ul:g} ul after {had_ul:g} ul exceeds the {what}'s ration of {limit_ul:g} ul")
        if volume_ul > 0:
            self.ration.book(volume_ul, open_us / 1000)
        return OpenValve(volume_ul, open_us)

    def _judge_opto(self, pulse_ms: float, controller: ControllerLimits) -> Verdict:
        if not (math.isfinite(pulse_ms) and pulse_ms > 0):
            return Refusal(f"LED pulse of {pulse_ms} ms, expected a finite number above 0")
        if pulse_ms > controller.led_pulse_ms:
            return Refusal(f"LED pulse of {pulse_ms:g} ms, the controller allows {controller.led_pulse_ms:g} ms")
        duty = pulse_ms / 1000 * self.frame_rate_hz
        duty_max = min(self.limits.led_duty_max, controller.led_duty_max)
        if duty > duty_max:
            return Refusal(
                f"{pulse_ms:g} ms at {self.frame_rate_hz:g} frames/s is a LED duty of {duty:.3f}, limit {duty_max:g}"
            )
        if self.led_used_up:
            return Refusal(f"LED was on for {self.ration.day_led_s:.0f} s today, limit {self.limits.led_day_s:g} s")
        return SetLed(True, round(pulse_ms * 1000))

    @property
    def led_used_up(self) -> bool:
        return self.ration.day_led_s >= self.limits.led_day_s

    def _remember(self, command_id: int, verdict: Refusal | Repeated) -> None:
        self._known[command_id] = verdict
        if len(self._known) > KNOWN_IDS:
            oldest, _ = self._known.popitem(last=False)
            self._forgotten = oldest if self._forgotten is None else max(self._forgotten, oldest)
