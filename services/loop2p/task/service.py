"""The task as a service: hears the rig, feeds the session, publishes what follows. Every decision is a core's."""

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import msgspec
from msgspec import Meta, Struct, structs

from loop2p.protocol import (
    PROXIMAL,
    Accepted,
    Alarm,
    Calibration,
    Cause,
    Clock,
    Done,
    Envelope,
    Fault,
    FileError,
    Heartbeat,
    Message,
    OptoCommand,
    Output,
    Phase,
    Refused,
    RequestLog,
    RewardCommand,
    Rois,
    Selection,
    Session,
    Show,
    Stall,
    Trial,
    control,
)
from loop2p.runtime.service import Context, Service
from loop2p.task.barrier import Reason, missing, split_overridden, unclear_clocks
from loop2p.task.core import FRAMES, FRESH, SessionCore
from loop2p.task.experiment import Plan, make_plan
from loop2p.task.journal import STATE_FILE, LedgerFile, StateError, read_state
from loop2p.task.replay import RESTART
from loop2p.task.run import Run, today
from loop2p.task.swap import SwapError, Swaps, first_frame
from loop2p.task.trials import GREY
from loop2p.task.watch import Change, ClockWatch, Watch

STALL_NS = 500_000_000
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class TaskOptions(Struct, frozen=True, forbid_unknown_fields=True):
    start_timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    """How long a start waits until every service is ready; then it is refused."""
    frame_age_limit_ms: Annotated[float, Meta(gt=0)] = 500.0
    """From a frame's last byte in to its control value in hand: an older one decides nothing. As long as STALL_NS."""
    decision_budget_ms: Annotated[float, Meta(gt=0)] | None = None
    """A decision later than this after its frame is counted as a deadline missed. None: one frame period."""


class Verdict(Struct):
    """What becomes of a request: refused with a reason, or done."""

    reason: str = ""
    """Why it is refused; empty if it is accepted."""
    hint: str = ""
    """What the asker of an accepted request should know."""
    detail: str = ""
    do: Callable[[RequestLog], list[Message]] = lambda _: []


