"""The session: passive blocks -> calibration -> closed loop, and everything that may come between. Pure.

Events in (`step`): `Output` of decoding, `Stall` when something stopped, an accepted `RequestLog` when somebody asked.
All three are messages that are recorded, so a recording replays (see replay.py). Out come the messages to publish, and
`Reward` and `Opto`, which the service makes commands of.

    idle --begin--> baseline (one block after the other) --> calibration --> closed_loop --its time has run--> ended
    baseline, closed_loop --pause--> paused --resume--> baseline, closed_loop
    any --stop, abort--> ended

Each passive block is a phase "baseline" of its own, with its name as the phase's reason and the LED that it asks for.
The last block is the one that calibrates. A block that waits is entered paused. Without a closed loop the session ends
behind its blocks; a yoked session plays another day's loop, and calibrates nothing.

A stall is no phase: the trial is void, the screen grey, and it goes on when what was lost is back.
The closed loop ends when `closed_loop.duration_s` of frame time has run; pauses and gaps do not count. A trial that is
undecided then is void (sessions are of fixed length, Methods 2.6); a hit still gets its reward first.
"""

import math
from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from loop2p.protocol import Calibration, Message, Output, Phase, PhaseName, RequestLog, Show, Stall, Trial
from loop2p.task.blocks import Block
from loop2p.task.calibration import CalibrationError, calibrate
from loop2p.task.experiment import Plan
from loop2p.task.trials import GREY, ROUNDING_S, Reward, Trials, Value
from loop2p.task.yoked import Yoked

FRAMES = "frames"
"""What a Stall names when no service is known to be lost."""
FRESH = "fresh frames"
"""What a Stall names when frames come, but too old to decide anything from them."""
RUNNING: tuple[PhaseName, ...] = ("baseline", "closed_loop")


