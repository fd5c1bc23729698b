"""The start barrier and the watch: what is missing, what was lost, what is back."""

from typing import Any

import pytest
from rigs import rig_text

from loop2p.protocol import ROLES, Clock, Heartbeat, parse_rig
from loop2p.task.barrier import Peer, missing, split_overridden
from loop2p.task.watch import Change, Watch

MS = 1_000_000
NAMES = ["imaging", "decoding", "stimulus", "actuation", "recording"]
RIG = parse_rig(rig_text(list(range(5500, 5600)), "runs")).rig
EXTERNAL = parse_rig(rig_text(list(range(5500, 5600)), "runs", external=("imaging",))).rig


def beat(**fields: Any) -> Heartbeat:
    return Heartbeat(**({"health": "ready", "rig_hash": "abc", "run_id": "run"} | fields))


def everybody(**changed: Peer | None) -> dict[str, Peer]:
    peers = {name: Peer(f"{name}-1", beat(), 0, 100_000) for name in ROLES if name != "task"}
    return {name: peer for name, peer in (peers | changed).items() if peer is not None}


def codes(peers: dict[str, Peer], now_ns: int = 0, free_gb: float = 9.0, rig: Any = RIG) -> list[str]:
    return [r.code for r in missing(rig, "abc", "run", peers, now_ns, free_gb, NAMES)]


def test_nothing_is_missing_where_everything_is_right():
    assert codes(everybody()) == []


@pytest.mark.parametrize(
    ("peer", "code", "words"),
    [
        (None, "imaging.absent", "imaging on local: no heartbeat so far"),
        (Peer("i", beat(), -1_100 * MS, 0), "imaging.absent", "last heartbeat 1.1 s ago"),
        (Peer("i", beat(protocol=7), 0, 0), "imaging.protocol", "protocol 7, expected 1: install the same version"),
        (Peer("i", beat(rig_hash="xyz"), 0, 0), "imaging.rig-hash", "rig file xyz, expected abc: copy the rig file"),
        (Peer("i", beat(), 0, None), "imaging.clock", "not known yet, expected +-1 ms"),
        (Peer("i", beat(), 0, 1_500_000), "imaging.clock", "known to +-1.50 ms"),
        (Peer("i", beat(why_not_ready=["no ROI set"]), 0, 0), "imaging.not-ready", "imaging on local: no ROI set"),
        (Peer("i", beat(health="starting"), 0, 0), "imaging.not-ready", "health 'starting', expected 'ready'"),
        (Peer("i", beat(run_id="old"), 0, 0), "imaging.other-run", "prepared for run old, expected run"),
    ],
)
def test_each_lack_is_a_line_with_machine_found_expected_and_what_to_do(peer: Peer | None, code: str, words: str):
    reasons = missing(RIG, "abc", "run", everybody(imaging=peer), 0, 9.0, NAMES)
    assert [r.code for r in reasons] == [code]
    assert words in reasons[0].text


def test_disk_space_is_asked_for():
    assert codes(everybody(), free_gb=0.0005) == ["task.disk"]


def test_every_line_of_every_service_is_told():
    peers = everybody(actuation=Peer("a", beat(why_not_ready=["one", "two"]), 0, 0), stimulus=None)
    assert codes(peers) == ["stimulus.absent", "actuation.not-ready", "actuation.not-ready"]


def test_of_an_external_peer_only_heartbeat_protocol_and_rig_hash_are_expected():
    bare = Peer("matlab", Heartbeat(health="ready", rig_hash="abc"), 0, None)
    assert codes(everybody(imaging=bare), rig=EXTERNAL) == []
    assert codes(everybody(imaging=Peer("matlab", beat(rig_hash=""), 0, None)), rig=EXTERNAL) == ["imaging.rig-hash"]
    assert codes(everybody(imaging=None), rig=EXTERNAL) == ["imaging.absent"]


def test_an_override_waives_its_code_but_never_an_absent_service():
    reasons = missing(RIG, "abc", "run", everybody(imaging=None, decoding=Peer("d", beat(), 0)), 0, 0.0, NAMES)
    stand, waived = split_overridden(reasons, ["decoding.clock", "imaging.absent", "task.disk"])
    assert [r.code for r in waived] == ["task.disk", "decoding.clock"]
    assert [r.code for r in stand] == ["imaging.absent"]


# ---------------------------------------------------------------- the watch


def watch(external: tuple[str, ...] = ()) -> Watch:
    subject = Watch(NAMES, external)
    hear(subject, 0)
    subject.begin()
    return subject


