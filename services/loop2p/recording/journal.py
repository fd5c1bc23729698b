"""The journal: MCAP files to which everything the bus carries is appended, readable up to the last whole record.

A record's data is one MessagePack array, so that any MCAP tool and any MessagePack library can read it:

    [header map, body map, buffer 0, buffer 1, ...]

with header and body byte for byte as they were on the wire. A body that is no MessagePack map is kept as bytes
(MessagePack bin) in its place. log_time is the rig clock when recording had the message in hand, publish_time
`header.sent_ns`, sequence the lowest 32 bits of `header.seq`; there is a channel for each topic, source and instance.

The file is not chunked and goes to the operating system without a buffer of ours, because an open chunk or buffer
is what a killed writer loses (measured with a prototype).
"""

import contextlib
import io
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel
from mcap.writer import MCAP0_MAGIC, CompressionType, IndexType, Writer

from loop2p.protocol import MESSAGES, Envelope, Header, Message, WireError, open_parts

CAN_WAIT = frozenset(
    {"imaging.traces", "imaging.raw", "imaging.preview", "actuation.wheel", "rig.heartbeat", "rig.clock"}
)
"""Frequent topics, flushed with the next tick (50 ms); after every other message the journal is flushed at once."""
MAX_CHANNELS = 65_000
_FULL_WRITE_BYTES = 1 << 20


class File(Protocol):
    """What the writer needs of a file: unbuffered, so that a write is the operating system's when it returns."""

    def write(self, data: memoryview, /) -> int | None: ...
    def seek(self, position: int, /) -> int: ...
    def truncate(self, size: int, /) -> int: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


# ---------------------------------------------------------------- names


def segments(path: Path) -> list[Path]:
    """The journal files of a run folder in the order they were written; a file is its own only segment."""
    if path.is_file():
        return [path]
    numbered = []
    for file in path.glob("journal*.mcap"):
        name = re.fullmatch(r"journal(?:-(\d+))?\.mcap", file.name)
        if name:
            numbered.append((int(name.group(1) or 1), file))
    return [file for _, file in sorted(numbered)]


def open_segment(folder: Path) -> io.FileIO:
    """Create the next segment of a run folder: journal.mcap, journal-2.mcap, ... Never opens one that exists."""
    while True:
        last = re.search(r"-(\d+)\.mcap", segments(folder)[-1].name) if segments(folder) else None
        number = (int(last.group(1)) if last else 1) + 1 if segments(folder) else 1
        name = "journal.mcap" if number == 1 else f"journal-{number}.mcap"
        with contextlib.suppress(FileExistsError):  # another recorder was quicker: take the one after
            return io.FileIO(folder / name, "x")


# ---------------------------------------------------------------- records


def schema_of(kind: type[Message]) -> dict[str, Any]:
    """JSON Schema of a record's data for one message class."""
    (header, body), definitions = msgspec.json.schema_components((Header, kind))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.topic,
        "description": (kind.__doc__ or "").strip(),
        "type": "array",
        "prefixItems": [header, body],
        "minItems": 2,
        "items": {"type": "string", "contentEncoding": "base64", "description": "a buffer (MessagePack bin)"},
        "$defs": definitions,
    }


_raw = msgspec.msgpack.Decoder(msgspec.Raw).decode
_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_bytes = msgspec.msgpack.Decoder(bytes).decode
_encode = msgspec.msgpack.encode
_BIN = (b"\xc4", b"\xc5", b"\xc6")


def pack(envelope: Envelope) -> bytes:
    """An envelope as a record's data."""
    _, header, body, *buffers = envelope.parts()
    body = bytes(body)
    if not _is_map(body):
        body = _encode(body)
    return b"".join((bytes((0x90 + 2 + len(buffers),)), header, body, *map(_encode, buffers)))


def unpack(topic: str, data: bytes | memoryview) -> Envelope:
    """A record's data as the envelope it was. Raises WireError."""
    try:
        header, body, *buffers = map(bytes, _raws(data))
        if body[:1] in _BIN:
            body = _bytes(body)
        return open_parts([topic.encode(), header, body, *map(_bytes, buffers)])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"{topic} record: {error}") from None


