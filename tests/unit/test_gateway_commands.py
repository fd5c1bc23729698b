"""Commands by MQTT: whole, fresh and new, or refused with the kind of mistake and a reason. No clock, no broker."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.gateway.commands import AHEAD_S, KINDS, LIMIT_S, MAX_BYTES, REMEMBERED, Command, Commands, Refusal
from loop2p.protocol import control

NOW = 1_800_000_000.0
"""Wall time of most commands here, s since 1970."""


def payload(**fields: Any) -> bytes:
    return json.dumps({"id": "a1", "time": NOW} | fields).encode()


def judge(
    commands: Commands, kind: str = "pause", retained: bool = False, later_s: float = 0.0, **fields: Any
) -> Command | Refusal:
    return commands.judge(kind, payload(**fields), retained, NOW + later_s, 100.0 + later_s)


@pytest.fixture
def commands() -> Commands:
    """A gateway that has been up for 100 s."""
    return Commands(("short", "paper"), 0.0)


@pytest.mark.parametrize("kind", ["pause", "resume", "stop", "abort"])
def test_a_good_command_becomes_what_task_is_asked(commands: Commands, kind: str) -> None:
    assert judge(commands, kind, by="anna") == Command("a1", control.Ask(kind, "anna by MQTT"))


def test_who_does_not_say_who_he_is_is_somebody(commands: Commands) -> None:
    judged = judge(commands)
    assert isinstance(judged, Command)
    assert judged.ask.by == "somebody by MQTT"


def test_a_note_takes_its_text_along_and_task_judges_it(commands: Commands) -> None:
    for k, text in enumerate(("the mouse sleeps", "")):
        judged = judge(commands, "note", id=f"n{k}", text=text)
        assert isinstance(judged, Command)
        assert judged.ask.args == {"text": text}


def test_a_start_names_a_session_of_the_rig_file_and_no_other(commands: Commands) -> None:
    judged = judge(commands, "start", session="short")
    assert isinstance(judged, Command)
    assert judged.ask.args == {"session": "short"}
    refused = judge(commands, "start", id="a2", session="longest")
    assert refused == Refusal("a2", "session", "no session 'longest', there are short, paper")
    refused = judge(Commands((), 0.0), "start", session="short")
    assert isinstance(refused, Refusal)
    assert "sessions.NAME" in refused.reason


@pytest.mark.parametrize("kind", ["free_reward", "reward", "opto", "led", "lost", "status", "Pause", "", "x" * 200])
def test_nothing_else_can_be_asked(commands: Commands, kind: str) -> None:
    refused = judge(commands, kind)
    assert isinstance(refused, Refusal)
    assert (refused.id, refused.why) == ("a1", "unknown")
    assert "there are start, pause, resume, stop, abort, note" in refused.reason
    assert len(refused.reason) < 200


def test_no_command_moves_anything_near_the_animal() -> None:
    assert not {k for k in KINDS if "reward" in k or "opto" in k or "led" in k.lower()}


def test_a_retained_command_is_refused(commands: Commands) -> None:
    refused = judge(commands, retained=True)
    assert isinstance(refused, Refusal)
    assert (refused.id, refused.why) == ("a1", "retained")


@pytest.mark.parametrize(
    ("age_s", "why"),
    [(0.0, ""), (LIMIT_S, ""), (LIMIT_S + 0.1, "old"), (3600.0, "old"), (-AHEAD_S, ""), (-AHEAD_S - 0.1, "old")],
)
def test_only_a_fresh_command_is_taken(commands: Commands, age_s: float, why: str) -> None:
    judged = judge(commands, time=NOW - age_s)
    assert (judged.why if isinstance(judged, Refusal) else "") == why


def test_a_wrong_clock_is_named_with_the_side_it_is_on(commands: Commands) -> None:
    behind, ahead = judge(commands, time=NOW - 37.25), judge(commands, time=NOW + 37.25)
    assert isinstance(behind, Refusal)
    assert isinstance(ahead, Refusal)
    assert "37.2 s behind the gateway's clock, expected at most 10 s" in behind.reason
    assert "37.2 s ahead of the gateway's clock, expected at most 2 s" in ahead.reason
    assert "set both by NTP" in behind.reason


def test_what_was_sent_before_the_gateway_was_there_is_refused() -> None:
    """A restart forgets ids; so nothing that a predecessor may have done is done again."""
    young = Commands((), 97.0)
    refused = judge(young, time=NOW - 4)
    assert isinstance(refused, Refusal)
    assert refused.why == "old"
    assert "sent 4.0 s ago, before this gateway was there (3.0 s)" in refused.reason
    assert isinstance(judge(young, time=NOW - 2), Command)


def test_a_command_is_done_at_most_once(commands: Commands) -> None:
    assert isinstance(judge(commands), Command)
    for later_s in (0.0, 1.0, LIMIT_S):
        refused = judge(commands, later_s=later_s)
        assert isinstance(refused, Refusal)
        assert refused.why == "duplicate"
    refused = judge(commands, "resume")
    assert isinstance(refused, Refusal)
    assert refused.why == "duplicate"


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(-5, 15)), max_size=40))
def test_no_id_is_taken_twice_however_clocks_differ(events: list[tuple[float, float]]) -> None:
    """The same command comes again and again, at any time; its sender's clock is off by some seconds."""
    commands = Commands((), 0.0)
    taken: dict[float, int] = {}
    for later_s, offset_s in sorted(events):
        for sent_s in {NOW + round(offset_s), NOW}:
            judged = judge(commands, time=sent_s, id=f"at{sent_s:.0f}", later_s=later_s)
            taken[sent_s] = taken.get(sent_s, 0) + isinstance(judged, Command)
    assert all(n <= 1 for n in taken.values())


