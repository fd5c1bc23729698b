"""Commands to the actuator: numbered, repeated until answered, dead after 250 ms."""

from hypothesis import given
from hypothesis import strategies as st

from loop2p.protocol import Cause
from loop2p.task.commands import Commander

MS = 1_000_000
CAUSE = Cause(frame=7, plane=0, time_s=0.4, arrival_ns=99)


def test_a_command_carries_id_target_expiry_and_the_frame_that_caused_it():
    commander = Commander(next_id=41)
    first = commander.reward(1000, "actuation-1", 4.0, 3, CAUSE)
    assert (first.id, first.target, first.expires_ns) == (41, "actuation-1", 1000 + 250 * MS)
    assert (first.volume_ul, first.trial, first.cause) == (4.0, 3, CAUSE)
    second = commander.opto(1000, "actuation-1", True, 6.0, None)
    assert (second.id, second.armed, second.pulse_ms) == (42, True, 6.0)


def test_it_is_repeated_unchanged_every_20_ms_until_it_is_answered():
    commander = Commander(1)
    command = commander.reward(0, "a", 4.0, 0, CAUSE)
    assert commander.tick(19 * MS) == ([], [])
    assert commander.tick(20 * MS) == ([command], [])
    assert commander.tick(39 * MS) == ([], [])
    assert commander.tick(40 * MS) == ([command], [])
    assert commander.answered(command.id) is command
    assert commander.tick(60 * MS) == ([], [])
    assert commander.answered(command.id) is None


def test_unanswered_it_is_given_up_after_its_expiry_and_said_once():
    commander = Commander(1)
    command = commander.reward(0, "a", 4.0, 0, CAUSE)
    assert commander.tick(250 * MS) == ([command], [])
    assert commander.tick(250 * MS + 1) == ([], [command])
    assert commander.tick(300 * MS) == ([], [])
    assert commander.answered(command.id) is None  # an answer that comes too late changes nothing


@given(st.lists(st.sampled_from(["reward", "opto", "answer", "tick"]), max_size=60))
def test_ids_rise_whatever_happens(steps: list[str]):
    commander, ids, now_ns = Commander(100), [], 0
    for step in steps:
        now_ns += 7 * MS
        if step == "reward":
            ids.append(commander.reward(now_ns, "a", 0.0, -1, None).id)
        elif step == "opto":
            ids.append(commander.opto(now_ns, "a", False, 0.0, None).id)
        elif step == "answer" and ids:
            commander.answered(ids[-1])
        else:
            again, expired = commander.tick(now_ns)
            assert all(now_ns <= c.expires_ns for c in again)
            assert all(now_ns > c.expires_ns for c in expired)
    assert ids == list(range(100, 100 + len(ids)))
