"""Requests and answers on a service's control socket (ROUTER; a REQ or DEALER peer asks).

One request, one answer, both MessagePack maps with a "type" key. Anyone may ask hello, clock,
snapshot and stop of any service; `Ask` is for the operator and is answered by task.
"""

import msgspec
from msgspec import Struct

from loop2p.protocol.messages import PROTOCOL
from loop2p.protocol.wire import MAX_REASON, WireError


class _Control(Struct, frozen=True, tag_field="type"):
    pass


class Hello(_Control, frozen=True, tag="hello"):
    """Who are you? Asked before anything else."""

    protocol: int = PROTOCOL
    """Protocol number of the asker."""
    rig_hash: str = ""
    """Of the asker's rig file."""


class ClockProbe(_Control, frozen=True, tag="clock"):
    """Four-timestamp exchange: t0 by the asker's clock."""

    t0_ns: int
    """The asker's clock at sending."""


class SnapshotRequest(_Control, frozen=True, tag="snapshot"):
    """Your state, for a successor or a peer that comes back."""


class Stop(_Control, frozen=True, tag="stop"):
    """Go safe, then leave. Needs neither bus nor task."""

    by: str = ""
    """Who asks, for the log."""


class Ask(_Control, frozen=True, tag="ask"):
    """start, pause, resume, stop, abort, free_reward, note, lost, swap, status or check; text and options in `args`."""

    kind: str
    """What is asked."""
    by: str = ""
    """Who asks."""
    args: dict[str, str] = {}
    """By name, such as text for a note."""


class HelloReply(_Control, frozen=True, tag="hello-reply"):
    service: str
    """Its name in the rig file."""
    instance: str
    """New at each start."""
    protocol: int
    """Its protocol number."""
    rig_hash: str
    """Of its rig file."""
    version: str
    """Of its software."""
    health: str
    """As in its heartbeat."""
    why_not_ready: list[str] = []
    """What must be done first, a line each."""


class ClockReply(_Control, frozen=True, tag="clock-reply"):
    """t1: request in, t2: answer out, by the answerer's own clock (perf_counter_ns)."""

    t0_ns: int
    """As asked."""
    t1_ns: int
    """When the request was in."""
    t2_ns: int
    """When the answer goes out."""


class SnapshotReply(_Control, frozen=True, tag="snapshot-reply"):
    data: bytes
    """The service's own MessagePack; empty if it has no state."""


class Answer(_Control, frozen=True, tag="answer"):
    """accepted, or refused with a reason the operator can act on."""

    accepted: bool
    """True: done, or under way."""
    reason: str = ""
    """Why not, and what to do; or what there is to say."""


Request = Hello | ClockProbe | SnapshotRequest | Stop | Ask
Reply = HelloReply | ClockReply | SnapshotReply | Answer

encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request).decode
_reply = msgspec.msgpack.Decoder(Reply).decode


def decode_request(data: bytes) -> Request:
    """Raises WireError with what was expected."""
    try:
        request: Request = _request(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"control request: {str(error)[:MAX_REASON]}") from None
    return request


def decode_reply(data: bytes) -> Reply:
    """Raises WireError with what was expected."""
    try:
        reply: Reply = _reply(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"control reply: {str(error)[:MAX_REASON]}") from None
    return reply
