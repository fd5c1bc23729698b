"""What the gateway tells of a rig: messages in, payloads out. And what waits for the broker. No broker, no clock."""

import itertools
import json
from typing import Any

import msgspec
import pytest

from loop2p.gateway.core import MAX_ALARMS, RigView
from loop2p.gateway.discovery import discovery
from loop2p.gateway.outbox import EVENTS, INTERVAL_S, Outbox, Publication
from loop2p.protocol import ROLES, Alarm, Done, Envelope, Fault, Heartbeat, Message, Phase, Session, Trial, seal
from loop2p.protocol.wire import Header

WALL = 1_800_000_000.0


class Bus:
    """Numbers messages as the services would, and shows them to a view."""

    def __init__(self) -> None:
        self.view = RigView(tuple(ROLES))
        self.seq: dict[tuple[str, str], int] = {}
        self.t_s = 0.0

    def tell(self, source: str, message: Message, instance: str = "", resent: bool = False, skip: int = 0) -> Any:
        instance = instance or f"{source}-1"
        key = (instance, message.topic)
        seq = self.seq.get(key, -1) + (0 if resent and key in self.seq else 1 + skip)
        self.seq[key] = seq
        header = Header(1, source, instance, seq, 0, message.cause, resent)
        return self.view.take(Envelope(message.topic, header, None, (), message), self.t_s, WALL + self.t_s)

    def beat(self, source: str, health: str = "ready", instance: str = "", **more: Any) -> None:
        self.tell(source, Heartbeat(health=health, **more), instance)  # type: ignore[arg-type]


@pytest.fixture
def bus() -> Bus:
    return Bus()


def session(run_id: str = "monday") -> Session:
    return Session(run_id=run_id, rig="", task="", simulated=True)


def done(ul: float = 4.0, number: int = 0) -> Done:
    return Done(id=number, open_ns=0, close_ns=1, volume_ul=ul)


# ---------------------------------------------------------------- status


def test_before_anything_is_heard_nothing_is_claimed(bus: Bus) -> None:
    status = bus.view.status(0.0)
    assert status.state == "unknown"
    assert {s.health for s in status.services.values()} == {"absent"}
    assert set(status.services) == set(ROLES)


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("idle", "idle"), ("baseline", "running"), ("calibration", "running"), ("closed_loop", "running"),
        ("paused", "paused"), ("ended", "idle"),
    ],
)  # fmt: skip
def test_the_state_follows_the_phase(bus: Bus, phase: Any, state: str) -> None:
    bus.beat("task", counters={"trials_hit": 2, "trials_miss": 1})
    bus.tell("task", session())
    bus.tell("task", Phase(phase=phase, day=3, reason="why"))
    bus.tell("task", Trial(trial=7, edge="start", t_s=1.0))
    status = bus.view.status(0.5)
    assert (status.state, status.phase, status.day, status.reason) == (state, phase, 3, "why")
    assert (status.session, status.simulated, status.trial) == ("monday", True, 7)
    assert status.outcomes == {"hit": 2, "miss": 1, "void": 0}


def test_a_silent_task_makes_the_state_unknown(bus: Bus) -> None:
    bus.beat("task")
    bus.tell("task", Phase(phase="closed_loop", day=1))
    assert bus.view.status(1.0).state == "running"
    assert bus.view.status(1.1).state == "unknown"
    assert bus.view.status(1.1).services["task"].health == "silent"
    bus.beat("task", "stopped")
    assert bus.view.status(100.0).services["task"].health == "stopped"
    assert bus.view.status(100.0).state == "unknown"


def test_why_a_service_is_not_ready(bus: Bus) -> None:
    bus.beat("imaging", "starting", why_not_ready=["no microscope has connected", "x" * 5000])
    health = bus.view.status(0.0).services["imaging"]
    assert health.health == "starting"
    assert health.why[0] == "no microscope has connected"
    assert len(health.why[1]) <= 500


