"""Messages as ZeroMQ parts: topic, header, body, buffers.

Header and body are MessagePack maps, so that any language's MessagePack library can read them.
A malformed message raises `WireError` with place, found and expected; it never does anything else.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, structs

from loop2p.protocol.arrays import broken_array
from loop2p.protocol.messages import MESSAGES, PROTOCOL, Cause, Message

MAX_TOPIC_BYTES = 64
MAX_HEADER_BYTES = 4_000
MAX_BODY_BYTES = 4_000_000
MAX_BUFFER_BYTES = 64_000_000
MAX_BUFFERS = 8
MAX_REASON = 300
"""Characters of what a decoder says: it may quote the sender's text, however long."""


class WireError(ValueError):
    """Bytes that are no message of this protocol: place, found, expected."""


class Header(Struct, frozen=True, omit_defaults=True, gc=False):
    """Who sent a message, when, and because of which frame."""

    protocol: int
    """Protocol number of the sender."""
    source: str
    """Service name."""
    instance: str
    """New at each start of the service."""
    seq: Annotated[int, Meta(ge=0)]
    """Per topic, from 0, no gaps."""
    sent_ns: int
    """Rig clock when it was sent."""
    cause: Cause | None = None
    """The frame that the message follows from; nil where none is the reason."""
    resent: bool = False
    """A state message sent again for somebody who joined late: same seq, no news to the others."""


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_body = {topic: msgspec.msgpack.Decoder(cls).decode for topic, cls in MESSAGES.items()}


class Envelope:
    """A message as it travels: topic, header, raw parts, and the message itself.

    Of the body and the message one is given; the other is made of it when first asked for.
    """

    __slots__ = ("_body", "_message", "buffers", "header", "topic")

    def __init__(
        self,
        topic: str,
        header: Header,
        body: bytes | None,
        buffers: Sequence[bytes | memoryview] = (),
        message: Message | None = None,
    ) -> None:
        self.topic, self.header, self.buffers = topic, header, tuple(buffers)
        self._body, self._message = body, message

    @property
    def message(self) -> Message:
        """The typed message. Raises WireError where the body is not what its topic says."""
        if self._message is None:
            self._message = decode_body(self.topic, self.body, self.header.cause, self.buffers)
        return self._message

    @property
    def body(self) -> bytes:
        """The body's bytes: the message without cause and buffers."""
        if self._body is None:
            message = self.message
            bare = message.cause is None and not message.buffers
            self._body = _encode(message if bare else structs.replace(message, cause=None, buffers=()))
        return self._body

    def parts(self) -> list[bytes | memoryview]:
        """The ZeroMQ parts of this envelope."""
        return [self.topic.encode(), _encode(self.header), self.body, *self.buffers]


def seal(message: Message, source: str, instance: str, seq: int, sent_ns: int) -> Envelope:
    """Give a message its header."""
    header = Header(PROTOCOL, source, instance, seq, sent_ns, message.cause)
    return Envelope(message.topic, header, None, message.buffers, message)


def open_parts(parts: Sequence[bytes | memoryview]) -> Envelope:
    """Parts -> envelope with a checked header; the body is decoded when asked for. Raises WireError."""
    if not 3 <= len(parts) <= 3 + MAX_BUFFERS:
        raise WireError(f"{len(parts)} parts, expected topic, header, body and at most {MAX_BUFFERS} buffers")
    if len(parts[0]) > MAX_TOPIC_BYTES:
        raise WireError(f"topic of {len(parts[0])} bytes, limit {MAX_TOPIC_BYTES}")
    try:
        topic = bytes(parts[0]).decode("ascii")
    except UnicodeDecodeError:
        raise WireError(f"topic {bytes(parts[0])!r} is not ASCII") from None
    if topic not in MESSAGES:
        raise WireError(f"topic {topic!r} is unknown, expected one of SPEC.md")
    if len(parts[1]) > MAX_HEADER_BYTES:
        raise WireError(f"{topic}: header of {len(parts[1])} bytes, limit {MAX_HEADER_BYTES}")
    try:
        header = _decode_header(parts[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"{topic} header: {str(error)[:MAX_REASON]}") from None
    if header.protocol != PROTOCOL:
        raise WireError(f"{topic} from {header.source}: protocol {header.protocol}, expected {PROTOCOL}")
    if len(parts[2]) > MAX_BODY_BYTES:
        raise WireError(f"{topic} from {header.source}: body of {len(parts[2])} bytes, limit {MAX_BODY_BYTES}")
    for k, part in enumerate(parts[3:]):
        if len(part) > MAX_BUFFER_BYTES:
            raise WireError(f"{topic} from {header.source}: buffer {k} of {len(part)} bytes, limit {MAX_BUFFER_BYTES}")
    return Envelope(topic, header, bytes(parts[2]), parts[3:])


def decode_body(
    topic: str, body: bytes, cause: Cause | None = None, buffers: Sequence[bytes | memoryview] = ()
) -> Message:
    """Body bytes -> the topic's message, with its cause and buffers put back. Raises WireError."""
    try:
        message: Message = _decode_body[topic](body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"{topic} body: {str(error)[:MAX_REASON]}") from None
    broken = broken_array(message)
    if broken:
        raise WireError(f"{topic} body: {broken}")
    structs.force_setattr(message, "cause", cause)  # fresh and unshared: nobody sees it change
    structs.force_setattr(message, "buffers", tuple(buffers))
    return message
