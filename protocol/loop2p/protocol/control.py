"""Requests and answers on a service's control socket (ROUTER; a REQ or DEALER peer asks).

One request, one answer, both MessagePack maps with a "type" key. Anyone may ask hello, clock,
snapshot and stop of any service; `Ask` is for the operator and is answered by task.
"""

import msgspec
from msgspec import Struct

from loop2p.protocol.messages import PROTOCOL
from loop2p.protocol.wire import WireError


class _Control(Struct, frozen=True, tag_field="type"):
    pass


class Hello(_Control, frozen=True, tag="hello"):
    """Who are you? Asked before anything else."""

    protocol: int = PROTOCOL
    rig_hash: str = ""


class ClockProbe(_Control, frozen=True, tag="clock"):
    """Four-timestamp exchange: t0 by the asker's clock."""

    t0_ns: int


class SnapshotRequest(_Control, frozen=True, tag="snapshot"):
    """Your state, for a successor or a peer that comes back."""


class Stop(_Control, frozen=True, tag="stop"):
    """Go safe, then leave. Needs neither bus nor task."""

    by: str = ""


class Ask(_Control, frozen=True, tag="ask"):
    """start, pause, resume, stop, abort, free_reward, note, lost; text and options in `args`."""

    kind: str
    by: str = ""
    args: dict[str, str] = {}


class HelloReply(_Control, frozen=True, tag="hello-reply"):
    service: str
    instance: str
    protocol: int
    rig_hash: str
    version: str
    health: str
    why_not_ready: list[str] = []


class ClockReply(_Control, frozen=True, tag="clock-reply"):
    """t1: request in, t2: answer out, by the answerer's own clock (perf_counter_ns)."""

    t0_ns: int
    t1_ns: int
    t2_ns: int


class SnapshotReply(_Control, frozen=True, tag="snapshot-reply"):
    data: bytes
    """The service's own MessagePack; empty if it has no state."""


class Answer(_Control, frozen=True, tag="answer"):
    """accepted, or refused with a reason the operator can act on."""

    accepted: bool
    reason: str = ""


Request = Hello | ClockProbe | SnapshotRequest | Stop | Ask
Reply = HelloReply | ClockReply | SnapshotReply | Answer

encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request).decode
_reply = msgspec.msgpack.Decoder(Reply).decode


def decode_request(data: bytes) -> Request:
    """Raises WireError with what was expected."""
    try:
        return _request(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"control request: {error}") from None


def decode_reply(data: bytes) -> Reply:
    """Raises WireError with what was expected."""
    try:
        return _reply(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"control reply: {error}") from None