def test_who_is_no_service_of_this_rig_is_not_heard(bus: Bus) -> None:
    bus.beat("intruder")
    bus.tell("intruder", Alarm(code="x", active=True, detail=""))
    assert set(bus.view.status(0.0).services) == set(ROLES)
    assert bus.view.alarms().alarms == []


def test_ages_of_heartbeats(bus: Bus) -> None:
    bus.beat("task")
    bus.t_s = 2.0
    bus.beat("imaging")
    ages = bus.view.ages(2.5, WALL)
    assert ages.age_s["task"] == 2.5
    assert ages.age_s["imaging"] == 0.5
    assert ages.age_s["decoding"] is None


# ---------------------------------------------------------------- trials, rewards


def test_an_outcome_is_told_once_and_a_start_is_none(bus: Bus) -> None:
    bus.tell("task", session())
    assert bus.tell("task", Trial(trial=0, edge="start", t_s=1.0)) is None
    outcome = bus.tell("task", Trial(trial=0, edge="void", t_s=2.0, reason="paused by operator", elapsed_s=1.5))
    assert (outcome.session, outcome.trial, outcome.outcome) == ("monday", 0, "void")
    assert outcome.reason == "paused by operator"
    again = Envelope("task.trial", Header(1, "task", "task-1", 1, 0), None, (), Trial(trial=0, edge="void", t_s=2.0))
    assert bus.view.take(again, 0.0, WALL) is None


def test_rewards_are_counted_by_session(bus: Bus) -> None:
    bus.beat("actuation")
    bus.tell("task", session())
    for ul in (4.0, 0.0, 2.5):  # 0 ul opens nothing
        bus.tell("actuation", done(ul))
    rewards = bus.view.rewards()
    assert (rewards.session, rewards.count, rewards.ul, rewards.complete) == ("monday", 2, 6.5, True)
    bus.tell("task", session("tuesday"))
    assert (bus.view.rewards().count, bus.view.rewards().ul) == (0, 0.0)


def test_a_gateway_that_came_late_says_that_its_count_is_not_whole(bus: Bus) -> None:
    bus.beat("actuation", published={"actuation.done": 3})
    bus.tell("task", session(), resent=True)
    bus.tell("actuation", done(), skip=3)
    assert bus.view.rewards().complete is False


def test_one_that_came_between_two_sessions_counts_the_second_whole(bus: Bus) -> None:
    bus.tell("task", session(), resent=True)
    bus.beat("actuation", published={"actuation.done": 3})
    bus.tell("task", session("tuesday"))
    bus.tell("actuation", done(), skip=3)
    bus.beat("actuation", published={"actuation.done": 4})
    assert bus.view.rewards().count == 1
    assert bus.view.rewards().complete is True


@pytest.mark.parametrize("how", ["between two", "the last", "of a successor", "before actuation was heard"])
def test_a_missed_reward_is_told(bus: Bus, how: str) -> None:
    if how != "before actuation was heard":
        bus.beat("actuation")
    bus.tell("task", session())
    bus.tell("actuation", done())
    assert bus.view.rewards().complete is (how != "before actuation was heard")
    if how == "between two":
        bus.tell("actuation", done(), skip=1)
    elif how == "the last":
        bus.beat("actuation", published={"actuation.done": 2})
    elif how == "of a successor":
        bus.beat("actuation", instance="actuation-2", published={"actuation.done": 1})
    assert bus.view.rewards().complete is False


def test_a_successor_of_actuation_goes_on_counting(bus: Bus) -> None:
    bus.beat("actuation")
    bus.tell("task", session())
    bus.tell("actuation", done())
    bus.tell("actuation", done(), "actuation-2")
    bus.beat("actuation", instance="actuation-2", published={"actuation.done": 1})
    assert bus.view.rewards().count == 2
    assert bus.view.rewards().complete is True


