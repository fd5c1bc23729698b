"""The chain task -> actuation -> line -> controller in virtual time, with whatever a schedule does to it.

Real: the actuation service, its interlock, ration file and controller client, the wire format, task's Commander,
and the controller, which is the firmware. Of the test: the clock, the port, the bus, and what task and decoding say.
"""

import datetime
import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from fault_schedules import GOOD_ASKS, MS, Asked, Fault, Schedule
from fault_schedules_bus import Speaker, VirtualBus
from fault_schedules_line import Line
from msgspec import Struct, field, structs
from simavr_firmware import Bench, Edge

from loop2p.actuation import CalibrationPoint, Limits, ValveCalibration
from loop2p.actuation.service import Actuation, ActuationOptions
from loop2p.protocol import (
    Accepted,
    Command,
    Done,
    Message,
    Refused,
    RewardCommand,
    WireError,
    open_parts,
)
from loop2p.runtime import RigClock
from loop2p.runtime.sequence import Sequences

CALIBRATION = ValveCalibration("2026-11-02", [CalibrationPoint(50, 4.0), CalibrationPoint(190, 16.0)])
MAX_OPEN_MS = 120.0
FRAME_US = 32_342
"""30.92 Hz."""
TICK_US = 50 * MS
STEADY_MS = 1200
HEAL_MS = 5000
"""By then everything must work again: a silent controller is noticed after 1 s, a port is tried every 0.25 s."""
MIDNIGHT = datetime.datetime(2026, 11, 2, 12)


class Issued(Struct):
    """A command that somebody gave."""

    command: Command
    at_us: int
    good: bool
    """From task, to the actuation that lives, in time, within the limits."""
    accepted: bool = False
    done_us: int = -1


class Silence(Struct):
    """Nobody vouches for the chain: a fault that must lower the pins."""

    fault: Fault
    begin_us: int
    end_us: int
    reconnects: bool
    """Somebody opens the line anew at its end."""


class Record(Struct):
    """All that the judge needs: what the pins did, what was asked, what went wrong and when."""

    schedule: Schedule
    edges: list[Edge]
    tolerance_us: float
    begin_us: int
    issued: list[Issued] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    set_back_us: int = 0
    """How far actuation's rig clock was set back, at most."""
    last_arm: int = -1
    """Index in `issued` of the first command after all has healed."""
    end_us: int = 0