def _is_map(body: bytes) -> bool:
    if not (body and (0x80 <= body[0] <= 0x8F or body[0] in (0xDE, 0xDF))):
        return False
    try:
        _raw(body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


# ---------------------------------------------------------------- writing


class _Pending:
    """What the MCAP writer writes to: bytes that are not yet the operating system's."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.n_bytes = 0
        self.position = 0

    def write(self, data: bytes) -> int:
        self.parts.append(data)
        self.n_bytes += len(data)
        self.position += len(data)
        return len(data)

    def tell(self) -> int:
        return self.position

    def take(self) -> bytes:
        data = b"".join(self.parts)
        self.parts = [data]
        return data

    def clear(self) -> None:
        self.parts, self.n_bytes = [], 0


class JournalWriter:
    """Writes one MCAP file.

    `write` puts an envelope in memory; `flush` opens the file if need be and hands over all that waits. What was
    flushed survives the death of this process (not a power cut). A flush that fails raises OSError, leaves the file
    at its last whole record and all that waits in memory: flush again when there is room.
    """

    def __init__(self, open_file: Callable[[], File]) -> None:
        self._open_file = open_file
        self._file: File | None = None
        self._torn = False
        self._pending = _Pending()
        self._mcap = Writer(
            self._pending,
            compression=CompressionType.NONE,
            index_types=IndexType.NONE,
            use_chunking=False,
        )
        self._mcap.start(profile="loop2p", library="loop2p")
        self._schemas: dict[str, int] = {}
        self._channels: dict[tuple[str, str, str], int] = {}
        self._waiting: dict[tuple[str, str], int] = {}
        self.size = 0
        """Bytes that are safe in the file."""
        self.flushed: dict[str, dict[str, int]] = {}
        """Instance -> topic -> highest sequence number that is safe in the file."""

    @property
    def pending_bytes(self) -> int:
        return self._pending.n_bytes

    def write(self, envelope: Envelope, log_ns: int) -> None:
        """Add an envelope. Does not touch the disk; raises nothing that a message's content could cause."""
        header = envelope.header
        self._mcap.add_message(
            self._channel(envelope),
            log_time=_u64(log_ns),
            data=pack(envelope),
            publish_time=_u64(header.sent_ns),
            sequence=header.seq & 0xFFFF_FFFF,
        )
        key = (header.instance, envelope.topic)
        self._waiting[key] = max(header.seq, self._waiting.get(key, 0))

    def _channel(self, envelope: Envelope) -> int:
        source, instance, topic = envelope.header.source, envelope.header.instance, envelope.topic
        if len(self._channels) >= MAX_CHANNELS:  # MCAP numbers channels with 16 bits; the header still says who
            source = instance = ""
        key = (topic, source, instance)
        if key not in self._channels:
            if topic not in self._schemas:
                schema = msgspec.json.encode(schema_of(MESSAGES[topic]))
                self._schemas[topic] = self._mcap.register_schema(MESSAGES[topic].__name__, "jsonschema", schema)
            metadata = {"source": source, "instance": instance}
            self._channels[key] = self._mcap.register_channel(topic, "msgpack", self._schemas[topic], metadata)
        return self._channels[key]

    def flush(self) -> None:
        """Hand all that waits to the operating system. Raises OSError; nothing is lost by it."""
        if self._file is None:
            self._file = self._open_file()
        if self._torn:
            self._file.seek(self.size)
            self._file.truncate(self.size)
            self._torn = False
        if not self._pending.n_bytes:
            return
        data = memoryview(self._pending.take())
        done = 0
        try:
            while done < len(data):
                done += self._file.write(data[done : done + _FULL_WRITE_BYTES]) or 0
        except OSError:
            self._torn = True  # part of a record may be in the file: cut before the next try
            with contextlib.suppress(OSError):
                self._file.seek(self.size)
                self._file.truncate(self.size)
                self._torn = False
            raise
        self.size += done
        self._pending.clear()
        for (instance, topic), seq in self._waiting.items():
            topics = self.flushed.setdefault(instance, {})
            topics[topic] = max(seq, topics.get(topic, 0))
        self._waiting.clear()

    def close(self) -> None:
        """Write MCAP's summary and footer, and close. Raises OSError if what waits could not be written."""
        self._mcap.finish()
        try:
            self.flush()
            assert self._file is not None
            with contextlib.suppress(io.UnsupportedOperation):  # a file that lies on no disk (tests)
                os.fsync(self._file.fileno())
        finally:
            if self._file is not None:
                self._file.close()


def _u64(value: int) -> int:
    return min(max(value, 0), 2**64 - 1)


# ---------------------------------------------------------------- reading


class Recorded(Envelope):
    """An envelope read back from a journal."""

    __slots__ = ("log_ns", "segment")
    log_ns: int
    """Rig clock when recording had it in hand."""
    segment: int
    """Which file of the run it stands in, from 1."""


class TornTail(NamedTuple):
    """A stretch of a journal that can't be read: what a kill cut off, or damage."""

    path: Path
    offset: int
    n_bytes: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.n_bytes} bytes at byte {self.offset} can't be read: {self.reason}"