def test_the_volume_of_the_day_is_tasks_or_not_known(bus: Bus) -> None:
    bus.beat("task")
    assert bus.view.rewards().day_ul is None
    bus.beat("task", counters={"given_today_nl": 12_500})
    assert bus.view.rewards().day_ul == 12.5


# ---------------------------------------------------------------- alarms, faults


def test_an_alarm_stands_while_it_lasts(bus: Bus) -> None:
    bus.tell("imaging", Alarm(code="microscope", active=True, detail="gone"))
    bus.t_s = 5.0
    bus.tell("stimulus", Alarm(code="no-display", active=True, detail="no window"))
    bus.tell("imaging", Alarm(code="microscope", active=True, detail="still gone"))
    alarms = bus.view.alarms().alarms
    assert [(a.service, a.code, a.detail, a.since) for a in alarms] == [
        ("imaging", "microscope", "still gone", WALL),
        ("stimulus", "no-display", "no window", WALL + 5),
    ]
    bus.tell("imaging", Alarm(code="microscope", active=False, detail=""))
    assert [a.service for a in bus.view.alarms().alarms] == ["stimulus"]


def test_a_predecessors_alarms_are_over_when_its_successor_is_heard(bus: Bus) -> None:
    bus.beat("imaging")
    bus.tell("imaging", Alarm(code="microscope", active=True, detail="gone"))
    bus.beat("imaging")
    assert len(bus.view.alarms().alarms) == 1
    bus.beat("imaging", "starting", instance="imaging-2")
    assert bus.view.alarms().alarms == []


def test_a_flood_of_alarms_is_bounded(bus: Bus) -> None:
    for k in range(3 * MAX_ALARMS):
        bus.tell("imaging", Alarm(code=f"c{k}" + "x" * 900, active=True, detail="y" * 10_000))
    for k in range(3):
        bus.tell("imaging", Alarm(code=f"c{k}", active=False, detail=""))
    alarms = bus.view.alarms().alarms
    assert len(alarms) == MAX_ALARMS
    assert len(msgspec.json.encode(bus.view.alarms())) < 150_000


def test_a_fault_stands_until_a_successor_is_ready(bus: Bus) -> None:
    bus.beat("decoding")
    bus.tell("decoding", Fault(service="decoding", error="ArithmeticError", detail="frame 7: nan", traceback="secret"))
    bus.beat("decoding", "stopped")
    assert [(f.service, f.error, f.detail) for f in bus.view.faults().faults] == [
        ("decoding", "ArithmeticError", "frame 7: nan")
    ]
    assert b"secret" not in msgspec.json.encode(bus.view.faults())
    bus.beat("decoding", "starting", instance="decoding-2")
    assert len(bus.view.faults().faults) == 1
    bus.beat("decoding", "ready", instance="decoding-2")
    assert bus.view.faults().faults == []


def test_values_that_are_no_numbers_are_still_json(bus: Bus) -> None:
    bus.tell("task", session())
    outcome = bus.tell("task", Trial(trial=0, edge="hit", t_s=float("nan"), elapsed_s=float("inf")))
    assert json.loads(msgspec.json.encode(outcome))["t_s"] is None


def test_real_envelopes_are_taken(bus: Bus) -> None:
    envelope = seal(Phase(phase="paused", day=2), "task", "task-1", 0, 0)
    bus.beat("task")
    bus.view.take(envelope, 0.0, WALL)
    assert bus.view.status(0.0).state == "paused"


# ---------------------------------------------------------------- what waits for the broker


def held(payload: bytes, topic: str = "status") -> Publication:
    return Publication(topic, payload)


def event(k: int) -> Publication:
    return Publication("trial", b"%d" % k, retain=False)


def drain(outbox: Outbox, t_s: float) -> list[Publication]:
    out = []
    while (due := outbox.due(t_s)) is not None:
        outbox.done(due, t_s)
        out.append(due)
    return out


