"""What comes in by MQTT -> what is asked of task, or why not. Pure.

Nothing is decided here but whether a command is whole, fresh and new; what becomes of it is task's to say.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from loop2p.protocol import control

KINDS = ("start", "pause", "resume", "stop", "abort", "note")
"""Never a free reward, never the LED: what moves something near the animal is asked for at the rig."""
LIMIT_S = 10.0
"""A command older than this is refused: its sender no longer knows what it would do."""
AHEAD_S = 2.0
"""How far the sender's clock may be ahead of this machine's. Less than a restart of the gateway takes, after which ids
that were known are forgotten."""
MAX_BYTES = 8_000
REMEMBERED = 1_000
"""Ids remembered at a time. Past that commands are refused: to forget one would let it be repeated."""
MAX_REASON = 300


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a command, JSON."""

    id: Annotated[str, Meta(pattern=r"^[\w.:-]{1,64}\Z")]
    """Made by the sender, never used twice; comes back in the answer."""
    time: float
    """When it was sent, s since 1970 UTC."""
    by: Annotated[str, Meta(max_length=100)] = ""
    """Who asks, for the record: as the sender says, and nobody checks it."""
    text: Annotated[str, Meta(max_length=5_000)] = ""
    """Of a note."""
    session: Annotated[str, Meta(max_length=100)] = ""
    """Of a start: which of the sessions in the gateway's options."""


class Command(Struct, frozen=True):
    """A command to be put to task."""

    id: str
    ask: control.Ask
    """For start, `args` names the session alone: the service reads its files."""


class Refusal(Struct, frozen=True):
    """A command that goes no further."""

    id: str
    """Empty where none could be read."""
    why: str
    """The kind of mistake, for counting."""
    reason: str
    """Found, expected, what to do."""


class _OnlyId(Struct):
    id: str = ""


class Commands:
    """Judges commands; remembers the ids of those that could still be repeated."""

    def __init__(self, sessions: tuple[str, ...], steady_s: float) -> None:
        self.sessions = sessions
        """Names that a start may give."""
        self._started_s = steady_s
        self._known: dict[str, float] = {}
        """id -> when it may be forgotten, steady clock."""

    def judge(self, kind: str, payload: bytes, retained: bool, unix_s: float, steady_s: float) -> Command | Refusal:
        """`kind`: the topic's last level. `unix_s`: this machine's clock; `steady_s`: one that never steps."""
        if len(payload) > MAX_BYTES:
            return Refusal("", "malformed", f"{len(payload)} bytes, expected at most {MAX_BYTES}")
        try:
            request = msgspec.json.decode(payload, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = f'{str(error)[:MAX_REASON]}; expected such as {{"id": "a1", "time": {unix_s:.0f}}}'
            return Refusal(_id_of(payload), "malformed", reason)
        if kind not in KINDS:
            return Refusal(request.id, "unknown", f"no command {kind[:40]!r}, there are {', '.join(KINDS)}")
        if retained:
            return Refusal(request.id, "retained", "sent with the retain flag, expected without: it would come again")
        problem = self._stale(unix_s - request.time, steady_s - self._started_s)
        if problem:
            return Refusal(request.id, "old", problem)
        self._known = {k: until for k, until in self._known.items() if until > steady_s}
        if request.id in self._known:
            return Refusal(request.id, "duplicate", "this id was sent before; every command needs a new one")
        if len(self._known) >= REMEMBERED:
            return Refusal(request.id, "flood", f"{REMEMBERED} commands within {LIMIT_S + AHEAD_S:g} s, expected fewer")
        self._known[request.id] = steady_s + LIMIT_S + AHEAD_S
        if kind == "start" and request.session not in self.sessions:
            names = ", ".join(self.sessions) or "none: name them in the options, as sessions.NAME"
            return Refusal(request.id, "session", f"no session {request.session!r}, there are {names}")
        args = {"note": {"text": request.text}, "start": {"session": request.session}}.get(kind, {})
        return Command(request.id, control.Ask(kind, f"{request.by or 'somebody'} by MQTT", args))

    def _stale(self, age_s: float, up_s: float) -> str:
        if not -AHEAD_S <= age_s <= LIMIT_S:  # so that what is not a number is refused, too
            way = "ahead of" if age_s < 0 else "behind"
            limit_s = AHEAD_S if age_s < 0 else LIMIT_S
            return (
                f"its time is {abs(age_s):.1f} s {way} the gateway's clock, expected at most {limit_s:g} s: "
                "it was under way too long, or the two clocks differ (set both by NTP)"
            )
        if age_s > up_s:
            return f"sent {age_s:.1f} s ago, before this gateway was there ({up_s:.1f} s): send it again"
        return ""


def _id_of(payload: bytes) -> str:
    """The id of a command that is wrong otherwise, so that its sender knows the answer as its own."""
    try:
        return msgspec.json.decode(payload, type=_OnlyId).id[:64]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
