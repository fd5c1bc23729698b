"""Actuation on the rig: takes commands from task, obeys within its limits, reports what the pins did."""

import datetime
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from msgspec import Struct

from loop2p.actuation import controller_client as client
from loop2p.actuation.controller_client import ControllerClient
from loop2p.actuation.core import (
    LEASE_SOURCES,
    ControllerLimits,
    Interlock,
    Limits,
    OpenValve,
    Refusal,
    Repeated,
    ValveCalibration,
)
from loop2p.actuation.link import HelloReply, Status
from loop2p.actuation.ration import Ration
from loop2p.actuation.ration_file import RationFile, RationFileError
from loop2p.actuation.serial_port import SerialPort
from loop2p.protocol import (
    Accepted,
    Alarm,
    Cause,
    Command,
    Done,
    Envelope,
    FileError,
    Heartbeat,
    Lick,
    Message,
    OptoCommand,
    Phase,
    Refused,
    RewardCommand,
    Session,
    Wheel,
    parse_toml,
)
from loop2p.runtime.clock import RigClock
from loop2p.runtime.service import Context, Input, Service

LEASE_EVERY_NS = 50_000_000
"""20 Hz: three renewals may be lost before the controller lets go."""
LEASE_AGAIN_NS = 2_000_000
"""So soon a lease is tried again that had to wait for the controller to say that it is safe."""
ANSWER_MS = 250
"""No command is repeated to the controller for longer than a command lives."""
SETTLE_MS = 100
SPEED_OVER_S = 0.1
"""One count in a 20 ms report would be 1.2 cm/s; over 0.1 s it is 0.24 cm/s."""
DUTY_OVER_S = 2.0


LeaseSource = Literal["imaging", "decoding", "task", "stimulus", "recording"]


class ActuationOptions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    controller: str
    """Where the controller is: "/dev/ttyACM0", "COM3", "socket://127.0.0.1:5600"."""
    valve: ValveCalibration
    limits: Limits = Limits()
    lease_sources: tuple[LeaseSource, ...] = ("task", "decoding")
    """Whose silence makes the actuators safe; task and decoding always among them."""
    ration_file: str = ""
    """What was given today, kept through restarts; empty for ration.jsonl in the data folder."""
    calibration_stale_days: int = 30
    """An alarm says so when the valve was weighed longer ago; 0 for never."""
    wheel_counts_per_rev: int = 2500
    """US Digital E6 (docs/experiment.md 1)."""
    wheel_circumference_cm: float = 19 * math.pi
    """A wheel 19 cm across (docs/experiment.md 1: the paper's "radius" is taken for the diameter)."""

    def __post_init__(self) -> None:
        if not set(LEASE_SOURCES) <= set(self.lease_sources):
            raise ValueError(f"lease_sources is {self.lease_sources}, expected {LEASE_SOURCES} among them")


class _AnimalName(Struct):
    """All that is wanted of an animal file."""

    name: str = ""