def hear(subject: Watch, now_ns: int, but: str = "") -> None:
    for name in NAMES:
        if name != but:
            subject.heard(name, f"{name}-1", beat(), now_ns)


def recorded(subject: Watch, instance: str, now_ns: int) -> None:
    """Recording says that it writes this instance down."""
    subject.heard("recording", "recording-1", beat(flushed={instance: {"rig.heartbeat": 0}}), now_ns)


def test_half_a_second_of_silence_is_a_loss_told_once():
    subject = watch()
    hear(subject, 400 * MS, but="decoding")
    assert subject.check(500 * MS, "run") == []
    assert subject.check(501 * MS, "run") == [Change("decoding", back=False, waited_s=0.501)]
    assert subject.check(520 * MS, "run") == []
    assert subject.lost == {"decoding"}


def test_recording_has_a_second():
    subject = watch()
    hear(subject, 900 * MS, but="recording")
    assert subject.check(1000 * MS, "run") == []
    assert [c.name for c in subject.check(1001 * MS, "run")] == ["recording"]


def test_a_successor_is_back_when_it_is_ready_for_this_run():
    subject = watch()
    subject.heard("decoding", "decoding-2", beat(run_id="", why_not_ready=["no selection"]), 100 * MS)
    assert subject.check(110 * MS, "run") == [Change("decoding", back=False, waited_s=0.01)]
    subject.heard("decoding", "decoding-2", beat(run_id=""), 150 * MS)
    assert subject.check(160 * MS, "run") == []
    subject.heard("decoding", "decoding-2", beat(), 200 * MS)
    assert subject.check(210 * MS, "run") == []  # what it publishes is not on the record yet
    recorded(subject, "decoding-2", 220 * MS)
    assert subject.check(230 * MS, "run") == [Change("decoding", back=True, successor=True)]
    assert subject.lost == frozenset()


def test_an_external_recording_need_not_say_what_it_writes():
    subject = watch(external=("recording",))
    subject.mark_lost("decoding", 100 * MS)
    subject.check(110 * MS, "run")
    subject.heard("decoding", "decoding-2", beat(), 200 * MS)
    assert subject.check(210 * MS, "run") == [Change("decoding", back=True, successor=True)]


def test_the_same_instance_after_a_silence_is_back_but_no_successor():
    subject = watch()
    hear(subject, 400 * MS, but="stimulus")
    subject.check(600 * MS, "run")
    hear(subject, 650 * MS)
    assert subject.check(660 * MS, "run") == [Change("stimulus", back=True, successor=False)]


def test_a_service_that_says_it_stops_is_lost_at_once():
    subject = watch()
    subject.heard("imaging", "imaging-1", beat(health="stopped"), 50 * MS)
    assert [c.name for c in subject.check(60 * MS, "run")] == ["imaging"]


def test_one_that_is_known_to_be_dead_is_not_back_by_an_old_heartbeat():
    subject = watch()
    subject.mark_lost("actuation", 100 * MS)
    assert subject.check(110 * MS, "run") == [Change("actuation", back=False, waited_s=0.11)]
    assert subject.check(120 * MS, "run") == []
    subject.heard("actuation", "actuation-2", beat(), 200 * MS)
    recorded(subject, "actuation-2", 205 * MS)
    assert subject.check(210 * MS, "run") == [Change("actuation", back=True, successor=True)]


def test_an_external_peer_is_back_with_its_bare_heartbeat():
    subject = watch(external=("imaging",))
    hear(subject, 600 * MS, but="imaging")
    subject.check(600 * MS, "run")
    subject.heard("imaging", "imaging-2", Heartbeat(health="ready"), 650 * MS)
    recorded(subject, "imaging-2", 655 * MS)
    assert subject.check(660 * MS, "run") == [Change("imaging", back=True, successor=True)]


def test_a_clock_belongs_to_its_instance():
    subject = watch()
    clock = Clock(offset_ns=5, bound_ns=70_000, round_trip_ns=140_000)
    subject.clock("imaging", "imaging-1", clock)
    assert subject.peers["imaging"].bound_ns == 70_000
    hear(subject, 10 * MS)
    assert subject.peers["imaging"].bound_ns == 70_000
    subject.heard("imaging", "imaging-2", beat(), 20 * MS)
    assert subject.peers["imaging"].bound_ns is None
    subject.clock("imaging", "imaging-1", clock)
    assert subject.peers["imaging"].bound_ns is None


def test_before_it_begins_nothing_is_lost():
    subject = Watch(NAMES)
    assert subject.check(10**12, "run") == []