def read_journal(path: Path, torn: list[TornTail] | None = None) -> Iterator[Recorded]:
    """Everything readable in a journal, in the order it was written; `path` is a run folder or one file.

    A file that was cut at any byte, or is damaged, yields all records before the cut; what can't be read is
    added to `torn`. A file that ends at a whole record without MCAP's footer (its writer was killed) is reported
    with 0 bytes. Raises only what opening and reading the file raises.
    """
    for number, segment in enumerate(segments(path), 1):
        for tail_or_record in _read_segment(segment):
            if isinstance(tail_or_record, TornTail):
                if torn is not None:
                    torn.append(tail_or_record)
            else:
                tail_or_record.segment = number
                yield tail_or_record


def _read_segment(path: Path) -> Iterator[Recorded | TornTail]:
    topics: dict[int, str] = {}
    with open(path, "rb", buffering=1 << 18) as file:
        size = os.fstat(file.fileno()).st_size
        offset = len(MCAP0_MAGIC)

        def tail(reason: str) -> TornTail:
            return TornTail(path, offset, max(0, size - offset), reason)

        if file.read(offset) != MCAP0_MAGIC:
            offset = 0
            yield tail("the file does not begin as an MCAP file does")
            return
        while True:
            head = file.read(9)
            if not head:
                yield tail("the file has no footer: its writer was killed or is still writing")
                return
            if len(head) < 9:
                yield tail("cut within a record's head")
                return
            opcode, length = struct.unpack("<BQ", head)
            if opcode == Opcode.FOOTER:
                return
            if length > size - offset - 9:
                yield tail(f"cut within a record of {length} bytes")
                return
            body = file.read(length)
            if len(body) < length:
                yield tail(f"cut within a record of {length} bytes")
                return
            try:
                if opcode == Opcode.CHANNEL:
                    channel = Channel.read(ReadDataStream(io.BytesIO(body)))
                    topics[channel.id] = channel.topic
                elif opcode == Opcode.MESSAGE:
                    yield _read_message(body, topics)
                elif opcode == Opcode.CHUNK or not 0 < opcode <= Opcode.DATA_END:
                    yield tail(f"record kind {opcode}, which this journal never has")
                    return
            except (WireError, McapError, struct.error, UnicodeDecodeError) as error:
                yield TornTail(path, offset, 9 + length, str(error) or type(error).__name__)
            offset += 9 + length


def _read_message(body: bytes, topics: dict[int, str]) -> Recorded:
    channel, _sequence, log_ns, _sent_ns = struct.unpack_from("<HIQQ", body)
    if channel not in topics:
        raise WireError(f"a message of channel {channel}, which the file has not declared")
    envelope = unpack(topics[channel], memoryview(body)[22:])
    recorded = Recorded(envelope.topic, envelope.header, envelope.body, envelope.buffers)
    recorded.log_ns = log_ns
    return recorded


def recover(path: Path) -> Path:
    """Copy everything readable of a journal into a clean one that every MCAP tool opens; returns its path.

    `path` is one file, or a run folder whose segments become one file: recovered-journal.mcap beside them.
    """
    name = f"recovered-{path.name}" if path.is_file() else "recovered-journal.mcap"
    target = (path.parent if path.is_file() else path) / name
    copy(read_journal(path), target)
    return target


def copy(records: Iterable[Recorded], target: Path) -> None:
    """Write records as one journal, at once or not at all. Raises OSError."""
    temporary = target.with_name(f".{target.name}.partial")
    writer = JournalWriter(lambda: io.FileIO(temporary, "w"))
    for record in records:
        writer.write(record, record.log_ns)
        if writer.pending_bytes > _FULL_WRITE_BYTES:
            writer.flush()
    writer.close()
    os.replace(temporary, target)
