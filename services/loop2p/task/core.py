"""The session: baseline -> calibration -> closed loop, and everything that may come between. Pure.

Events in (`step`): `Output` of decoding, `Stall` when something stopped, an accepted `RequestLog` when somebody asked.
All three are messages that are recorded, so a recording replays (see replay.py). Out come the messages to publish, and
`Reward` and `Opto`, which the service makes commands of.

    idle --begin--> baseline --its frames are in--> calibration --> closed_loop --its time has run--> ended
    baseline, closed_loop --pause--> paused --resume--> baseline, closed_loop
    any --stop, abort--> ended

A stall is no phase: the trial is void, the screen grey, and it goes on when what was lost is back.
The closed loop ends when `closed_loop.duration_s` of frame time has run; pauses and gaps do not count. A trial that is
undecided then is void (sessions are of fixed length, Methods 2.6); a hit still gets its reward first.
"""

import math
from collections.abc import Callable

from msgspec import Struct, structs

from loop2p.protocol import Calibration, Message, Output, Phase, PhaseName, RequestLog, Show, Stall, Trial
from loop2p.task.calibration import CalibrationError, calibrate
from loop2p.task.experiment import Plan
from loop2p.task.passive import Passive
from loop2p.task.trials import GREY, Reward, Trials, Value

FRAMES = "frames"
"""What a Stall names when no service is known to be lost."""
RUNNING: tuple[PhaseName, ...] = ("baseline", "closed_loop")


class Drop(Struct, frozen=True):
    """Give this volume, for a trial or (-1) for free."""

    volume_ul: float
    trial: int


class Opto(Struct, frozen=True):
    """Arm or disarm the LED."""

    armed: bool


Event = Output | Stall | RequestLog
Effect = Message | Drop | Opto


class TimeRanBackError(ValueError):
    """An output whose frame time does not rise: it is left out."""