class Task(Service):
    """Runs the experiment: cuts the baseline, calibrates, decides hit and miss, issues every command.

    Shows grey and gives nothing whenever it does not know: frames that stop, a service that is lost, values that are
    not valid. Raises (and so stops: screen grey, LED disarmed) on a valid value that is not finite, and when its own
    state can't be written.
    """

    Options = TaskOptions
    subscribes = (Output, Heartbeat, Clock, Accepted, Done, Refused, Alarm, Fault, Rois)
    publishes = (
        Session, Selection, Calibration, Phase, Trial, Show, RewardCommand, OptoCommand, RequestLog, Stall, Alarm,
    )  # fmt: skip
    tick_s = 0.02
    core_class: ClassVar[type[SessionCore]] = SessionCore
    peers: ClassVar[tuple[str, ...]] = ("imaging", "decoding", "stimulus", "actuation", "recording")
    """Who must be there before a session starts, and all the time."""

    def __init__(self, options: TaskOptions, context: Context) -> None:
        rig = context.rig_file.rig
        self.options, self.context = options, context
        self.folder = Path(rig.data.folder)
        budget_ms = options.decision_budget_ms or 1e3 / rig.microscope.rate_hz
        self._budget_ns, self._age_limit_ns = round(budget_ms * 1e6), round(options.frame_age_limit_ms * 1e6)
        self._deadline_misses = 0
        self.watch = Watch(self.peers, [n for n, s in rig.services.items() if s.external])
        self.swaps = Swaps(context.rig_file, context.name)
        self._handed_over = False
        """Our predecessor left for us."""
        self.run: Run | None = None
        self.problem = ""
        """Why a predecessor's session can't be taken over."""
        self._start_until_ns: int | None = None
        """A start waits for the other services, at most until then."""
        self._last_cause: Cause | None = None
        self._seen_frame = -1
        self._moving_ns = 0
        """When the watchdog last saw a new frame."""
        self._stalled = False
        self._stalls = 0
        self._resume_because = ""
        """Resume without being asked, as soon as everything is there."""
        self._disk_full = ""
        self._clocks = ClockWatch()
        self._unclear: frozenset[str] = frozenset()
        """Whose clock is not known well enough, or was not lately."""
        self._n_rois: int | None = None
        self._waiting: list[Message] = []
        try:
            self._take_over()
        except (StateError, FileError) as error:
            self.problem = f"{error}; `abort` gives the unfinished run up"
            context.log.error("%s", self.problem)

    @classmethod
    def from_rig(cls, options: Any, context: Context) -> Self:
        return cls(options, context)

    # ------------------------------------------------------------ what is heard

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        message, source, run = envelope.message, envelope.header.source, self.run
        match message:
            case Output() if run is not None:
                return self._output(run, message)
            case Heartbeat():
                self.watch.heard(source, envelope.header.instance, message, self.context.clock.now_ns())
            case Clock():
                self.watch.clock(source, envelope.header.instance, message)
            case Accepted() if run is not None:
                return run.accepted(message)
            case Refused() if run is not None:
                return run.refused(message)
            case Done() if run is not None:
                run.counts["rewards_done"] += message.volume_ul > 0
            case Rois():
                sizes = [len(p.names) for p in message.planes if p.plane == PROXIMAL]
                self._n_rois = sizes[0] if sizes else None
            case Alarm(code="disk-full") if source == "recording":
                self._disk_full = message.detail if message.active else ""
                return self._pause(f"recording: {message.detail}") if message.active else ()
            case Alarm(code="controller-lost" | "lease-lost") if source == "actuation" and run is not None:
                return self._actuator_alarm(run, message)
            case Fault() if self.swaps.relieves(source, self.context.clock.now_ns()):
                return self._relieve(source, f"the newcomer met a fault: {message.error}: {message.detail}")
            case Fault() if source != self.context.name:
                return self._pause(f"{message.service} met a fault: {message.error}: {message.detail}")
        return ()

    def hear_shadow(self, envelope: Envelope) -> None:
        self.swaps.hear(envelope, self.context.clock.now_ns())

    def _output(self, run: Run, output: Output) -> list[Message]:
        """A control value: late ones are counted, too old ones decide nothing."""
        self._last_cause = output.cause
        out = self._look_at_age(run, output) + run.take(output)
        if self.swaps.wishes:
            out += self._swap_now()
        if output.cause is not None and self.context.clock.now_ns() - output.cause.arrival_ns > self._budget_ns:
            self._deadline_misses += 1
        return out

    def _look_at_age(self, run: Run, output: Output) -> list[Message]:
        """A slow link shows as age, never as gaps: what is older than the limit would reward something long past.

        It is a stall, as if the frames had stopped, until they come at half the limit. An arrival in the future tells
        no age, so it counts as too old. Stall and return are events on the record: a replay decides alike.
        """
        if output.cause is None or not (run.core.running or run.core.phase == "paused"):
            return []
        age_ns = abs(self.context.clock.now_ns() - output.cause.arrival_ns)
        if FRESH not in run.core.missing:
            return self._stall(run, FRESH, age_ns / 1e9) if age_ns > self._age_limit_ns else []
        if age_ns > self._age_limit_ns // 2:
            return []
        log = self._log("back", "task", detail=FRESH)
        return [log, *self._feed(log)]

    def tick(self) -> Iterable[Message]:
        out, self._waiting = self._waiting, []
        run, now_ns = self.run, self.context.clock.now_ns()
        if self.swaps.wishes:
            out += self._swap_now()
        if run is None:
            return out
        out += run.tick()
        if self._start_until_ns is not None:
            return out + self._try_to_begin(run, now_ns)
        if run.core.phase == "ended":
            self.watch.end()
        for change in self.watch.check(now_ns, run.session.run_id):
            out += self._changed(run, change)
        out += self._look_at_clocks(run, now_ns)
        if self._resume_because and not self._unclear and run.core.phase == "paused" and not self._why_not_resume(run):
            log = self._log("resume", "task", reason=self._resume_because)
            out += [*self._announce(run), log, *self._go(log)]
        return out + self._look_for_frames(run, now_ns)

    def _look_for_frames(self, run: Run, now_ns: int) -> list[Message]:
        """The watchdog: 0.5 s of the rig clock without a frame."""
        if run.core.last_frame != self._seen_frame:
            self._seen_frame, self._moving_ns, self._stalled = run.core.last_frame, now_ns, False
        waited_ns = now_ns - self._moving_ns
        if self._stalled or not run.core.running or run.core.missing or waited_ns <= STALL_NS:
            return []
        self._stalled = True
        return self._stall(run, FRAMES, waited_ns / 1e9)

    def _look_at_clocks(self, run: Run, now_ns: int) -> list[Message]:
        """A clock that is not known well enough in mid-session: pause until it is, unless that was overridden."""
        bounds_ns = self.watch.bounds_ns() if self.watch.begun else {}
        if self.watch.begun and self.context.clock.bound_ns is not None:
            bounds_ns[self.context.name] = self.context.clock.bound_ns
        reasons, _ = split_overridden(unclear_clocks(self.context.rig_file.rig, bounds_ns), run.session.overrides)
        before, self._unclear = self._unclear, self._clocks.check((r.code for r in reasons), now_ns)
        text = "\n".join(map(str, reasons))
        out: list[Message] = []
        if reasons and self._unclear != before:
            out.append(Alarm(code="clock-unclear", active=True, detail=text))
        elif before and not self._unclear:
            out.append(Alarm(code="clock-unclear", active=False, detail="every clock is known well enough again"))
        if reasons and run.core.running:
            out += self._pause(f"{text}; goes on when it is known well enough")
            self._resume_because = "every clock is known well enough again"
        return out

    def _stall(self, run: Run, what: str, waited_s: float) -> list[Message]:
        self._stalls += 1
        stall = Stall(waited_s=waited_s, last_frame=run.core.last_frame, what=what)
        return [stall, *self._feed(stall)]

    def _changed(self, run: Run, change: Change) -> list[Message]:
        """A service was lost, or is back and ready."""
        if change.name != "recording":
            if not change.back:
                out = self._stall(run, change.name, change.waited_s)
                if self.swaps.relieves(change.name, self.context.clock.now_ns()):
                    out += self._relieve(change.name, "the newcomer was lost")
                return out
            log = self._log("back", "task", detail=change.name)
            return [log, *self._feed(log)]
        if change.back and not change.successor and self._resume_because:
            self._resume_because = "recording was silent and goes on"  # what came meanwhile was waiting for it
        if change.back or not run.core.running:
            return []
        out = self._pause("recording was lost: nothing may happen off the record; goes on when it is back")
        self._resume_because = "recording was lost and has a successor"
        return out

    def _actuator_alarm(self, run: Run, alarm: Alarm) -> list[Message]:
        """Without its controller there is no actuator; after either alarm the LED must be armed anew."""
        if not self.watch.begun or "actuation" in self.watch.lost:
            return []
        if not alarm.active:
            log = self._log("back", "task", detail="actuation")
            return [log, *self._feed(log)]
        if alarm.code == "controller-lost" and "actuation" not in run.core.missing:
            return self._stall(run, "actuation", 0.0)
        return []

    # ------------------------------------------------------------ what is asked

    def answer(self, ask: control.Ask) -> tuple[control.Answer, Iterable[Message]]:
        by = (ask.by or ask.args.get("by", ""))[:200]
        if ask.kind == "status":
            return control.Answer(True, self._status()), ()
        if ask.kind == "check":
            lines = [str(reason) for reason in self._preflight()]
            return control.Answer(not lines, "\n".join(lines)), ()
        if ask.kind == "start":
            verdict = self._ask_start(ask.args, by)
        elif ask.kind == "note":
            text = ask.args.get("text", "").strip()[:10_000]
            verdict = Verdict("" if text else "no text, expected args.text", detail=text)
        elif ask.kind == "lost":
            verdict = self._ask_lost(ask.args)
        elif ask.kind == "swap":
            verdict = self._ask_swap(ask.args, by)
        elif ask.kind == "abort" and self.problem:
            verdict = Verdict(self._give_up())
        elif ask.kind not in ("pause", "resume", "stop", "abort", "free_reward"):
            kinds = "start, pause, resume, stop, abort, free_reward, note, lost, swap, status, check"
            verdict = Verdict(f"unknown request {ask.kind[:50]!r}, expected one of {kinds}")
        else:
            verdict = self._ask_run(ask.kind, by)
        first = self._announce(self.run) if self.run is not None and not verdict.reason else []
        log = self._log(ask.kind[:50], by, not verdict.reason, verdict.reason, verdict.detail)
        done = [] if verdict.reason else verdict.do(log)
        out = [*first, log, *done]
        if ask.kind == "start" and done:  # a record begins with its session
            out = [*first, *done, structs.replace(log, last_frame=-1)]
        return control.Answer(not verdict.reason, verdict.reason or verdict.hint), out

    def _ask_start(self, args: dict[str, str], by: str) -> Verdict:
        run_id = args.get("run_id", "")
        if self.problem:
            return Verdict(self.problem)
        if self.run is not None and self.run.core.phase != "ended" and not self.run.restored:
            return Verdict(f"run {self.run.session.run_id} is going on ({self._status()}); stop it first")
        if not RUN_ID.fullmatch(run_id):
            return Verdict(f"run_id {run_id[:60]!r} can't name a folder, expected letters, digits and ._+-")
        try:
            plan = make_plan(args.get("task", ""), args.get("animal", ""), args.get("task_path") or "task file")
            if (self.context.run_folder(run_id) / STATE_FILE).exists():
                return Verdict(f"run {run_id} exists already in {self.folder}; expected a new run_id")
            LedgerFile(self.folder)
        except (FileError, StateError, OSError) as error:
            return Verdict(str(error))
        detail = f"run {run_id}, {args.get('task_path', '')}"
        return Verdict(hint="preparing", detail=detail, do=lambda _: self._start(plan, args, by))

    def _ask_run(self, kind: str, by: str) -> Verdict:
        run = self.run
        if run is None:
            return Verdict("no session; start one")
        if self._start_until_ns is not None and kind in ("stop", "abort"):
            return Verdict(do=lambda _: self._call_off(f"start called off by {by}"))
        reason = run.core.refusal(kind)
        if kind == "resume" and not reason:
            return Verdict(self._why_not_resume(run), do=self._go)
        return Verdict(reason, do=self._obey)

    def _ask_lost(self, args: dict[str, str]) -> Verdict:
        """The launcher saw a process die."""
        name, how = args.get("service", ""), args.get("how", "")
        verdict = Verdict(detail=", ".join(f"{k}={v}" for k, v in sorted(args.items())), hint="noted")
        if how == "stopped" and (name in self.swaps.handed or (name == self.context.name and self._handed_over)):
            return verdict  # it left for the one that is there now
        home = self.context.rig_file.rig.services
        if name in home and args.get("publish", home[name].publish) != self.swaps.acting(name).publish:
            return verdict  # not the one that acts
        if name == self.context.name and self.run is not None and self.run.restored:
            verdict.hint = "resumes when every service is ready" if how == "crash" else "waits for `resume`"
            self._resume_because = "task crashed and has a successor" if how == "crash" else ""
        elif name in self.peers and self.watch.begun:
            self.watch.mark_lost(name, self.context.clock.now_ns())
            if how != "crash":
                verdict.hint = "paused until `resume`"
                verdict.do = lambda _: self._pause(f"{name} ended ({how})")
        return verdict

    # ------------------------------------------------------------ one for another

    def _ask_swap(self, args: dict[str, str], by: str) -> Verdict:
        run_id = self.run.session.run_id if self.run is not None else ""
        detail = ", ".join(f"{k}={v}" for k, v in sorted(args.items()))[:2000]
        name = args.get("service", "")
        before = self.swaps.pairs.get(name)
        acted, heard = self.swaps.acting(name) if before else None, before.heard if before else None
        try:
            swaps = self.swaps.ask(args, by, run_id, self.context.clock.now_ns())
        except SwapError as error:
            return Verdict(str(error), detail=detail)
        if args.get("stage") == "leave":
            self.watch.called_off(name)
        if acted is not None and self.swaps.acting(name) != acted:
            self.watch.exchange(name, heard, self.swaps.is_external(name))
        waits = name in self.swaps.wishes and self._rest_s() is None
        hint = "at the next boundary between trials" if waits else "done"
        return Verdict(hint=hint, detail=detail, do=lambda _: [*swaps, *self._swap_now()])

    def _rest_s(self) -> float | None:
        """Frame time that is left between two trials; None while one runs."""
        core = self.run.core if self.run is not None else None
        until_s = core.rests_until_s if core is not None else 0.0
        return None if until_s is None else until_s - (core.last_s if core is not None else 0.0)

    def _swap_now(self) -> list[Message]:
        """What was wished for, if this is a boundary between trials."""
        rest_s, out = self._rest_s(), list[Message]()
        if rest_s is None:
            return out
        rate_hz = self.context.rig_file.rig.microscope.rate_hz
        running = self.run is not None and self.run.core.running
        last_frame = self.run.core.last_frame if self.run is not None else -1
        from_frame = first_frame(last_frame, rest_s if running else 0.0, rate_hz)
        run_id = self.run.session.run_id if self.run is not None else ""
        for name, wish in list(self.swaps.wishes.items()):
            if wish.stage == "handover":
                out += self._hand_over(name)
                continue
            why = self.swaps.unfit(name, run_id, self.context.clock.now_ns())
            if why:
                del self.swaps.wishes[name]
                out.append(self._log("swap", wish.by, False, why, f"service={name}, stage={wish.stage}"))
            else:
                out.append(self._exchange(name, from_frame, wish.by, wish.note))
        return out

    def _hand_over(self, name: str) -> list[Message]:
        """The next trial waits until the successor is there."""
        swap = self.swaps.hand_over(name)
        if name != self.context.name:
            self.watch.hand_over(name, self.context.clock.now_ns())
            lost: list[Message] = []
            if self.run is not None:  # at once: a trial may start with the next frame
                for change in self.watch.check(self.context.clock.now_ns(), self.run.session.run_id):
                    lost += self._changed(self.run, change)
            return [*lost, swap]
        if self.run is None or not self.run.core.running:
            return [swap]
        out = self._pause("task is handed over; goes on with its successor")
        self.run.hand_over(swap)
        return [*out, swap]

    def _exchange(self, name: str, from_frame: int, by: str, note: str) -> Message:
        swap, pair = self.swaps.exchange(name, from_frame, by, note), self.swaps.pairs[name]
        pair.heard = self.watch.exchange(name, pair.heard, self.swaps.is_external(name))
        return swap

    def _relieve(self, name: str, why: str) -> list[Message]:
        """Back to the predecessor at once; the trial is void, as after any loss."""
        self.watch.mark_lost(name, self.context.clock.now_ns())
        last_frame = self.run.core.last_frame if self.run is not None else -1
        reason = f"{why}: {name} goes back to its predecessor"
        return [self._log("swap", "task", detail=reason), self._exchange(name, last_frame + 1, "task", reason)]

    # ------------------------------------------------------------ start, pause, resume

    def _start(self, plan: Plan, args: dict[str, str], by: str) -> list[Message]:
        rig_file, clock = self.context.rig_file, self.context.clock
        given_up: list[Message] = []
        if self.run is not None and self.run.restored:
            log = self._log("abort", "task", detail="another run is started")
            given_up = [log, *self._obey(log)]
        session = Session(
            run_id=args["run_id"],
            rig=rig_file.text,
            task=args.get("task", ""),
            animal=args.get("animal", ""),
            rig_hash=rig_file.hash,
            versions={"loop2p": importlib.metadata.version("loop2p"), "python": platform.python_version()},
            seeds=plan.experiment.seeds,
            simulated=rig_file.rig.simulated or bool(rig_file.rig.standins),
            overrides=[code.strip() for code in args.get("overrides", "").split(",") if code.strip()],
            wall_time=datetime.now().astimezone().isoformat(),
            anchor_ns=clock.now_ns(),
            day_limit_ul=plan.day_limit_ul,
        )
        seed = plan.experiment.selection.seed
        selection = Selection(plus=plan.plus, minus=plan.minus, seed=seed, confirmed_by=by)
        self.run = self._new_run(session, selection, plan)
        self._start_until_ns = clock.now_ns() + int(self.options.start_timeout_s * 1e9)
        preparing = Phase(phase="idle", day=plan.day, reason="preparing: waits until every service is ready")
        return [*given_up, session, selection, preparing, GREY]

    def _new_run(self, session: Session, selection: Selection, plan: Plan, given_ul: float = 0.0) -> Run:
        ledger = LedgerFile(self.folder).ledger
        today_ul = ledger.given_ul if ledger.date == today() else 0.0
        core = self.core_class(plan, self.context.rig_file.rig.microscope.plane_rate_hz, today_ul + given_ul)
        folder = self.context.run_folder(session.run_id)
        return Run(session, selection, core, folder, self.context.clock.now_ns, self._actuation)

    def _try_to_begin(self, run: Run, now_ns: int) -> list[Message]:
        stand, waived = self._reasons(run)
        if not stand:
            self._start_until_ns = None
            run.open(LedgerFile(self.folder), new=True)
            log = self._log("begin", "task", detail="; ".join(f"overridden: {reason}" for reason in waived))
            return [log, *self._go(log)]
        if self._start_until_ns is not None and now_ns < self._start_until_ns:
            return []
        reason = "\n".join(map(str, stand))
        return [self._log("start", "task", False, reason), *self._call_off(reason)]

    def _call_off(self, reason: str) -> list[Message]:
        day = self.run.core.plan.day if self.run is not None else 0
        self.run, self._start_until_ns = None, None
        return [Phase(phase="idle", day=day, reason=reason)]

    def _reasons(self, run: Run) -> tuple[list[Reason], list[Reason]]:
        """(what keeps the session from running, what of it is overridden)."""
        found = self._missing(run.session.run_id)
        highest = max(run.selection.plus + run.selection.minus)
        if self._n_rois is not None and highest >= self._n_rois:
            text = f"ROI {highest} is selected, imaging has 0 to {self._n_rois - 1}: correct the task file"
            found.append(Reason("task.selection", text))
        return split_overridden(found, run.session.overrides)

    def _missing(self, run_id: str) -> list[Reason]:
        """What the rig lacks for a session."""
        rig_file, clock = self.context.rig_file, self.context.clock
        place = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        free_gb = shutil.disk_usage(place).free / 1e9
        found = missing(self.swaps.rig, rig_file.hash, run_id, self.watch.peers, clock.now_ns(), free_gb, self.peers)
        return found + unclear_clocks(rig_file.rig, {self.context.name: clock.bound_ns})

    def _preflight(self) -> list[Reason]:
        """What a start would have to wait for now, or this session's waits for; nobody prepares before there is one."""
        own = [Reason(f"{self.context.name}.not-ready", self.problem)] if self.problem else []
        if self.run is not None and self.run.core.phase != "ended":
            return own + self._reasons(self.run)[0]
        return own + [r for r in self._missing("") if not r.code.endswith(".other-run")]

    def _go(self, log: RequestLog) -> list[Message]:
        """Begin or resume."""
        self._resume_because = ""
        if self.run is not None:
            self.run.restored = False
        if not self.watch.begun:
            self.watch.begin()
        self._moving_ns, self._stalled = self.context.clock.now_ns(), False
        return self._feed(log)

    def _pause(self, reason: str) -> list[Message]:
        """Pause by the task's own decision, until the operator resumes."""
        self._resume_because = ""
        if self.run is None or not self.run.core.running:
            return []
        log = self._log("pause", "task", reason=reason)
        return [log, *self._feed(log)]

    def _obey(self, log: RequestLog) -> list[Message]:
        self._resume_because = ""
        return self._feed(log)

    def _feed(self, event: Stall | RequestLog) -> list[Message]:
        return self.run.feed(event) if self.run is not None else []

    # ------------------------------------------------------------ a predecessor's session

    def _take_over(self) -> None:
        """Stand where a predecessor stood that died in a session. Raises StateError, FileError."""
        ledger = LedgerFile(self.folder)
        run_id = ledger.ledger.open_run
        if not run_id:
            return
        state = read_state(self.folder / run_id)
        if state.session.rig_hash != self.context.rig_file.hash or state.selection is None or state.ended:
            self.context.log.warning("run %s can't be resumed with this rig file and is given up", run_id)
            ledger.ledger.open_run = ""
            ledger.ledger.given_ul += state.given_ul
            ledger.save()
            return
        plan = make_plan(state.session.task, state.session.animal)
        self.run = run = self._new_run(state.session, state.selection, plan, state.given_ul)
        at = state.phase or Phase(phase="baseline", day=plan.day)
        run.core.restore(
            at.phase, state.calibration, state.last_trial, state.open_trial, state.elapsed_s, block=at.reason
        )
        run.restored = self._unannounced = True
        self._handed_over = state.handed_over
        self._resume_because = "task was handed over" if state.handed_over else ""
        run.open(ledger, new=False)
        reason = "task is a successor: goes on after a crash, else waits for `resume`"
        paused = Phase(phase="paused", day=plan.day, reason=reason)
        known = (state.session, state.selection, state.calibration, GREY, paused)
        self._waiting = [message for message in known if message is not None]

    _unannounced = False

    def _announce(self, run: Run) -> list[Message]:
        """For the record: from here on a successor decides."""
        if not (run.restored and self._unannounced):
            return []
        self._unannounced = False
        return [self._log(RESTART, "task", detail=self.context.instance)]

    def _why_not_resume(self, run: Run) -> str:
        if self._disk_full:
            return f"recording: {self._disk_full}"
        if self.watch.lost:
            return f"{', '.join(sorted(self.watch.lost))} lost and not back yet"
        if run.restored and not self.watch.is_recorded(self.context.instance):
            return "recording does not hear this task yet: wait a moment"
        return "\n".join(map(str, self._reasons(run)[0]))

    def _give_up(self) -> str:
        """Leave an unfinished run that can't be taken over; why not, or empty."""
        try:
            ledger = LedgerFile(self.folder)
        except StateError as error:
            return str(error)
        ledger.ledger.open_run = ""
        ledger.save()
        self.problem = ""
        return ""

    # ------------------------------------------------------------ for the runtime

    def why_not_ready(self) -> list[str]:
        return [self.problem] if self.problem else []

    def counters(self) -> dict[str, int]:
        own = {"stalls": self._stalls, "deadline_misses": self._deadline_misses}
        if self.run is None:
            return own
        trials = {f"trials_{edge}": n for edge, n in self.run.core.outcomes.items()}
        return {**own, **self.run.counts, **trials, "given_today_nl": round(1000 * self.run.core.given_ul)}

    def gauges(self) -> dict[str, float]:
        phase = self.run.core.phase if self.run is not None else "idle"
        values = {
            "decision_budget_s": self._budget_ns / 1e9,
            "frame_age_limit_s": self._age_limit_ns / 1e9,
            "session_running": float(phase in ("baseline", "calibration", "closed_loop")),
            "session_paused": float(phase == "paused"),
        }
        if self.run is None:
            return values
        core = self.run.core
        values["day_limit_ul"] = core.plan.day_limit_ul
        values |= {"closed_loop_elapsed_s": core.elapsed_s}
        return values | ({"threshold": core.calibration.threshold} if core.calibration is not None else {})

    def snapshot(self) -> bytes:
        """For a successor of imaging: the last frame of a session, and how long ago it came in."""
        cause = self._last_cause
        if cause is None or self.run is None or not self.run.is_open:
            return b""
        age_s = (self.context.clock.now_ns() - cause.arrival_ns) / 1e9
        return msgspec.msgpack.encode({"frame": cause.frame, "plane": cause.plane, "age_s": age_s})

    def go_safe(self) -> Iterable[Message]:
        return [*(self.run.disarm() if self.run is not None else []), GREY]

    def close(self) -> Iterable[Message]:
        run = self.run
        if run is None or not run.is_open:
            return []
        run.leave()
        reason = f"task has left; a successor can take run {run.session.run_id} over"
        return [Phase(phase="paused", day=run.core.plan.day, t_s=run.core.last_s, reason=reason)]

    def _actuation(self) -> str:
        peer = self.watch.peers.get("actuation")
        return peer.instance if peer is not None else ""

    def _log(self, kind: str, by: str, accepted: bool = True, reason: str = "", detail: str = "") -> RequestLog:
        last_frame = self.run.core.last_frame if self.run is not None else -1
        return RequestLog(kind=kind, by=by, detail=detail, accepted=accepted, reason=reason, last_frame=last_frame)

    def _status(self) -> str:
        run = self.run
        if self.problem:
            return f"not ready: {self.problem}"
        if run is None:
            return "idle"
        if self._start_until_ns is not None:
            return "preparing; waits for " + "; ".join(map(str, self._reasons(run)[0]))
        core, count = run.core, run.core.outcomes
        return (
            f"{core.phase}, day {core.plan.day}, {count['hit']} hits, {count['miss']} misses, {count['void']} void, "
            f"{core.given_ul:g} ul given today"
        )
