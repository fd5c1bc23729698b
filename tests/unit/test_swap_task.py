"""What task makes of a wish to swap: refused with its reason, done between trials, taken back on a loss."""

import math

import pytest
from msgspec import structs
from rigs import toy_rig

from loop2p.protocol import Calibration, Clock, Endpoints, Heartbeat, Message, RigFile, parse_rig, seal
from loop2p.task.swap import SwapError, Swaps, first_frame
from loop2p.task.trials import TrialParams, Trials, Value

S = 1_000_000_000
AT = {"publish": "tcp://127.0.0.1:9001", "bulk": "tcp://127.0.0.1:9002", "control": "tcp://127.0.0.1:9003"}


@pytest.fixture
def rig() -> RigFile:
    return toy_rig(list(range(7001, 7025)), "runs")


class Desk:
    """Swaps, and a newcomer whose messages are made by hand."""

    def __init__(self, rig: RigFile) -> None:
        self.rig, self.swaps, self.now_ns = rig, Swaps(rig), 100 * S

    def ask(self, stage: str, service: str = "decoding", run_id: str = "one", **more: str) -> list[Message]:
        return [*self.swaps.ask({"service": service, "stage": stage, **more}, "test", run_id, self.now_ns)]

    def hear(self, message: Message, instance: str = "decoding-new") -> None:
        self.swaps.hear(seal(message, "decoding", instance, 0, 0), self.now_ns)

    def newcomer(self, **beat: object) -> None:
        self.ask("shadow", **AT)
        fields = {"health": "ready", "rig_hash": self.rig.hash, "run_id": "one"} | beat
        self.hear(Heartbeat(**fields))  # type: ignore[arg-type]
        self.hear(Clock(offset_ns=0, bound_ns=1000, round_trip_ns=2000))


@pytest.fixture
def desk(rig: RigFile) -> Desk:
    return Desk(rig)


def test_a_newcomer_is_named_and_does_not_act(desk: Desk) -> None:
    (swap,) = desk.ask("shadow", **AT)
    assert (swap.stage, swap.shadow, swap.acting.publish) == ("shadow", Endpoints(**AT), "tcp://127.0.0.1:7005")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"service": "nothing"}, "no service 'nothing', expected one of imaging, decoding"),
        ({"service": "task"}, "task keeps the rig's state or clock"),
        ({"publish": "here"}, "found 'here', expected an endpoint"),
        ({"publish": "tcp://192.168.1.7:9001"}, "can be reached from other machines"),
        ({"publish": "tcp://127.0.0.1:7005"}, "is a service's already"),
        ({"stage": "dance"}, "unknown stage 'dance', expected one of shadow, act, back"),
        ({"stage": "act"}, "nobody stands by for decoding"),
        ({"stage": "back"}, "nobody stands by for decoding"),
    ],
)
def test_what_can_not_be_is_refused_with_its_reason(desk: Desk, args: dict[str, str], why: str) -> None:
    with pytest.raises(SwapError, match=why):
        desk.ask(**{"stage": "shadow", **AT, **args})


@pytest.mark.parametrize(
    ("beat", "why"),
    [
        ({"protocol": 2}, "protocol 2, expected 1"),
        ({"rig_hash": "other"}, "rig file other, expected"),
        ({"run_id": "yesterday"}, "prepared for run yesterday, expected one"),
        ({"health": "starting", "why_not_ready": ["no selection yet"]}, "no selection yet"),
        ({"health": "stopping"}, "is leaving"),
    ],
)
def test_a_newcomer_that_is_not_right_does_not_act(desk: Desk, beat: dict[str, object], why: str) -> None:
    desk.newcomer(**beat)
    with pytest.raises(SwapError, match=why):
        desk.ask("act")


def test_one_that_was_never_heard_or_fell_silent_does_not_act(desk: Desk) -> None:
    desk.ask("shadow", **AT)
    with pytest.raises(SwapError, match="no heartbeat so far"):
        desk.ask("act")
    desk.ask("leave", publish=AT["publish"])
    desk.newcomer()
    desk.now_ns += 2 * S
    with pytest.raises(SwapError, match=r"last heartbeat 2\.0 s ago"):
        desk.ask("act")


def test_of_an_external_newcomer_less_is_asked(desk: Desk) -> None:
    desk.ask("shadow", external="yes", **AT)
    desk.hear(Heartbeat(health="ready", rig_hash=desk.rig.hash))
    desk.ask("act")
    assert desk.swaps.wishes["decoding"].stage == "act"
    desk.swaps.exchange("decoding", 10, "test", "")
    assert desk.swaps.is_external("decoding")
    desk.swaps.exchange("decoding", 20, "test", "")
    assert not desk.swaps.is_external("decoding")


