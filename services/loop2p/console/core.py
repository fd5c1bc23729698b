"""What the page shows: messages of the bus in, one JSON object out. Pure.

`steady_s` is a clock that never steps, `unix_s` the wall's. Texts are cut and lists bounded.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from loop2p.console.latency import Latencies, Step
from loop2p.console.samples import Samples
from loop2p.protocol import (
    Accepted,
    Alarm,
    Calibration,
    Clock,
    Day1Images,
    Done,
    Envelope,
    Fault,
    Heartbeat,
    Lick,
    OptoCommand,
    Output,
    Phase,
    Refused,
    RequestLog,
    RewardCommand,
    Rig,
    Rois,
    Screen,
    Selection,
    Session,
    Show,
    Shown,
    Stall,
    Swap,
    Traces,
    Trial,
    Wheel,
)
from loop2p.runtime.sequence import Sequences

TOPICS = tuple(
    kind.topic
    for kind in (
        Session, Selection, Calibration, Phase, Trial, RequestLog, Stall, Swap, Heartbeat, Clock, Alarm, Fault, Traces,
        Rois, Day1Images, Output, Show, Shown, Screen, RewardCommand, OptoCommand, Accepted, Done, Refused, Lick, Wheel,
    )
)  # fmt: skip
"""What the page listens to; pictures come by another socket (pictures.py)."""
SILENT_S = 1.0
"""A service that was not heard for this long is silent (as for task's start barrier)."""
MAX_TEXT = 1000
MAX_ALARMS, MAX_PLANES = 100, 16
TRIALS, EVENTS = 20, 60
"""The newest that are shown."""
ACKNOWLEDGED = "alarm acknowledged: "
"""How the note begins that puts an acknowledgement on the record; then "SERVICE CODE"."""

State = Literal["running", "preparing", "paused", "idle", "ended", "unknown"]
_STATES: dict[str, State] = {
    "idle": "idle", "baseline": "running", "calibration": "running", "closed_loop": "running", "paused": "paused",
    "ended": "ended",
}  # fmt: skip


class ServiceNow(Struct, frozen=True):
    name: str
    host: str
    address: str
    """Of the host, as the rig file has it."""
    health: str
    """starting, ready, stopping, stopped, as it says itself; silent: not heard for 1 s; absent: never heard."""
    why: list[str]
    """Why it is not ready."""
    bound_ms: float | None
    """Error bound of its clock."""
    bound_ok: bool | None
    """Within the rig file's limit; None where no bound is asked for (reference, external)."""
    gaps: int
    rejected: int


class AlarmNow(Struct):
    service: str
    code: str
    detail: str
    since: float
    """s since 1970 UTC."""
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0


class TrialNow(Struct):
    trial: int
    edge: str
    """start while it runs, then hit, miss or void."""
    reason: str
    t_s: float
    """Frame time of the start."""
    end_s: float | None = None


class Event(Struct, frozen=True):
    """A line of the page's log."""

    time: float
    """s since 1970 UTC."""
    kind: str
    """request, refused, note, alarm, fault, stall, trial."""
    text: str


class PlaneNow(Struct, frozen=True):
    plane: int
    shift_y_px: float
    shift_x_px: float
    quality: float
    valid: bool


class Day1Now(Struct, frozen=True):
    """Where a plane's field lies against that of day 1."""

    plane: int
    match: float
    """1 the same field, 0 another."""
    offset_y_px: float
    offset_x_px: float
    rotation_deg: float


class Page(Struct, frozen=True):
    """Everything on the page but traces and pictures."""

    rig: str
    simulated: bool
    state: State
    """unknown: task is not heard, so what follows is what was known last."""
    phase: str
    reason: str
    day: int
    run_id: str
    services: list[ServiceNow]
    alarms: list[AlarmNow]
    """The oldest first."""
    faults: list[Event]
    """Of services that stopped by a fault and have no successor that is ready."""
    shown: str
    """grey, grating, black, or empty: what was last on the screen."""
    angle_deg: float | None
    display: bool | None
    """False: nobody sees the pictures; None: not known."""
    renderer: str
    minimum: float | None
    threshold: float | None
    plus: list[int]
    minus: list[int]
    confirmed_by: str
    trial: int | None
    elapsed_s: float
    outcomes: dict[str, int]
    """hit, miss, void, as task counts them."""
    trials: list[TrialNow]
    """The newest first."""
    rewards: int
    """Openings of the valve in this session that the page heard of."""
    reward_ul: float
    day_ul: float | None
    """Given today, as task counts it."""
    day_limit_ul: float | None
    licks: int
    """In this session, as far as heard."""
    speed_cm_s: float | None
    planes: list[PlaneNow]
    set_id: str
    match_to_day1: float | None
    day1: list[Day1Now]
    """By plane; empty on day 1, and until today's references are built."""
    latency: list[Step]
    budget_ms: float
    events: list[Event]
    """The newest first."""


class _Peer(Struct):
    heard_s: float
    instance: str
    beat: Heartbeat
    bound_ns: int | None = None


class PageView:
    """The rig as its messages tell it."""

    def __init__(self, rig: Rig, budget_ms: float) -> None:
        """`budget_ms`: how long a decision may take after its frame."""
        self._rig, self._budget_ms = rig, budget_ms
        self.samples, self._latencies = Samples(), Latencies()
        self._peers: dict[str, _Peer | None] = dict.fromkeys(rig.services)
        self._sequences = Sequences()
        self._session = Session(run_id="", rig="", task="", simulated=rig.simulated)
        self._phase, self._preparing = Phase(phase="idle", day=0), False
        self._calibration: Calibration | None = None
        self._selection: Selection | None = None
        self._shown: Shown | None = None
        self._screen: Screen | None = None
        self.rois: tuple[str, int, Rois] | None = None
        """(instance, sequence number, message) of the newest ROI sets."""
        self.day1: tuple[str, int, Day1Images] | None = None
        """The same of day 1's images."""
        self._planes: dict[int, PlaneNow] = {}
        self._trials: deque[TrialNow] = deque(maxlen=TRIALS)
        self._elapsed_s = 0.0
        self._rewards, self._reward_ul, self._licks, self._lick_count = 0, 0.0, 0, 0
        self._speed: float | None = None
        self._alarms: dict[tuple[str, str], tuple[str, AlarmNow]] = {}
        """(service, code) -> instance that raised it, alarm."""
        self._faults: dict[str, tuple[str, Event]] = {}
        self._events: deque[Event] = deque(maxlen=EVENTS)

    def take(self, envelope: Envelope, steady_s: float, unix_s: float) -> None:
        """Take a message of any topic. One that came before, or from nobody of this rig, is left out."""
        header, message = envelope.header, envelope.message
        source = header.source
        if source not in self._peers or self._sequences.check(envelope.topic, header) is None:
            return
        self._latencies.take(envelope)
        self.samples.take(message)
        match message:
            case Heartbeat():
                self._beat(source, header.instance, message, steady_s)
            case Clock():
                peer = self._peers[source]
                if peer is not None:
                    peer.bound_ns = message.bound_ns
            case Traces() if message.plane < MAX_PLANES:
                shift = round(message.shift_y_px, 2), round(message.shift_x_px, 2)
                self._planes[message.plane] = PlaneNow(message.plane, *shift, round(message.quality, 3), message.valid)
            case Wheel():
                self._speed = message.speed_cm_s
            case Lick():
                self._licks += max(0, message.count - self._lick_count) if self._lick_count else 1
                self._lick_count = message.count
            case Rois():
                self.rois = header.instance, header.seq, message
            case Day1Images():
                self.day1 = header.instance, header.seq, message
            case Shown():
                self._shown = message
            case Screen():
                self._screen = message
            case Done() if message.volume_ul > 0:
                self._rewards += 1
                self._reward_ul += message.volume_ul
            case Alarm():
                self._alarm(source, header.instance, message, unix_s)
            case Fault():
                event = Event(unix_s, "fault", _cut(f"{message.service}: {message.error}: {message.detail}"))
                self._faults[source] = header.instance, event
                self._events.appendleft(event)
            case _:
                self._of_task(message, unix_s)

    def _of_task(self, message: object, unix_s: float) -> None:
        """What task alone says: the session, its trials, and what was asked."""
        match message:
            case Session() if message.run_id != self._session.run_id:
                self._session, self._calibration = message, None
                self._trials.clear()
                self._elapsed_s = 0.0
                self._rewards, self._reward_ul, self._licks = 0, 0.0, 0
            case Selection():
                self._selection = message
                self.samples.plus, self.samples.minus = message.plus, message.minus
            case Calibration():
                self._calibration = message
            case Phase():
                self._preparing = message.phase == "idle" and message.reason.startswith("preparing")
                if (message.phase, message.reason) != (self._phase.phase, self._phase.reason):
                    self._event(unix_s, "phase", ": ".join(filter(None, (message.phase, message.reason))))
                self._phase = message
            case Trial():
                self._trial(message, unix_s)
            case Stall():
                self._event(unix_s, "stall", f"{message.what} stopped for {message.waited_s:.1f} s")
            case Refused():
                self._event(unix_s, "refused", f"actuation refused command {message.id}: {message.reason}")
            case RequestLog():
                self._request(message, unix_s)

    def _beat(self, source: str, instance: str, beat: Heartbeat, steady_s: float) -> None:
        before = self._peers[source]
        bound_ns = before.bound_ns if before is not None and before.instance == instance else None
        self._peers[source] = _Peer(steady_s, instance, beat, bound_ns)
        # what a predecessor said is over: a successor raises its own alarms, and says when it is ready
        for key in [key for key, (by, _) in self._alarms.items() if key[0] == source and by != instance]:
            del self._alarms[key]
        if beat.health == "ready" and source in self._faults and self._faults[source][0] != instance:
            del self._faults[source]

    def _trial(self, trial: Trial, unix_s: float) -> None:
        self._elapsed_s = trial.elapsed_s
        if trial.edge == "start" or not self._trials or self._trials[0].trial != trial.trial:
            self._trials.appendleft(TrialNow(trial.trial, "start", "", trial.t_s))
        if trial.edge != "start":
            now = self._trials[0]
            now.edge, now.reason, now.end_s = trial.edge, _cut(trial.reason), trial.t_s
            reason = f" ({trial.reason})" if trial.reason else ""
            self._event(unix_s, "trial", f"trial {trial.trial}: {trial.edge}{reason}")

    def _request(self, log: RequestLog, unix_s: float) -> None:
        if log.kind == "note" and log.accepted:
            self._event(unix_s, "note", f"{log.by}: {log.detail}")
            if log.detail.startswith(ACKNOWLEDGED):
                service, _, code = log.detail.removeprefix(ACKNOWLEDGED).partition(":")[0].partition(" ")
                _, alarm = self._alarms.get((service, code), ("", None))
                if alarm is not None:
                    alarm.acknowledged_by, alarm.acknowledged_at = log.by, unix_s
            return
        words = f"{log.kind} by {log.by}" if log.accepted else f"{log.kind} by {log.by} refused"
        kind = "request" if log.accepted else "refused"
        self._event(unix_s, kind, f"{words}: {log.reason or log.detail}".rstrip(": "))

    def _alarm(self, source: str, instance: str, alarm: Alarm, unix_s: float) -> None:
        key = (source, alarm.code[:MAX_TEXT])
        if not alarm.active:
            if self._alarms.pop(key, None) is not None:
                self._event(unix_s, "alarm", f"over: {source} {alarm.code}")
            return
        before = self._alarms.get(key)
        if before is not None:
            before[1].detail = _cut(alarm.detail)
            return
        if len(self._alarms) >= MAX_ALARMS:
            del self._alarms[next(iter(self._alarms))]
        self._alarms[key] = instance, AlarmNow(source, key[1], _cut(alarm.detail), unix_s)
        self._event(unix_s, "alarm", f"{source} {alarm.code}: {alarm.detail}")

    def _event(self, unix_s: float, kind: str, text: str) -> None:
        self._events.appendleft(Event(round(unix_s, 1), kind, _cut(text)))

    # ------------------------------------------------------------ what holds now

    @property
    def asks_for_preflight(self) -> bool:
        """No session runs, or it waits for something: what is missing is worth knowing."""
        return self._phase.phase in ("idle", "paused", "ended")

    def page(self, steady_s: float) -> Page:
        """What the page shows now."""
        services = [self._service(name, steady_s) for name in self._peers]
        heard = {s.name for s in services if s.health not in ("absent", "silent", "stopped")}
        task = next(s for s in services if s.name == "task")
        known = task.health in ("starting", "ready")
        state: State = "preparing" if self._preparing else _STATES[self._phase.phase]
        calibration, selection, screen = self._calibration, self._selection, self._screen
        shown = self._shown if "stimulus" in heard else None
        speed = self._speed if "actuation" in heard else None
        beat = self._peers["task"].beat if self._peers["task"] is not None else None
        counters = beat.counters if beat is not None else {}
        day_nl, limit_ul = counters.get("given_today_nl"), self._session.day_limit_ul
        return Page(
            rig=self._rig.name,
            simulated=self._rig.simulated or bool(self._rig.standins) or self._session.simulated,
            state=state if known else "unknown",
            phase=self._phase.phase,
            reason=_cut(self._phase.reason),
            day=self._phase.day,
            run_id=self._session.run_id,
            services=services,
            alarms=sorted((alarm for _, alarm in self._alarms.values()), key=lambda a: a.since),
            faults=[fault for _, fault in self._faults.values()],
            shown=shown.what if shown is not None else "",
            angle_deg=shown.angle_deg if shown is not None else None,
            display=self._display(screen),
            renderer=screen.renderer if screen is not None else "",
            minimum=calibration.minimum if calibration is not None else None,
            threshold=calibration.threshold if calibration is not None else None,
            plus=selection.plus if selection is not None else [],
            minus=selection.minus if selection is not None else [],
            confirmed_by=_cut(selection.confirmed_by) if selection is not None else "",
            trial=self._trials[0].trial if self._trials else None,
            elapsed_s=round(self._elapsed_s, 1),
            outcomes={edge: counters.get(f"trials_{edge}", 0) for edge in ("hit", "miss", "void")},
            trials=list(self._trials),
            rewards=self._rewards,
            reward_ul=round(self._reward_ul, 3),
            day_ul=None if day_nl is None else day_nl / 1000,
            day_limit_ul=limit_ul,
            licks=self._licks,
            speed_cm_s=None if speed is None else round(speed, 1),
            planes=[self._planes[plane] for plane in sorted(self._planes)] if "imaging" in heard else [],
            set_id=self.rois[2].set_id if self.rois is not None else "",
            match_to_day1=self.rois[2].match_to_day1 if self.rois is not None else None,
            day1=self._day1_now(),
            latency=list(self._latencies.steps()),
            budget_ms=self._budget_ms,
            events=list(self._events),
        )

    def _day1_now(self) -> list[Day1Now]:
        """Of the imaging that acts, not of one before it."""
        if self.day1 is None or self.rois is None or self.day1[0] != self.rois[0]:
            return []
        one = self.day1[2]
        columns = [x[:MAX_PLANES] for x in (one.match, one.offset_y_px, one.offset_x_px, one.rotation_deg)]
        return [Day1Now(k, *(round(x, 2) for x in row)) for k, row in enumerate(zip(*columns, strict=False))]

    def _display(self, screen: Screen | None) -> bool | None:
        if ("stimulus", "no-display") in self._alarms:
            return False
        return screen.display if screen is not None else None

    def _service(self, name: str, steady_s: float) -> ServiceNow:
        spec, peer = self._rig.services[name], self._peers[name]
        host, address = spec.host, self._rig.hosts.get(spec.host, "")
        timed = name != self._rig.clock.reference and not spec.external
        if peer is None:
            return ServiceNow(name, host, address, "absent", [], None, None, 0, 0)
        silent = peer.beat.health != "stopped" and steady_s - peer.heard_s > SILENT_S
        bound_ms = None if peer.bound_ns is None else round(peer.bound_ns / 1e6, 3)
        good = bound_ms is not None and bound_ms <= self._rig.clock.bound_limit_ms
        return ServiceNow(
            name=name,
            host=host,
            address=address,
            health="silent" if silent else peer.beat.health,
            why=[_cut(line) for line in peer.beat.why_not_ready[:10]],
            bound_ms=bound_ms,
            bound_ok=good if timed else None,
            gaps=peer.beat.gaps,
            rejected=peer.beat.rejected,
        )


def host_of(services: Sequence[ServiceNow], name: str) -> str:
    """Such as "task on stim (192.168.10.2)"."""
    found = next(s for s in services if s.name == name)
    return f"{name} on {found.host}" + (f" ({found.address})" if found.address else "")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
