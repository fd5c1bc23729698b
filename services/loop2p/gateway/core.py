"""What is told of the rig: messages of the bus in, MQTT payloads out. Pure.

Every payload is a JSON object, and a struct here. Texts are cut, lists are bounded: a payload stays below 100 kB.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from loop2p.protocol import Alarm, Done, Envelope, Fault, Heartbeat, Phase, Session, Trial
from loop2p.runtime.sequence import Sequences

TOPICS = tuple(kind.topic for kind in (Session, Phase, Trial, Done, Alarm, Fault, Heartbeat))
"""What the gateway listens to on the bus: nothing that comes with every frame."""
SILENT_S = 1.0
"""A service that was not heard for this long is silent (as for task's start barrier)."""
MAX_TEXT = 500
MAX_ALARMS = 100

State = Literal["running", "paused", "idle", "unknown"]
_STATES: dict[str, State] = {
    "idle": "idle", "baseline": "running", "calibration": "running", "closed_loop": "running", "paused": "paused",
    "ended": "idle",
}  # fmt: skip


class ServiceHealth(Struct, frozen=True):
    health: str
    """starting, ready, stopping, stopped, as it says itself; silent: not heard for 1 s; absent: never heard."""
    why: list[str]
    """Why it is not ready."""


class Status(Struct, frozen=True):
    """`status`: where the session stands."""

    state: State
    """unknown: task is not heard, so what follows is what was known last."""
    session: str
    """Its run id; empty before the first."""
    simulated: bool
    phase: str
    reason: str
    """Why this phase, where it is not the plan: who paused, what was lost, why a start was refused."""
    day: int
    trial: int | None
    """Number of the last trial of which something was heard."""
    outcomes: dict[str, int]
    """hit, miss, void, as task counts them (since it started, if it was restarted in mid-session)."""
    services: dict[str, ServiceHealth]


class Rewards(Struct, frozen=True):
    """`rewards`: what the valve gave, free rewards included."""

    session: str
    count: int
    ul: float
    complete: bool
    """False: the gateway came late or missed a message, so count and ul are of what it heard."""
    day_ul: float | None
    """Of the day, as task counts it; null if task does not tell."""


class Outcome(Struct, frozen=True):
    """`trial`: a trial has ended."""

    session: str
    trial: int
    outcome: str
    """hit, miss or void."""
    reason: str
    """Why void."""
    t_s: float
    """Frame time."""
    elapsed_s: float
    """Closed-loop time so far."""
    time: float
    """When it was heard, s since 1970 UTC."""


class AlarmNow(Struct, frozen=True):
    service: str
    code: str
    detail: str
    since: float
    """When it was heard first, s since 1970 UTC."""


class Alarms(Struct, frozen=True):
    """`alarms`: the conditions that hold, the oldest first; empty when there are none."""

    alarms: list[AlarmNow]


class FaultNow(Struct, frozen=True):
    service: str
    error: str
    detail: str
    since: float
    """When it was heard, s since 1970 UTC."""


class Faults(Struct, frozen=True):
    """`faults`: services that stopped because of an impossible state and have no successor that is ready."""

    faults: list[FaultNow]


class Ages(Struct, frozen=True):
    """`heartbeat`: how long ago each service was heard, every second. Not retained."""

    time: float
    """s since 1970 UTC."""
    age_s: dict[str, float | None]
    """null: never heard."""


class _Peer(Struct):
    heard_s: float
    instance: str
    beat: Heartbeat


class RigView:
    """The rig as its messages tell it. `steady_s` is a clock that never steps, `unix_s` the wall's."""

    def __init__(self, services: Sequence[str]) -> None:
        """`services`: the names in the rig file."""
        self._peers: dict[str, _Peer | None] = dict.fromkeys(services)
        self._sequences = Sequences()
        self._session = Session(run_id="", rig="", task="", simulated=False)
        self._phase = Phase(phase="idle", day=0)
        self._trial: int | None = None
        self._count, self._ul, self._complete = 0, 0.0, False
        self._dones: dict[str, int] = {}
        """Actuation's instance -> how many reports of the valve it has published, as far as known."""
        self._alarms: dict[tuple[str, str], tuple[str, AlarmNow]] = {}
        """(service, code) -> instance that raised it, alarm."""
        self._faults: dict[str, tuple[str, FaultNow]] = {}

    def take(self, envelope: Envelope, steady_s: float, unix_s: float) -> Outcome | None:
        """Take a message of any topic; returns a trial's outcome if that is what it tells."""
        header, message = envelope.header, envelope.message
        source = header.source
        if source not in self._peers:
            return None
        if self._sequences.check(envelope.topic, header) is None:
            return None  # it came before
        match message:
            case Heartbeat():
                self._beat(source, header.instance, message, steady_s)
            case Session() if message.run_id != self._session.run_id:
                self._session, self._trial = message, None
                self._count, self._ul = 0, 0.0
                self._complete = not header.resent and self._peers["actuation"] is not None
            case Phase():
                self._phase = message
            case Trial():
                self._trial = message.trial
                return self._outcome(message, unix_s)
            case Done():
                self._reports(header.instance, header.seq)
                self._dones = {header.instance: header.seq + 1}
                self._count += message.volume_ul > 0
                self._ul += message.volume_ul
            case Alarm():
                self._alarm(source, header.instance, message, unix_s)
            case Fault():
                fault = FaultNow(source, _cut(message.error), _cut(message.detail), unix_s)
                self._faults[source] = (header.instance, fault)
        return None

    def _beat(self, source: str, instance: str, beat: Heartbeat, steady_s: float) -> None:
        self._peers[source] = _Peer(steady_s, instance, beat)
        # what a predecessor said is over: a successor raises its own alarms, and says when it is ready
        gone = [key for key, (by, _) in self._alarms.items() if key[0] == source and by != instance]
        for key in gone:
            del self._alarms[key]
        if beat.health == "ready" and source in self._faults and self._faults[source][0] != instance:
            del self._faults[source]
        if source == "actuation":
            self._reports(instance, beat.published.get(Done.topic, 0))

    def _reports(self, instance: str, published: int) -> None:
        """So many reports of the valve were published before this message."""
        if self._dones.get(instance, 0) != published:
            self._complete = False
        self._dones = {instance: published}

    def _outcome(self, trial: Trial, unix_s: float) -> Outcome | None:
        if trial.edge == "start":
            return None
        return Outcome(
            self._session.run_id, trial.trial, trial.edge, _cut(trial.reason), trial.t_s, trial.elapsed_s, unix_s
        )

    def _alarm(self, source: str, instance: str, alarm: Alarm, unix_s: float) -> None:
        key = (source, alarm.code[:MAX_TEXT])
        if not alarm.active:
            self._alarms.pop(key, None)
            return
        since = self._alarms[key][1].since if key in self._alarms else unix_s
        if key not in self._alarms and len(self._alarms) >= MAX_ALARMS:
            del self._alarms[next(iter(self._alarms))]
        self._alarms[key] = (instance, AlarmNow(source, key[1], _cut(alarm.detail), since))

    # ------------------------------------------------------------ what holds now

    def status(self, steady_s: float) -> Status:
        services = {name: self._health(name, steady_s) for name in self._peers}
        task = services.get("task")
        known = task is not None and task.health in ("starting", "ready")
        return Status(
            state=_STATES[self._phase.phase] if known else "unknown",
            session=self._session.run_id,
            simulated=self._session.simulated,
            phase=self._phase.phase,
            reason=_cut(self._phase.reason),
            day=self._phase.day,
            trial=self._trial,
            outcomes={edge: self._counter("task", f"trials_{edge}") or 0 for edge in ("hit", "miss", "void")},
            services=services,
        )

    def rewards(self) -> Rewards:
        day_nl = self._counter("task", "given_today_nl")
        day_ul = None if day_nl is None else day_nl / 1000
        return Rewards(self._session.run_id, self._count, round(self._ul, 3), self._complete, day_ul)

    def alarms(self) -> Alarms:
        return Alarms(sorted((alarm for _, alarm in self._alarms.values()), key=lambda a: a.since))

    def faults(self) -> Faults:
        return Faults(sorted((fault for _, fault in self._faults.values()), key=lambda f: f.since))

    def ages(self, steady_s: float, unix_s: float) -> Ages:
        age_s = {n: None if peer is None else round(steady_s - peer.heard_s, 3) for n, peer in self._peers.items()}
        return Ages(round(unix_s, 3), age_s)

    def _health(self, name: str, steady_s: float) -> ServiceHealth:
        peer = self._peers[name]
        if peer is None:
            return ServiceHealth("absent", [])
        if peer.beat.health != "stopped" and steady_s - peer.heard_s > SILENT_S:
            return ServiceHealth("silent", [])
        return ServiceHealth(peer.beat.health, [_cut(line) for line in peer.beat.why_not_ready[:10]])

    def _counter(self, service: str, name: str) -> int | None:
        peer = self._peers.get(service)
        return None if peer is None else peer.beat.counters.get(name)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