def test_two_do_not_stand_by_for_one(desk: Desk) -> None:
    desk.ask("shadow", **AT)
    with pytest.raises(SwapError, match="stands by for decoding already"):
        desk.ask("shadow", **AT)


def test_there_and_back_and_away(desk: Desk) -> None:
    desk.newcomer()
    home = desk.swaps.acting("decoding")
    assert desk.ask("act") == []
    there = desk.swaps.exchange("decoding", 10, "test", "why")
    assert (there.stage, there.acting, there.shadow, there.from_frame) == ("acting", Endpoints(**AT), home, 10)
    with pytest.raises(SwapError, match="acts already"):
        desk.ask("act")
    desk.hear(Heartbeat(health="ready", rig_hash=desk.rig.hash, run_id="one"), "decoding-old")
    desk.hear(Clock(offset_ns=0, bound_ns=0, round_trip_ns=0), "decoding-old")
    assert desk.ask("back") == []
    back = desk.swaps.exchange("decoding", 20, "test", "why")
    assert (back.stage, back.acting, back.shadow) == ("shadow", home, Endpoints(**AT))
    (gone,) = desk.ask("leave", publish=AT["publish"])
    assert (gone.stage, gone.acting, gone.shadow) == ("none", home, None)
    assert not desk.swaps.pairs


def test_when_the_newcomer_leaves_that_acts_alone_the_rig_files_endpoints_count_again(desk: Desk) -> None:
    desk.newcomer()
    home = desk.swaps.acting("decoding")
    desk.swaps.exchange("decoding", 10, "test", "")
    (alone,) = desk.ask("leave", publish=home.publish)
    assert (alone.stage, alone.acting, alone.shadow) == ("none", Endpoints(**AT), None)
    (nobody,) = desk.ask("leave", publish=AT["publish"])
    assert (nobody.stage, nobody.acting) == ("none", home)


def test_a_newcomer_that_leaves_while_the_old_one_stands_by_gives_its_place_back(desk: Desk) -> None:
    desk.newcomer()
    home = desk.swaps.acting("decoding")
    desk.swaps.exchange("decoding", 10, "test", "")
    exchange, gone = desk.ask("leave", publish=AT["publish"])
    assert (exchange.acting, gone.acting, gone.shadow) == (home, home, None)


def test_the_predecessor_relieves_the_newcomer_while_it_is_heard(desk: Desk) -> None:
    desk.newcomer()
    assert not desk.swaps.relieves("decoding", desk.now_ns)  # the old one acts
    desk.swaps.exchange("decoding", 10, "test", "")
    desk.swaps.pairs["decoding"].heard = None
    assert not desk.swaps.relieves("decoding", desk.now_ns)
    desk.hear(Heartbeat(health="ready"), "decoding-old")
    assert desk.swaps.relieves("decoding", desk.now_ns)
    assert not desk.swaps.relieves("decoding", desk.now_ns + 2 * S)


def test_a_rig_with_keys_takes_an_endpoint_on_the_network(rig: RigFile) -> None:
    text = rig.text.replace("[data]", '[security]\nkeys = "keys"\n[data]', 1)
    desk = Desk(structs.replace(parse_rig(text, "toy.toml")))
    (swap,) = desk.ask("shadow", **{k: v.replace("127.0.0.1", "192.168.1.7") for k, v in AT.items()})
    assert swap.shadow is not None


# ---------------------------------------------------------------- the boundary


def test_trials_rest_in_black_and_before_the_first_one_alone() -> None:
    flat = Calibration(
        minimum=0, threshold=1, mu=0, sigma=1, z_star=1, seed=0, first_frame=0, last_frame=0, n_values=0
    )  # fmt: skip
    trials = Trials(TrialParams(loop_s=2, timeout_s=3), flat)
    assert trials.rests_until_s == 0.0
    seen = {}
    for k in range(80):
        trials.step(Value(k / 10, 0.1))
        seen[k / 10] = (trials.state, trials.rests_until_s)
    assert {state for state, until in seen.values() if until is None} == {"grey", "loop"}
    start_s = min(t for t, (state, _) in seen.items() if state == "black")
    until_s = [until for state, until in seen.values() if state == "black"]
    assert until_s == pytest.approx([start_s + 3] * len(until_s))


def test_the_exchange_is_ahead_but_before_the_next_trial() -> None:
    assert first_frame(100, 3.0, 30.92) == 101 + int(0.25 * 30.92)
    assert first_frame(100, 0.1, 30.92) == 101 + 3
    assert first_frame(100, 0.0, 30.92) == first_frame(100, -1.0, 30.92) == 101
    assert first_frame(-1, 0.0, 30.92) == 0
    assert first_frame(100, math.inf, 30.92) == first_frame(100, 3.0, 30.92)