class SessionCore:
    """One session of one animal. `given_ul`: what the animal had today before this session."""

    def __init__(self, plan: Plan, plane_rate_hz: float, given_ul: float = 0.0) -> None:
        self.plan, self.plane_rate_hz, self.given_ul = plan, plane_rate_hz, given_ul
        self.phase: PhaseName = "idle"
        self.calibration: Calibration | None = None
        self.trials: Trials | None = None
        self.outcomes = {"hit": 0, "miss": 0, "void": 0}
        self.elapsed_s = 0.0
        self.last_frame, self.last_s = -1, 0.0
        self.missing: set[str] = set()
        self._before_pause: PhaseName = "baseline"
        self._next_trial = 0
        self._open_trial: Trial | None = None
        self._ending = ""
        self._baseline_n = round(plan.experiment.baseline.duration_s * plane_rate_hz)
        self._d: list[float] = []
        self._first_frame = 0
        baseline = plan.experiment.baseline
        self._passive = Passive(baseline.orientations_deg, baseline.shown_s, baseline.jitter_s, baseline.seed)

    def restore(
        self,
        phase: PhaseName,
        calibration: Calibration | None,
        last_trial: int,
        open_trial: Trial | None,
        elapsed_s: float,
    ) -> None:
        """Stand where a predecessor stood, paused. A baseline that was not whole begins anew."""
        self.phase = "paused"
        self._before_pause = "closed_loop" if phase == "closed_loop" and calibration is not None else "baseline"
        self.calibration, self.elapsed_s = calibration, elapsed_s
        self._next_trial, self._open_trial = last_trial + 1, open_trial

    @property
    def running(self) -> bool:
        return self.phase in RUNNING

    # ------------------------------------------------------------ events

    def step(self, event: Event) -> list[Effect]:
        """Take an event, give what follows.

        Raises TimeRanBackError for an output that must be left out, ArithmeticError for a value that is not finite,
        ValueError for a request that `refusal` would refuse.
        """
        if isinstance(event, Output):
            return self._output(event)
        if isinstance(event, Stall):
            return self._stall(event)
        if not event.accepted:
            return []
        reason = self.refusal(event.kind)
        if reason:
            raise ValueError(f"{event.kind}: {reason}")
        request = self._requests.get(event.kind)
        return request(self, event) if request is not None else []

    def refusal(self, kind: str) -> str:
        """Why this may not be asked now; empty if it may."""
        match kind:
            case "begin" if self.phase != "idle":
                return "the session has begun already"
            case "pause" if self.phase not in (*RUNNING, "paused"):
                return f"the session is {self.phase}, so there is nothing to pause"
            case "resume" if self.phase != "paused":
                return f"the session is {self.phase}, expected paused"
            case "resume" if self.missing:
                return f"{', '.join(sorted(self.missing))} lost and not back yet"
            case "stop" | "abort" if self.phase == "ended":
                return "the session has ended already"
            case "free_reward":
                return self._no_free_reward()
        return ""

    def _no_free_reward(self) -> str:
        reward = self.plan.experiment.reward
        if self.phase not in (*RUNNING, "paused"):
            return f"the session is {self.phase}"
        if "actuation" in self.missing:
            return "actuation is lost and not back yet"
        if self.phase == "paused":
            return "the session is paused and the actuator unarmed: resume first"
        if self.trials is not None and self.trials.state == "freeze":
            return f"trial {self.trials.trial} is being rewarded: ask again when it is over"
        if self.given_ul + reward.volume_ul > reward.day_limit_ul:
            return (
                f"{self.given_ul:g} ul given today, {reward.volume_ul:g} ul more would pass "
                f"the day's {reward.day_limit_ul:g} ul (reward.day_limit_ul in the task file)"
            )
        return ""

    # ------------------------------------------------------------ frames

    def _output(self, output: Output) -> list[Effect]:
        cause = output.cause
        if cause is None:
            raise TimeRanBackError("output without a cause, expected the frame it was decoded from")
        if self.last_frame >= 0 and not (cause.time_s > self.last_s and cause.frame > self.last_frame):
            raise TimeRanBackError(
                f"frame {cause.frame} at {cause.time_s} s came after frame {self.last_frame} at {self.last_s} s; "
                "both must rise: did imaging or the microscope start to count anew? Abort, then start a new run"
            )
        if output.valid and not (math.isfinite(output.d) and math.isfinite(output.value)):
            raise ArithmeticError(f"frame {cause.frame}: D {output.d}, control value {output.value}, expected numbers")
        passed_s = cause.time_s - self.last_s if self.last_frame >= 0 else 0.0
        self.last_frame, self.last_s = cause.frame, cause.time_s
        if self.missing:
            return []
        if self.phase == "baseline":
            return self._baseline(output, cause.frame)
        if self.phase == "closed_loop":
            if passed_s <= self.plan.experiment.trial.lapse_s:
                self.elapsed_s += passed_s
            return self._loop(output)
        return []

    def _baseline(self, output: Output, frame: int) -> list[Effect]:
        out: list[Effect] = []
        if self.plan.experiment.baseline.orientations_deg:
            out += self._passive.step(self.last_s)
        if output.valid:
            if not self._d:
                self._first_frame = frame
            self._d.append(output.d)
        if len(self._d) >= self._baseline_n:
            out += self._calibrate()
        return out

    def _loop(self, output: Output) -> list[Effect]:
        assert self.trials is not None
        out: list[Effect] = []
        if not self._ending and self.elapsed_s >= self.plan.experiment.closed_loop.duration_s:
            self._ending = f"{self.plan.experiment.closed_loop.duration_s:g} s of closed loop are over"
        if not self._ending or self.trials.owes_reward:
            out += self._tried(self.trials.step(Value(self.last_s, output.value, output.valid)))
        if self._ending and not self.trials.owes_reward:
            out += self._end(self._ending)
        return out

    def _tried(self, steps: list[Show | Trial | Reward]) -> list[Effect]:
        """Trials' steps as this session's effects."""
        out: list[Effect] = []
        for step in steps:
            if isinstance(step, Reward):
                out.append(self._drop(step.trial))
            elif isinstance(step, Trial):
                if step.edge != "start":
                    self.outcomes[step.edge] += 1
                out.append(structs.replace(step, elapsed_s=self.elapsed_s))
            else:
                out.append(step)
        return out

    def _drop(self, trial: int) -> Drop:
        volume_ul = self.plan.experiment.reward.volume_ul
        self.given_ul += volume_ul
        return Drop(volume_ul, trial)

    # ------------------------------------------------------------ calibration

    def _calibrate(self) -> list[Effect]:
        experiment = self.plan.experiment
        out: list[Effect] = [self._enter("calibration")]
        fixed, baseline = experiment.calibration.fixed, experiment.baseline
        first, last = self._first_frame, max(self.last_frame, 0)
        if fixed is not None:
            self.calibration = Calibration(
                minimum=fixed.minimum,
                threshold=fixed.threshold,
                mu=0.0,
                sigma=0.0,
                z_star=0.0,
                seed=experiment.calibration.seed,
                first_frame=0,
                last_frame=0,
                n_values=0,
                baseline="fixed",
            )
        else:
            try:
                self.calibration = calibrate(
                    self._d, self.plane_rate_hz, experiment.calibration, self.plan.z_star, first, last, baseline.name
                )
            except CalibrationError as error:
                self._d = []
                self._before_pause = "baseline"
                return [
                    *out,
                    *self._quiet("calibration failed"),
                    self._enter("paused", f"{error}; `resume` repeats it"),
                ]
        self._d = []
        return [*out, GREY, self.calibration, *self._enter_loop()]

    def _enter_loop(self) -> list[Effect]:
        assert self.calibration is not None
        self.trials = Trials(self.plan.experiment.trial, self.calibration, self._next_trial)
        opto = self.plan.experiment.opto
        led: list[Effect] = [Opto(opto.armed)] if opto.armed or opto.baseline else []
        return [self._enter("closed_loop"), *led]

    def _enter_baseline(self) -> list[Effect]:
        if self._baseline_n == 0:
            return self._calibrate()
        return [self._enter("baseline"), *([Opto(True)] if self.plan.experiment.opto.baseline else [])]

    # ------------------------------------------------------------ what stops it

    def _stall(self, stall: Stall) -> list[Effect]:
        if stall.what != FRAMES:
            self.missing.add(stall.what)
        if not self.running:
            return []
        lost = f"{stall.what} stopped for {stall.waited_s:.1f} s" if stall.what == FRAMES else f"{stall.what} was lost"
        out = self._halt(lost)
        return out + self._end(self._ending) if self._ending else out

    def _halt(self, reason: str) -> list[Effect]:
        """The trial is void, the screen grey; the phase stays. Whatever was armed stays the controller's to disarm."""
        self._passive.halt()
        if self._open_trial is not None:
            void = Trial(trial=self._open_trial.trial, edge="void", t_s=self._open_trial.t_s, reason=reason)
            self._open_trial = None
            return [*self._tried([void]), GREY]
        steps = self.trials.halt(reason) if self.trials is not None else []
        return [*self._tried([s for s in steps if isinstance(s, Trial)]), GREY]

    def _quiet(self, reason: str) -> list[Effect]:
        """Trial void, screen grey, LED disarmed."""
        out = self._halt(reason)
        if self.trials is not None:
            self._next_trial = self.trials.trial + 1
            self.trials = None
        opto = self.plan.experiment.opto
        return [*out, *([Opto(False)] if opto.armed or opto.baseline else [])]

    def _enter(self, phase: PhaseName, reason: str = "") -> Phase:
        self.phase = phase
        return Phase(phase=phase, day=self.plan.day, t_s=self.last_s, reason=reason)

    def _end(self, reason: str) -> list[Effect]:
        return [*self._quiet(reason), self._enter("ended", reason)]

    # ------------------------------------------------------------ requests

    def _begin(self, _event: RequestLog) -> list[Effect]:
        return [GREY, *self._enter_baseline()]

    def _pause(self, event: RequestLog) -> list[Effect]:
        out: list[Effect] = []
        if self.running:
            self._before_pause = self.phase
            out = self._quiet(event.reason or f"paused by {event.by}")
        if self._ending:
            return [*out, *self._end(self._ending)]
        return [*out, self._enter("paused", event.reason or f"paused by {event.by}")]

    def _resume(self, event: RequestLog) -> list[Effect]:
        out = self._halt(event.reason or "task restarted") if self._open_trial is not None else []
        return [*out, *(self._enter_loop() if self._before_pause == "closed_loop" else self._enter_baseline())]

    def _stop(self, event: RequestLog) -> list[Effect]:
        if self.trials is not None and self.trials.owes_reward:
            self._ending = f"stopped by {event.by}"
            return []
        return self._end(f"stopped by {event.by}")

    def _abort(self, event: RequestLog) -> list[Effect]:
        return self._end(f"aborted by {event.by}")

    def _free_reward(self, _event: RequestLog) -> list[Effect]:
        return [self._drop(-1)]

    def led(self) -> list[Effect]:
        """Arm the LED again, if it should be on now."""
        if not self.running or self.missing:
            return []
        armed = self.plan.experiment.opto.armed if self.phase == "closed_loop" else self.plan.experiment.opto.baseline
        return [Opto(True)] if armed else []

    def _back(self, event: RequestLog) -> list[Effect]:
        self.missing.discard(event.detail)
        return self.led()

    _requests: dict[str, Callable[["SessionCore", RequestLog], list[Effect]]] = {
        "begin": _begin,
        "pause": _pause,
        "resume": _resume,
        "stop": _stop,
        "abort": _abort,
        "free_reward": _free_reward,
        "back": _back,
    }
