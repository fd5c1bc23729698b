"""What companions hand in to be recorded: samples of other programs' streams, and how those streams stand. Pure.

By two requests on recording's control socket (`control.Ask`, `by` the companion's name in the rig file):

    external   args.id       new for each message; the same again is answered and not written twice
               args.message  a recording.external message, JSON (arrays are base64, as msgspec has it)
    streams    args.streams  every second: JSON, stream -> {"why": why it is not there or "", "required": bool}
"""

import re

import msgspec
from msgspec import Struct

from loop2p.protocol import Alarm, External, control
from loop2p.protocol.arrays import broken_array

KINDS = ("external", "streams")
SILENT_NS = 3_000_000_000
"""A companion that was not heard for so long is away: three of its reports are missing."""
MOST = 100
"""Companions, and streams of each: a flood of made-up names must not fill memory."""
MOST_CHANNELS = 4096
NAME = re.compile(r"\w[\w.-]{0,63}\Z")
MAX_TEXT = 500


class StreamState(Struct, frozen=True):
    """How a stream stands."""

    why: str = ""
    """Why it is not there; empty: it is."""
    required: bool = True
    """No session starts without it."""


class _Giver(Struct):
    heard_ns: int
    streams: dict[str, StreamState] = {}
    last: dict[str, str] = {}
    """Stream -> id of what was taken last."""


_message = msgspec.json.Decoder(External).decode
_streams = msgspec.json.Decoder(dict[str, StreamState]).decode


class Intake:
    """Judges what is handed in. Nothing in a request can make it raise. Times are rig clock, ns."""

    def __init__(self, expected: tuple[str, ...], now_ns: int) -> None:
        """`expected`: companions without which no session starts."""
        self.expected = expected
        self.taken = self.refused = 0
        self._begun_ns = now_ns
        self._givers: dict[str, _Giver] = {}
        self._alarms: dict[str, str] = {}
        """Code -> what is wrong, as told."""

    def judge(self, ask: control.Ask, now_ns: int) -> External | str | None:
        """The message to be written; a text: refused, and why; None: nothing is to be done."""
        giver = self._giver(ask.by, now_ns)
        found = self._judge(ask, giver) if isinstance(giver, _Giver) else giver
        self.refused += isinstance(found, str)
        return found

    def took(self, ask: control.Ask, message: External) -> None:
        """The message of this request is written."""
        self.taken += 1
        self._givers[ask.by].last[message.stream] = ask.args["id"]

    def counters(self) -> dict[str, int]:
        return {"external_taken": self.taken, "external_refused": self.refused} if self._givers else {}

    def alarms(self, now_ns: int) -> list[Alarm]:
        """What has begun or ended since the last call."""
        wrong = {f"stream-{name}": why for name, (why, _) in self._states(now_ns).items() if why}
        told = [Alarm(code=code, active=True, detail=why) for code, why in wrong.items() if code not in self._alarms]
        told += [
            Alarm(code=code, active=False, detail=f"{code.removeprefix('stream-')} is there again")
            for code in self._alarms
            if code not in wrong
        ]
        self._alarms = wrong
        return told

    def why_not_ready(self, now_ns: int) -> list[str]:
        """Streams without which no session starts, a line each."""
        return [why for why, required in self._states(now_ns).values() if why and required]

    def _states(self, now_ns: int) -> dict[str, tuple[str, bool]]:
        """Companion or stream -> (what is wrong, is it required)."""
        states: dict[str, tuple[str, bool]] = {}
        for name in self.expected:
            if name not in self._givers and now_ns - self._begun_ns > SILENT_NS:
                states[name] = f"companion {name} was never heard; start it with `loop2p serve {name} RIG`", True
        for name, giver in self._givers.items():
            away_s = (now_ns - giver.heard_ns) / 1e9
            if now_ns - giver.heard_ns > SILENT_NS:
                required = name in self.expected or any(s.required for s in giver.streams.values())
                why = f"companion {name} was last heard {away_s:.0f} s ago; see its log, start it again"
                states[name] = why, required
            else:
                states |= {stream: (state.why, state.required) for stream, state in giver.streams.items()}
        return states

    def _giver(self, name: str, now_ns: int) -> _Giver | str:
        if not NAME.match(name):
            return f"by {name[:40]!r}: expected the companion's name in the rig file"
        known = self._givers.get(name)
        if known is None:
            if len(self._givers) >= MOST:
                return f"{MOST} companions have handed in already, expected no more"
            known = self._givers[name] = _Giver(now_ns)
        known.heard_ns = now_ns
        return known

    def _judge(self, ask: control.Ask, giver: _Giver) -> External | str | None:
        try:
            if ask.kind == "streams":
                return self._take_streams(giver, _streams(ask.args.get("streams", "")))
            message = _message(ask.args.get("message", ""))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return f"{ask.kind}: {str(error)[:MAX_TEXT]}; expected JSON as in recording's README"
        if problem := problem_of(message):
            return f"{message.stream[:40]}: {problem}"
        if not ask.args.get("id"):
            return f"{message.stream}: no id, expected a new one for each message"
        if message.stream not in giver.last and len(giver.last) >= MOST:
            return f"{message.stream}: stream number {MOST + 1} of this companion, expected at most {MOST}"
        return None if giver.last.get(message.stream) == ask.args["id"] else message

    @staticmethod
    def _take_streams(giver: _Giver, streams: dict[str, StreamState]) -> str | None:
        wrong = [name for name in streams if not NAME.match(name)]
        if wrong or len(streams) > MOST:
            return f"streams: found {len(streams)}, {wrong[:3]}; expected at most {MOST}, names of letters, digits, ._-"
        giver.streams = {n: StreamState(s.why[:MAX_TEXT], s.required) for n, s in streams.items()}
        return None


def problem_of(message: External) -> str:
    """What does not fit together in a message; empty if all does."""
    if not NAME.match(message.stream):
        return "expected a stream's name of letters, digits, ._-, 64 at most"
    if broken := broken_array(message):
        return broken
    n, n_channels = len(message.t_ns) // 8, len(message.channels)
    if n and not 0 < n_channels <= MOST_CHANNELS:
        return f"{n_channels} channels, expected 1 to {MOST_CHANNELS}"
    if len(message.units) not in (0, n_channels):
        return f"{len(message.units)} units for {n_channels} channels, expected one each, or none"
    found = len(message.values) // 8 + len(message.texts)
    if found != n * n_channels or (message.values and message.texts):
        return f"{found} values for {n} samples of {n_channels} channels, expected {n * n_channels} in values or texts"
    if message.cause is not None or message.buffers:
        return "has a cause or buffers, expected neither"
    return ""