def test_memory_is_bounded_and_nothing_is_forgotten_that_could_come_again(commands: Commands) -> None:
    for k in range(REMEMBERED):
        assert isinstance(judge(commands, id=f"a{k}"), Command)
    refused = judge(commands, id="one-more")
    assert isinstance(refused, Refusal)
    assert refused.why == "flood"
    later_s = LIMIT_S + AHEAD_S + 0.1
    assert isinstance(judge(commands, id="later", time=NOW + later_s, later_s=later_s), Command)


MALFORMED = {
    "no JSON": b"pause!",
    "no object": b"[1, 2]",
    "nothing": b"",
    "no id": b'{"time": 1800000000}',
    "empty id": b'{"id": "", "time": 1800000000}',
    "id with a slash": b'{"id": "a/b", "time": 1800000000}',
    "id with a line end": b'{"id": "a\\n", "time": 1800000000}',
    "no time": b'{"id": "a1"}',
    "time as text": b'{"id": "a1", "time": "now"}',
    "unknown field": b'{"id": "a1", "time": 1800000000, "volume_ul": 4}',
    "not UTF-8": b'{"id": "\xff", "time": 1800000000}',
    "deep": b"[" * 4000,
    "big": b'{"id": "a1", "time": 1800000000, "text": "' + b"x" * MAX_BYTES + b'"}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_command_is_refused(commands: Commands, name: str) -> None:
    refused = commands.judge("pause", MALFORMED[name], False, NOW, 100.0)
    assert isinstance(refused, Refusal)
    assert refused.why == "malformed"
    assert "expected" in refused.reason.lower()
    assert len(refused.reason) < 600


def test_the_sender_of_a_malformed_command_knows_its_answer(commands: Commands) -> None:
    refused = commands.judge("pause", payload(extra=1), False, NOW, 100.0)
    assert refused.id == "a1"
    assert '"id": "a1", "time": 1800000000' in refused.reason  # type: ignore[union-attr]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.dictionaries(st.sampled_from(["id", "time", "by", "text", "session", "x"]), JSON)


@given(st.text(max_size=20), st.binary(max_size=200) | FIELDS.map(lambda d: json.dumps(d).encode()), st.booleans())
def test_whatever_comes_nothing_is_raised(kind: str, data: bytes, retained: bool) -> None:
    judged = Commands((), 0.0).judge(kind, data, retained, NOW, 100.0)
    assert isinstance(judged, Refusal) or judged.ask.kind in KINDS


@pytest.mark.parametrize("time", ["1e999", "-1e999", "1" + "0" * 400, "-0.0", "1e308"])
def test_numbers_beyond_all_clocks(commands: Commands, time: str) -> None:
    refused = commands.judge("pause", f'{{"id": "a1", "time": {time}}}'.encode(), False, NOW, 100.0)
    assert isinstance(refused, Refusal)