class Drop(Struct, frozen=True):
    """Give this volume, for a trial or (-1) for none: free, or another day's."""

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
        self.trials: Trials | Yoked | None = None
        self.outcomes = {"hit": 0, "miss": 0, "void": 0}
        self.elapsed_s = 0.0
        self.last_frame, self.last_s = -1, 0.0
        self.missing: set[str] = set()
        self._before_pause: PhaseName = "baseline"
        self._next_trial = 0
        self._open_trial: Trial | None = None
        self._ending = ""
        self._blocks = plan.experiment.blocks
        self._turn = 0
        """Whose turn it is, of the blocks; past the last one: the loop's."""
        self._block: Block | None = None
        self._lit = False
        """Was the LED armed, and not disarmed since?"""

    def restore(
        self,
        phase: PhaseName,
        calibration: Calibration | None,
        last_trial: int,
        open_trial: Trial | None,
        elapsed_s: float,
        block: str = "",
    ) -> None:
        """Stand where a predecessor stood, paused. The passive block of that name begins anew, for it was not whole.

        A yoked loop has no trials by which its predecessor's place in the schedule could be told: `resume` ends it.
        """
        self.phase = "paused"
        yoked = self.plan.experiment.yoked is not None
        in_loop = phase == "closed_loop" and (yoked or calibration is not None)
        self._before_pause = "closed_loop" if in_loop else "baseline"
        if in_loop and yoked:
            self._ending = "task was lost in a yoked loop: how far it had come is not on record"
        names = [b.name for b in self._blocks]
        if phase in ("calibration", "closed_loop"):
            self._turn = max(len(names) - 1, 0)
        elif block in names:
            self._turn = names.index(block)
        self.calibration, self.elapsed_s = calibration, elapsed_s
        self._next_trial, self._open_trial = last_trial + 1, open_trial

    @property
    def running(self) -> bool:
        return self.phase in RUNNING

    @property
    def rests_until_s(self) -> float | None:
        """Frame time before which no trial starts; infinite where none will. None while a trial or a baseline runs."""
        if not self.running:
            return math.inf
        if self.phase == "baseline":
            return None
        return self.trials.rests_until_s if isinstance(self.trials, Trials) else math.inf

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
        reward, limit_ul = self.plan.experiment.reward, self.plan.day_limit_ul
        if self.phase not in (*RUNNING, "paused"):
            return f"the session is {self.phase}"
        if "actuation" in self.missing:
            return "actuation is lost and not back yet"
        if self.phase == "paused":
            return "the session is paused and the actuator unarmed: resume first"
        if self.trials is not None and self.trials.state == "freeze":
            return f"trial {self.trials.trial} is being rewarded: ask again when it is over"
        if self.given_ul + reward.volume_ul > limit_ul:
            return (
                f"{self.given_ul:g} ul given today, {reward.volume_ul:g} ul more would pass the day's {limit_ul:g} ul "
                "(the smaller one of the task file's reward.day_limit_ul and the animal file's ration_ul)"
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
        assert self._block is not None
        out: list[Effect] = [*self._block.step(output, frame, self.last_s)]
        if not self._block.whole:
            return out
        self._turn += 1
        return [*out, GREY, *self._next()]

    def _loop(self, output: Output) -> list[Effect]:
        trials, loop_s = self.trials, self.plan.experiment.loop_s
        assert trials is not None
        if isinstance(trials, Yoked):
            played = self._tried(trials.step(self.elapsed_s))
            return played + (self._end(f"{loop_s:g} s of yoked loop are over") if trials.over(self.elapsed_s) else [])
        out: list[Effect] = []
        if not self._ending and self.elapsed_s >= loop_s - ROUNDING_S:
            self._ending = f"{loop_s:g} s of closed loop are over"
        if not self._ending or trials.owes_reward:
            out += self._tried(trials.step(Value(self.last_s, output.value, output.valid)))
        if self._ending and not trials.owes_reward:
            out += self._end(self._ending)
        return out

    def _tried(self, steps: Sequence[Show | Trial | Reward]) -> list[Effect]:
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

    # ------------------------------------------------------------ one thing after the other

    def _next(self) -> list[Effect]:
        """The block whose turn it is, or what comes behind the last one. The screen is grey."""
        experiment = self.plan.experiment
        if self._turn == len(self._blocks):
            if not experiment.loop_s:
                return self._end("all passive blocks are over")
            return self._calibrate() if experiment.calibrates else self._enter_loop()
        self._block, block = None, self._blocks[self._turn]
        if not block.wait:
            return self._enter_block()
        self._before_pause = "baseline"
        entered = self._enter("baseline", block.name)  # so that a successor of task knows whose turn it is
        waits = self._enter("paused", f"{block.name} waits for `resume`")
        return [entered, *self._light(False), waits]

    def _enter_block(self) -> list[Effect]:
        """Begin the block whose turn it is, or go on with it. The fixed calibration of a session may need none."""
        if self._turn == len(self._blocks):
            return self._next()
        params = self._blocks[self._turn]
        self._block = self._block or Block(params, self.plane_rate_hz)
        return [self._enter("baseline", params.name), *self._light(params.led)]

    def _calibrate(self) -> list[Effect]:
        experiment, block = self.plan.experiment, self._block
        out: list[Effect] = [self._enter("calibration")]
        fixed, seed = experiment.calibration.fixed, experiment.calibration.seed
        if fixed is not None:
            self.calibration = Calibration(
                minimum=fixed.minimum,
                threshold=fixed.threshold,
                mu=0.0,
                sigma=0.0,
                z_star=0.0,
                seed=seed,
                first_frame=0,
                last_frame=0,
                n_values=0,
                baseline="fixed",
            )
        else:
            assert block is not None
            try:
                self.calibration = calibrate(
                    block.d,
                    self.plane_rate_hz,
                    experiment.calibration,
                    self.plan.z_star,
                    block.first_frame,
                    block.last_frame,
                    experiment.baseline.name,
                )
            except CalibrationError as error:
                self._turn, self._block = self._turn - 1, None
                self._before_pause = "baseline"
                return [
                    *out,
                    *self._quiet("calibration failed"),
                    self._enter("paused", f"{error}; `resume` repeats it"),
                ]
        return [*out, self.calibration, *self._enter_loop()]

    def _enter_loop(self) -> list[Effect]:
        experiment = self.plan.experiment
        self._block = None
        if experiment.yoked is not None:
            self.trials = Yoked(experiment.yoked, self.elapsed_s)
        else:
            assert self.calibration is not None
            self.trials = Trials(experiment.trial, self.calibration, self._next_trial)
        return [self._enter("closed_loop"), *self._light(experiment.opto.armed)]

    def _light(self, on: bool) -> list[Effect]:
        """The LED armed or disarmed, at the edge of a block or of the loop."""
        was, self._lit = self._lit, on
        return [Opto(on)] if on or was else []

    # ------------------------------------------------------------ what stops it

    def _stall(self, stall: Stall) -> list[Effect]:
        if stall.what != FRAMES:
            self.missing.add(stall.what)
        if not self.running:
            return []
        lost = {
            FRAMES: f"{FRAMES} stopped for {stall.waited_s:.1f} s",
            FRESH: f"frames came {stall.waited_s:.2f} s late",
        }.get(stall.what, f"{stall.what} was lost")
        out = self._halt(lost)
        return out + self._end(self._ending) if self._ending else out

    def _halt(self, reason: str) -> list[Effect]:
        """The trial is void, the screen grey; the phase stays. Whatever was armed stays the controller's to disarm."""
        if self._block is not None:
            self._block.halt()
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
        self._lit = False
        return [*out, *([Opto(False)] if self.plan.experiment.lights else [])]

    def _enter(self, phase: PhaseName, reason: str = "") -> Phase:
        self.phase = phase
        return Phase(phase=phase, day=self.plan.day, t_s=self.last_s, reason=reason)

    def _end(self, reason: str) -> list[Effect]:
        return [*self._quiet(reason), self._enter("ended", reason)]

    # ------------------------------------------------------------ requests

    def _begin(self, _event: RequestLog) -> list[Effect]:
        return [GREY, *self._next()]

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
        if self._ending:
            return [*out, *self._end(self._ending)]
        return [*out, *(self._enter_loop() if self._before_pause == "closed_loop" else self._enter_block())]

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
        return [Opto(True)] if self._lit and self.running and not self.missing else []

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