def test_of_what_holds_the_newest_alone_is_sent_and_once() -> None:
    outbox = Outbox()
    for k in range(1000):
        outbox.hold(held(b"%d" % k))
    assert [p.payload for p in drain(outbox, 0.0)] == [b"999"]
    outbox.hold(held(b"999"))
    assert drain(outbox, 100.0) == []


def test_a_topic_is_published_once_a_second_at_most() -> None:
    outbox = Outbox()
    sent_s = []
    for tick in range(100):
        t_s = tick / 10
        outbox.hold(held(b"%d" % tick))
        sent_s += [t_s for _ in drain(outbox, t_s)]
    assert len(sent_s) == 10
    assert min(b - a for a, b in itertools.pairwise(sent_s)) >= INTERVAL_S


def test_what_was_not_confirmed_is_sent_again() -> None:
    outbox = Outbox()
    outbox.hold(held(b"a"))
    outbox.add(event(1))
    first = outbox.due(0.0)
    assert first == outbox.due(5.0) == held(b"a")
    outbox.done(held(b"a"), 5.0)
    assert outbox.due(5.0) == outbox.due(6.0) == event(1)


def test_a_newer_value_that_came_while_the_older_was_under_way_is_sent_too() -> None:
    outbox = Outbox()
    outbox.hold(held(b"a"))
    under_way = outbox.due(0.0)
    outbox.hold(held(b"b"))
    assert under_way is not None
    outbox.done(under_way, 0.0)
    assert outbox.due(0.5) is None
    assert outbox.due(1.0) == held(b"b")


def test_a_new_connection_hears_all_that_holds() -> None:
    outbox = Outbox()
    outbox.hold(held(b"a"))
    outbox.hold(held(b"b", "alarms"))
    assert len(drain(outbox, 0.0)) == 2
    outbox.again()
    assert [p.payload for p in drain(outbox, 0.1)] == [b"a", b"b"]


def test_events_are_bounded_the_oldest_give_way_and_are_counted() -> None:
    outbox = Outbox()
    for k in range(EVENTS + 30):
        outbox.add(event(k))
    assert outbox.lost == 30
    assert len(outbox) == EVENTS
    assert [p.payload for p in drain(outbox, 0.0)] == [b"%d" % k for k in range(30, EVENTS + 30)]


def test_an_event_that_gave_way_while_it_was_under_way_takes_no_other_with_it() -> None:
    outbox = Outbox()
    for k in range(EVENTS):
        outbox.add(event(k))
    under_way = outbox.due(0.0)
    outbox.add(event(EVENTS))
    assert under_way is not None
    outbox.done(under_way, 0.0)
    assert outbox.due(1.0) == event(1)


# ---------------------------------------------------------------- discovery


def test_discovery_names_topics_and_fields_that_exist(bus: Bus) -> None:
    """Each template's path leads to something in the payload that is published there."""
    bodies = {
        "status": bus.view.status(0.0), "rewards": bus.view.rewards(), "alarms": bus.view.alarms(),
        "faults": bus.view.faults(),
    }  # fmt: skip
    told = discovery("homeassistant", "my.rig", "loop2p/my.rig", "1.2")
    assert len({p.topic for p in told}) == len(told) == 8
    for publication in told:
        prefix, component, node, key, last = publication.topic.split("/")
        assert (prefix, node, last) == ("homeassistant", "loop2p_my_rig", "config")
        assert publication.retain
        config = json.loads(publication.payload)
        assert config["unique_id"] == f"loop2p_my_rig_{key}"
        assert config["availability_topic"] == "loop2p/my.rig/online"
        name = config["state_topic"].removeprefix("loop2p/my.rig/")
        body = json.loads(msgspec.json.encode(bodies[name]))
        path = config["value_template"].split("value_json.")[1].split()[0].split(".")
        for part in path:
            body = body[part]
        assert component in ("sensor", "binary_sensor"), "nothing that can be pressed"
        assert "command_topic" not in config