class Actuation(Service):
    """The only service that moves anything near the animal.

    Armed while task and decoding are heard and the phase allows it; a loss of either closes the valve, turns the LED
    off and leaves it disarmed. A command is obeyed once, in time, within the limits; else it is refused with a reason.
    """

    Options: ClassVar[type[Struct]] = ActuationOptions
    subscribes: ClassVar[tuple[type[Message], ...]] = (RewardCommand, OptoCommand, Heartbeat, Phase, Session)
    publishes: ClassVar[tuple[type[Message], ...]] = (Accepted, Done, Refused, Lick, Wheel, Alarm)

    def __init__(
        self,
        options: ActuationOptions,
        instance: str,
        frame_rate_hz: float,
        ration_file: Path,
        clock: RigClock,
        log: logging.Logger,
        today: Callable[[], datetime.datetime] = datetime.datetime.now,
        now_ns: Callable[[], int] = time.perf_counter_ns,
        port: client.Port | None = None,
    ) -> None:
        """Raises OSError where the ration file can't be written; one that can't be read makes it not ready.

        `today`, `now_ns` and `port` (this machine's calendar, its perf_counter, the line) are a test's to give.
        """
        self.options, self.clock, self.log, self.today, self.now_ns = options, clock, log, today, now_ns
        self.controller = ControllerClient(port or SerialPort(options.controller), now_ns)
        self.ration_file: RationFile | None = None
        blocked = ""
        try:
            self.ration_file = RationFile(ration_file)
        except RationFileError as error:
            blocked = f"ration file {error}; then start actuation again"
        ration = self.ration_file.ration if self.ration_file else Ration()
        self.interlock = Interlock(
            instance, options.limits, options.valve, ration, frame_rate_hz, options.lease_sources
        )
        self.interlock.blocked = blocked
        self._input = _ControllerInput(self)
        self._unfit = ""
        """Why the controller that answers is not commanded."""
        self._commands: dict[int, tuple[Command, int]] = {}
        """Under way: id -> command, commanded open time in us."""
        self._was_armed = self._led_armed = self._had_lease = self._leaving = False
        self._next_lease_ns = 0
        self._alarms: dict[str, Alarm] = {}
        self._rewards = self._refused = self._licks = 0
        self._licks_since_boot: int | None = None
        self._wheel: deque[client.Wheeled] = deque(maxlen=round(SPEED_OVER_S * 50) + 1)
        self._statuses: deque[Status] = deque()

    @classmethod
    def from_rig(cls, options: Any, context: Context) -> Self:
        rig = context.rig_file.rig
        ration_file = Path(options.ration_file or Path(rig.data.folder) / "ration.jsonl")
        service = cls(options, context.instance, rig.microscope.rate_hz, ration_file, context.clock, context.log)
        service.controller.start()
        return service

    # ------------------------------------------------------------ from the bus

    def receive(self, envelope: Envelope) -> Iterable[Message]:
        """Needs the header: a command counts from task alone, a heartbeat from when it was sent."""
        received_ns, now_ns = self.clock.now_ns(), self.now_ns()
        message, source = envelope.message, envelope.header.source
        messages: list[Message] = []
        if isinstance(message, RewardCommand | OptoCommand):
            messages += self._command(source, message, now_ns, received_ns)
        elif isinstance(message, Heartbeat) and source in self.options.lease_sources:
            if message.health in ("stopping", "stopped"):
                self.interlock.lost(source)
            else:
                delay_ns = max(0, received_ns - envelope.header.sent_ns)  # it may have waited while this process hung
                self.interlock.heard(source, now_ns - delay_ns)
        elif isinstance(message, Phase) and source == "task":
            self.interlock.phase = message.phase
        elif isinstance(message, Session) and source == "task":
            self.interlock.ration.begin_session(message.run_id, self._animal(message))
        return messages + self._watch(now_ns)

    def _command(
        self, source: str, command: RewardCommand | OptoCommand, now_ns: int, received_ns: int
    ) -> list[Message]:
        self.interlock.ration.begin_day(self.today().date().isoformat())
        verdict: object = Refusal("actuation is leaving")
        if not self._leaving:
            verdict = self.interlock.judge(source, command, now_ns, received_ns)
        if isinstance(verdict, Repeated):
            return [Accepted(id=command.id, received_ns=verdict.received_ns)]
        if isinstance(verdict, Refusal):
            return [self._refuse(command, verdict.reason)]
        unwritten = self._write_ration()
        if unwritten:
            return [self._refuse(command, unwritten)]
        until_ns = now_ns + min(command.expires_ns - received_ns, ANSWER_MS * client.MS)
        if isinstance(verdict, OpenValve):
            self._commands[command.id] = command, verdict.open_us
            self.controller.valve(command.id, verdict.open_us, until_ns)
        elif isinstance(command, OptoCommand):
            self._commands[command.id] = command, 0
            self._led_armed = command.armed
            self.controller.led(command.id, command.armed, round(command.pulse_ms * 1000), until_ns)
        return [Accepted(id=command.id, received_ns=received_ns)]

    def _refuse(self, command: Command, reason: str) -> Refused:
        self._refused += 1
        self.log.warning("command %d refused: %s", command.id, reason)
        return Refused(id=command.id, reason=reason, cause=command.cause)

    def _animal(self, session: Session) -> str:
        try:
            return parse_toml(session.animal, _AnimalName, "animal file").name
        except FileError as error:
            self.log.warning("the ration is counted without the animal's name: %s", error)
            return ""

    def _write_ration(self) -> str:
        """Write what changed before anything moves; what went wrong, if anything."""
        try:
            if self.ration_file is not None:
                self.ration_file.write()
        except OSError as error:
            return f"the ration can't be written, so nothing is given: {error}"
        return ""

    # ------------------------------------------------------------ from the controller

    def inputs(self) -> Sequence[Input]:
        return (self._input,)

    def due_ns(self) -> int | None:
        """When the next lease, query or loss is due (perf_counter)."""
        due = [self.controller.due_ns()]
        lease_until_ns = self.interlock.lease_until_ns()
        if lease_until_ns is not None and self.controller.hello is not None and not self._leaving:
            if self._was_armed:
                due.append(lease_until_ns + 1)
            if self.now_ns() <= lease_until_ns:
                due.append(self._next_lease_ns)
        known = [d for d in due if d is not None]
        return min(known) if known else None

    def read(self) -> list[Message]:
        """What the controller said, and what is due."""
        messages: list[Message] = []
        for news in self.controller.take():
            messages += self._hear(news)
        return messages + self._watch(self.now_ns())

    def tick(self) -> Iterable[Message]:
        today = self.today()
        self.interlock.ration.begin_day(today.date().isoformat())
        age, limit = self.options.valve.age_days(today.date()), self.options.calibration_stale_days
        stale = 0 < limit < age
        detail = (
            f"the valve was weighed {age} days ago, on {self.options.valve.date}; weigh again, expected every {limit}"
        )
        return self._alarm("valve-calibration-old", stale, detail if stale else "the valve was weighed lately")

    def _hear(self, news: client.News) -> list[Message]:
        if isinstance(news, client.Wheeled):
            return [self._wheel_message(news)]
        if isinstance(news, client.Licked):
            return self._lick(news)
        if isinstance(news, Status):
            return self._status(news)
        if isinstance(news, client.Up):
            return self._up(news.hello)
        if isinstance(news, client.Down):
            self.interlock.controller = None
            self._led_armed, self._unfit = False, ""
            return self._alarm(
                "controller-lost", True, f"{news.reason}; valve and LED are off by its own lease; check cable and power"
            )
        if news.id not in self._commands:
            return []
        command, asked_us = self._commands[news.id]
        if isinstance(news, client.Failed):
            del self._commands[news.id]
            newer = any(isinstance(c, OptoCommand) for c, _ in self._commands.values())  # its answer will tell
            if isinstance(command, OptoCommand) and not newer:
                self._make_safe()  # armed or not, who knows
            return [self._refuse(command, news.reason)]
        if isinstance(news, client.Delivered):
            del self._commands[news.id]
            return [self._delivered(command, asked_us, news)]
        if isinstance(command, OptoCommand):
            del self._commands[news.id]
            return [self._done(news.id, news.t_ns, news.t_ns, 0.0, command.cause)]
        return []  # the valve is open: its report follows

    def _up(self, hello: HelloReply) -> list[Message]:
        duty = hello.led_duty_permille / 1000
        name = hello.name.decode("ascii", "replace")
        self.log.info("controller %s %d.%d, boot %08x", name, hello.major, hello.minor, hello.boot_id)
        self._wheel.clear()
        self._statuses.clear()
        self._licks_since_boot = None
        if hello.lease_ms > self.options.limits.lease_ms:
            self._unfit = (
                f"controller: grants leases of {hello.lease_ms} ms, expected at most"
                f" {self.options.limits.lease_ms:g}; flash other firmware"
            )
        else:
            self._unfit = ""
            self.interlock.controller = ControllerLimits(hello.max_open_ms, duty, duty * hello.led_window_ms)
        return self._alarm("controller-lost", False, f"{name} {hello.major}.{hello.minor} answers")

    def _status(self, status: Status) -> list[Message]:
        now = self.today()
        since_midnight_s = (now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
        ration, limits = self.interlock.ration, self.options.limits
        ration.begin_day(now.date().isoformat())
        ration.reconcile(
            status.boot_id,
            status.valve_open_ms,
            status.led_on_ms,
            self.options.valve.most_ul_per_ms,
            status.uptime_s < since_midnight_s,
        )
        self._statuses.append(status)
        while len(self._statuses) > 2 and _micros(self._statuses[1], status) > DUTY_OVER_S * 1e6:
            self._statuses.popleft()
        messages: list[Message] = []
        if self._led_armed and self.interlock.led_used_up:
            self._make_safe()
            self.log.warning("LED disarmed: %.0f s of light today, limit %g s", ration.day_led_s, limits.led_day_s)
        used_up = [
            text
            for gone, text in (
                (ration.session_ul >= limits.session_ul, f"{ration.session_ul:g} ul in this session"),
                (ration.day_ul >= limits.day_ul, f"{ration.day_ul:g} ul today"),
                (self.interlock.led_used_up, f"{ration.day_led_s:.0f} s of LED light today"),
            )
            if gone
        ]
        messages += self._alarm("ration-used-up", bool(used_up), ", ".join(used_up) or "something is left")
        unwritten = self._write_ration()
        return messages + self._alarm("ration-unwritten", bool(unwritten), unwritten or "the ration is written")

    def _lick(self, news: client.Licked) -> list[Message]:
        """Counts rise through lost packets: the total is the controller's."""
        before = self._licks_since_boot
        self._licks += 1 if before is None else max(0, news.count - before)
        self._licks_since_boot = news.count
        return [Lick(count=news.count, t_ns=self._rig_ns(news.t_ns))]

    def _wheel_message(self, news: client.Wheeled) -> Wheel:
        self._wheel.append(news)
        first = self._wheel[0]
        seconds = _micros(first, news) / 1e6
        turns = (news.count - first.count) / self.options.wheel_counts_per_rev
        speed = turns * self.options.wheel_circumference_cm / seconds if seconds > 0 else 0.0
        return Wheel(count=news.count, speed_cm_s=speed, t_ns=self._rig_ns(news.t_ns))

    def _delivered(self, command: Command, asked_us: int, news: client.Delivered) -> Done:
        volume_ul = command.volume_ul if isinstance(command, RewardCommand) else 0.0
        if news.open_us < asked_us:  # cut short by SAFE or a lapsed lease
            volume_ul = self.options.valve.volume_ul(news.open_us)
        self._rewards += volume_ul > 0
        return self._done(news.id, news.open_ns, news.close_ns, volume_ul, command.cause)

    def _done(self, command_id: int, open_ns: int, close_ns: int, volume_ul: float, cause: Cause | None) -> Done:
        return Done(
            id=command_id,
            open_ns=self._rig_ns(open_ns),
            close_ns=self._rig_ns(close_ns),
            volume_ul=volume_ul,
            cause=cause,
        )

    def _rig_ns(self, local_ns: int) -> int:
        return self.clock.rig_ns(local_ns)

    # ------------------------------------------------------------ the watch

    def _watch(self, now_ns: int) -> list[Message]:
        """Renew the lease while task and decoding are heard; make safe the moment it is armed no more."""
        why = "actuation is leaving" if self._leaving else self.interlock.why_unarmed(now_ns)
        if self._was_armed and why:
            self._make_safe()
            self.log.warning("unarmed, valve closed and LED off: %s", why)
        elif not why and not self._was_armed:
            self.log.info("armed")
            self._next_lease_ns = now_ns  # before the first command
        self._was_armed = not why
        silence, lease_until_ns = self.interlock.silence(now_ns), self.interlock.lease_until_ns()
        if lease_until_ns is not None and not silence and not self._leaving:
            self._had_lease = True
            if now_ns >= self._next_lease_ns:
                sent = self.controller.lease(lease_until_ns)
                self._next_lease_ns = now_ns + (LEASE_EVERY_NS if sent else LEASE_AGAIN_NS)
        lost = bool(silence) and self._had_lease and self.interlock.phase not in ("idle", "ended")
        detail = f"{silence}; valve and LED are off" if lost else "task and decoding are heard"
        return self._alarm("lease-lost", lost and not self._leaving, detail)

    def _make_safe(self) -> None:
        """Valve closed, LED off and disarmed. It ends the controller's lease, too, so the next one goes at once."""
        self.controller.safe()
        self._led_armed = False
        self._next_lease_ns = 0

    def _alarm(self, code: str, active: bool, detail: str) -> list[Message]:
        """The alarm, if it came or went; one that never was is not mentioned."""
        before = self._alarms.get(code)
        if (before is None and not active) or (before is not None and before.active == active):
            return []
        self._alarms[code] = alarm = Alarm(code=code, active=active, detail=detail)
        return [alarm]

    # ------------------------------------------------------------ what the runtime asks

    def why_not_ready(self) -> list[str]:
        why = []
        if self.interlock.blocked:
            why.append(self.interlock.blocked)
        if self.controller.hello is None:
            why.append(
                f"controller: {self.controller.why_down}; check cable, power and that nothing else uses the port"
            )
        return why

    def counters(self) -> dict[str, int]:
        return {
            "rewards": self._rewards,
            "refused": self._refused,
            "licks": self._licks,
            "serial_rejected": self.controller.decoder.rejected.total() + self.controller.unexpected,
        }

    def gauges(self) -> dict[str, float]:
        ration, limits = self.interlock.ration, self.options.limits
        return {
            "armed": float(self._was_armed),
            "led_armed": float(self._led_armed),
            "led_duty": self._led_duty(),
            "led_day_s": ration.day_led_s,
            "session_ul": ration.session_ul,
            "day_ul": ration.day_ul,
            "led_duty_limit": limits.led_duty_max,
            "led_day_limit_s": limits.led_day_s,
            "session_limit_ul": limits.session_ul,
            "day_limit_ul": limits.day_ul,
            "controller_clock_bound_s": (self.controller.clock.bound_ns or 0) / 1e9,
        }

    def _led_duty(self) -> float:
        """Part of the last two seconds that the LED was on."""
        if len(self._statuses) < 2:
            return 0.0
        first, last = self._statuses[0], self._statuses[-1]
        return (last.led_on_ms - first.led_on_ms) * 1000 / max(_micros(first, last), 1)

    def go_safe(self) -> Iterable[Message]:
        """SAFE at once; waits a moment for the controller to say so."""
        self._leaving = True
        self._was_armed = self._led_armed = False
        messages: list[Message] = []
        try:
            self.controller.safe()
            for news in self.controller.settle(SETTLE_MS):
                messages += self._hear(news)
        except Exception:  # this is the last line of defence: the controller's own lease follows it
            self.log.exception("going safe did not go well; the controller's lease ends within 200 ms")
        return messages

    def close(self) -> Iterable[Message]:
        self.controller.close()
        if self.ration_file is not None:
            self.ration_file.close()
        return ()


class _ControllerInput:
    """The controller as something the runtime can wait on."""

    def __init__(self, service: Actuation) -> None:
        self._service = service

    def fileno(self) -> int:
        return self._service.controller.fileno()

    def due_ns(self) -> int | None:
        return self._service.due_ns()

    def read(self) -> Iterable[Message]:
        return self._service.read()


def _micros(first: client.Wheeled | Status, last: client.Wheeled | Status) -> int:
    """Controller time between two reports, microseconds, through a wrap."""
    return (last.t_us - first.t_us) & 0xFFFF_FFFF