class VirtualClock(RigClock):
    """The rig clock, which is this machine's own but for a step."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        super().__init__()
        self._now_ns, self.step_ns = now_ns, 0

    def now_ns(self) -> int:
        return self._now_ns() + self.step_ns

    @property
    def offset_ns(self) -> int:
        return self.step_ns


class VirtualRig:
    """Runs one schedule. `bench` is a controller fresh from its boot; `folder` holds the ration file."""

    def __init__(self, schedule: Schedule, bench: Bench, folder: Path, tolerance_us: float = 1.0) -> None:
        self.schedule, self.bench = schedule, bench
        self.random = random.Random(f"rig {schedule.seed}")
        self.ration_file = folder / f"ration-{schedule.seed}.jsonl"
        self.ration_file.unlink(missing_ok=True)
        self.now_us = self.begin_us = int(bench.now_us)
        self.record = Record(schedule, bench.edges, tolerance_us, self.begin_us)
        self.clock = VirtualClock(self.host_ns)
        self.calendar = datetime.timedelta()
        self._on: Counter[tuple[str, str]] = Counter()
        self._last_us = {"frame": self.now_us}
        self._resetting: list[int] = []
        self.bus, self.line = VirtualBus(self), Line(self)
        self.task, self.decoding = Speaker(self, "task"), Speaker(self, "decoding")
        self.actuation: Actuation | None = None
        self._actuations = 0
        self._start_actuation()

    def host_ns(self, us: int | None = None) -> int:
        """perf_counter of the host, of now or of a time of the bench."""
        return 5_000_000_000 + (self.now_us if us is None else us) * 1000

    def on(self, what: str, target: str) -> bool:
        return self._on[what, target] > 0

    # ------------------------------------------------------------ time

    def run(self) -> Record:
        """The whole schedule, then a healthy rig, which must obey."""
        begins = deque(sorted(self.schedule.faults))
        ends: list[tuple[int, Fault]] = []
        asks = deque(self.schedule.asked)
        while begins or ends or asks:
            at_ms = (self.now_us - self.begin_us) // MS
            while begins and begins[0].at_ms <= at_ms:
                fault = begins.popleft()
                ends.append((self.now_us + fault.for_ms * MS, fault))
                self._begin(fault)
            for end in sorted(e for e in ends if e[0] <= self.now_us):
                ends.remove(end)
                self._end(end[1])
            while asks and asks[0].at_ms <= at_ms:
                self._ask(asks.popleft())
            self.turn()
        self.clock.step_ns = 0
        self._prove_alive()
        self.record.end_us = self.now_us
        if self.actuation is not None:
            self._kill_actuation()
        return self.record

    def turn(self) -> None:
        """One millisecond."""
        for fault in [f for f in self.schedule.faults if f.what in ("flood", "replay", "noise") and self._runs(f)]:
            self._go_on(fault)
        self.task.turn()
        self.decoding.turn()
        self._actuation_turn()
        if self._resetting and any(self._level(pin) for pin in ("valve", "led")):
            self._resetting.clear()
            self.reset()
        self.pass_ms()

    def pass_ms(self) -> None:
        until_us = max(self.now_us + MS, int(self.bench.now_us))
        self.line.flow()
        if self.now_us - self._last_us["frame"] >= FRAME_US:
            self._last_us["frame"] += FRAME_US
            self.bench.plan("frame", [0.0])
        self.bench.run(max(0.0, until_us - self.bench.now_us))
        self.now_us = max(until_us, int(self.bench.now_us))

    def _level(self, pin: str) -> int:
        return next((e.level for e in reversed(self.bench.edges) if e.pin == pin), 0)

    # ------------------------------------------------------------ actuation

    def _start_actuation(self) -> None:
        self._actuations += 1
        options = ActuationOptions(
            controller="line",
            valve=CALIBRATION,
            limits=Limits(max_open_ms=MAX_OPEN_MS, session_ul=self.schedule.session_ul),
            calibration_stale_days=0,
        )
        self.actuation = Actuation(
            options,
            f"actuation-{self._actuations}",
            1e6 / FRAME_US,
            self.ration_file,
            self.clock,
            _LOG,
            lambda: MIDNIGHT + self.calendar + datetime.timedelta(microseconds=self.now_us),
            self.host_ns,
            self.line,
        )
        self.actuation.controller.start()
        self.sequences = Sequences()
        self._next_tick_us = self.now_us
        self.bus.forget()
        self.task.tell = True

    def _kill_actuation(self) -> None:
        """As SIGKILL does: what was flushed is in its file, what was written is on the line; nothing else is done."""
        assert self.actuation is not None
        if self.actuation.ration_file is not None:
            self.actuation.ration_file.close()  # ends its thread; writes nothing
        self.actuation = None
        self.line.close()

    def _stop_actuation(self) -> None:
        assert self.actuation is not None
        self._hear(self.actuation.go_safe())
        self._hear(self.actuation.close())
        self.actuation = None
        self.line.close()

    def _actuation_turn(self) -> None:
        """What the runtime's loop does."""
        if self.actuation is None:
            self.bus.forget()
            return
        if self.on("freeze", "actuation"):
            return
        for parts in self.bus.take():
            try:
                envelope = open_parts(parts)
                if self.sequences.check(envelope.topic, envelope.header) is not None and isinstance(
                    envelope.message, self.actuation.subscribes
                ):
                    self._hear(self.actuation.receive(envelope))
            except WireError:
                self.record.happened["malformed message dropped"] += 1
        due_ns = self.actuation.due_ns()
        if self.line.readable or (due_ns is not None and due_ns <= self.host_ns()):
            self._hear(self.actuation.read())
        if self.now_us >= self._next_tick_us:
            self._next_tick_us = self.now_us + TICK_US
            self._hear(self.actuation.tick())

    def _hear(self, messages: Iterable[Message]) -> None:
        """What actuation says, to task."""
        for message in messages:
            if not isinstance(message, Accepted | Refused | Done):
                continue
            issued = [i for i in self.record.issued if i.command.id == message.id]
            if isinstance(message, Accepted):
                for one in issued:
                    one.accepted = True
            elif isinstance(message, Done):
                for one in issued:
                    one.done_us = self.now_us
            self.record.happened[type(message).__name__.lower()] += 1
            if not (self.on("unanswered", "bus") or self.on("freeze", "task")):
                self.task.commander.answered(message.id)

    # ------------------------------------------------------------ what is asked

    def _ask(self, asked: Asked) -> None:
        if not self.task.alive or self.on("freeze", "task"):
            return
        now_ns, amount = self.host_ns(), asked.amount
        target = f"actuation-{self._actuations}"
        commander, speaker = self.task.commander, self.task
        command: Command
        match asked.ask:
            case "arm" | "disarm":
                command = commander.opto(now_ns, target, asked.ask == "arm", amount, None)
            case "reward" | "too much":
                command = commander.reward(now_ns, target, amount, 0, None)
            case "other instance":
                command = commander.reward(now_ns, "actuation-0", amount, 0, None)
            case "expired":
                command = commander.reward(now_ns - 251_000_000, target, amount, 0, None)
            case "stranger":
                command, speaker = self.decoding.commander.reward(now_ns, target, amount, 0, None), self.decoding
            case "nonsense":
                command = commander.opto(now_ns, target, True, 10 + amount * 40, None)
            case "same id":
                given = [i.command for i in self.record.issued if i.good and i.accepted]
                known = [c for c in given if isinstance(c, RewardCommand)]
                if not known:
                    return
                command = structs.replace(known[-1], expires_ns=now_ns + 250_000_000, volume_ul=amount)
        if speaker is self.decoding:
            self.decoding.commander.answered(command.id)
        alive = asked.ask in GOOD_ASKS or (asked.ask == "expired" and self.clock.step_ns < 0)  # by actuation's clock
        self.record.issued.append(Issued(command, self.now_us, alive))
        self.record.happened[f"asked: {asked.ask}"] += 1
        for _ in range(2 if self.on("double", "bus") else 1):
            speaker.publish(command)

    def _prove_alive(self) -> None:
        """Everything is whole again: soon a reward and an armed LED must be possible."""
        armed_ms = 0
        for _ in range(HEAL_MS):  # armed for longer than a silent controller goes unnoticed
            armed = self.line.is_quiet and self.actuation is not None and self.actuation.gauges()["armed"]
            armed_ms = armed_ms + 1 if armed else 0
            if armed_ms > STEADY_MS:
                break
            self.turn()
        self.record.last_arm = len(self.record.issued)
        self._ask(Asked(0, "arm", 6.0))
        self._ask(Asked(0, "reward", 1.0))
        for _ in range(400):
            self.turn()

    # ------------------------------------------------------------ what goes wrong

    def _runs(self, fault: Fault) -> bool:
        at_ms = (self.now_us - self.begin_us) // MS
        return fault.at_ms <= at_ms < fault.at_ms + fault.for_ms

    def _begin(self, fault: Fault) -> None:
        what, target = fault.what, fault.target
        self._on[what, target] += 1
        self.record.happened[f"{what} {target}"] += 1
        end_us = self.now_us + fault.for_ms * MS
        silent = what in ("kill", "freeze", "stop", "pause") or (what in SILENCING and target in ("line", "bus"))
        if silent:
            reconnects = what == "unplug" or (target == "actuation" and what != "freeze")
            self.record.silences.append(Silence(fault, self.now_us, end_us, reconnects))
        match what, target:
            case (("kill" | "stop"), "actuation"):
                if self.actuation is not None:
                    (self._kill_actuation if what == "kill" or self.on("freeze", target) else self._stop_actuation)()
            case "kill", _:
                self._speaker(target).alive = False
            case "pause", _:
                self.task.tell = True
            case "unplug", _:
                self.line.unplug("unplugged")
            case "reset", _:
                self._resetting.append(fault.seed)
            case "step", "clock":
                rng = random.Random(fault.seed)
                step_us = round(rng.choice((1, 1, -1)) * 10 ** rng.uniform(2, 7))
                self.clock.step_ns = step_us * 1000
                self.record.set_back_us = max(self.record.set_back_us, -step_us)
            case "step", "calendar":
                self.calendar += datetime.timedelta(hours=random.Random(fault.seed).choice((-30, -1, 1, 13, 30)))

    def _end(self, fault: Fault) -> None:
        what, target = fault.what, fault.target
        self._on[what, target] -= 1
        if self.on(what, target):
            return
        match what, target:
            case (("kill" | "stop"), "actuation"):
                if not self.on("kill", target) and not self.on("stop", target):
                    self._start_actuation()
            case "kill", _:
                self._speaker(target).restart()
            case (("pause" | "cut"), ("task" | "bus")):  # who connects anew is told the state
                self.task.tell = True
            case "freeze", "actuation":
                self.line.thawed_us = self.now_us
            case "unplug", _:
                self.line.reopen_us = min(self.line.reopen_us, self.now_us) if self.actuation else 1 << 62
            case "reset", _:
                if self._resetting:
                    self._resetting.clear()
                    self.reset()
            case "step", "clock":
                self.clock.step_ns = 0

    def _speaker(self, name: str) -> Speaker:
        return self.task if name == "task" else self.decoding

    def _go_on(self, fault: Fault) -> None:
        """What a fault does in each millisecond."""
        rng = self.random
        match fault.what, fault.target:
            case "flood", _:
                self.line.put(rng.randbytes(11))
            case "replay", "line":
                if rng.random() < 0.03 and self.line.sent:
                    first = rng.randrange(len(self.line.sent))
                    self.line.put(b"".join(self.line.sent[first : first + rng.randint(1, 30)]))
            case "replay", "bus":
                if rng.random() < 0.1 and self.bus.sent:
                    self.bus.again(rng.choice(self.bus.sent))
            case "noise", _:
                if (self.now_us // MS) % 2:
                    self.bench.plan("frame", [0.0])

    def reset(self) -> None:
        self.bench.reset()
        self.record.resets.append(self.now_us)
        self.record.happened["boots"] += 1


SILENCING = ("cut", "unplug", "hold", "mute")
_LOG = logging.getLogger("test.fault_schedules")
