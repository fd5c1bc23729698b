"""The journal keeps what it was given, byte for byte, and gives back what a cut has left."""

import io
import json
import random
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from synthetic_session import make_session, write_journal

from loop2p.protocol import MESSAGES, Cause, Envelope, Header, Lick, Raw, Show, Traces, f32, seal
from loop2p.recording.journal import (
    JournalWriter,
    TornTail,
    open_segment,
    pack,
    read_journal,
    recover,
    schema_of,
    segments,
    unpack,
)

CAUSE = Cause(frame=7, plane=1, time_s=0.25, arrival_ns=123)


def same(a: Envelope, b: Envelope) -> bool:
    return [bytes(p) for p in a.parts()] == [bytes(p) for p in b.parts()]


def small_session() -> list[Envelope]:
    pixels = np.arange(6, dtype="<u2").tobytes()
    return [
        seal(Show(what="grating", angle_deg=45.0, cause=CAUSE), "task", "task-1", 0, 5),
        seal(Traces(plane=1, f=f32([1, 2]), cause=CAUSE), "imaging", "imaging-1", 0, 6),
        seal(
            Raw(plane=1, height=2, width=3, dtype="<u2", buffers=(pixels,), cause=CAUSE), "imaging", "imaging-1", 0, 7
        ),
        seal(Lick(count=3, t_ns=9), "actuation", "actuation-1", 4, 10),
    ]


def journal_of(folder: Path, envelopes: list[Envelope], close: bool = True) -> Path:
    write_journal(folder, [(100 + k, e) for k, e in enumerate(envelopes)], close)
    return folder / "journal.mcap"


def test_everything_comes_back_byte_for_byte(tmp_path):
    envelopes = [e for _, e in make_session(seconds=25, raw=True).envelopes]
    torn: list[TornTail] = []
    write_journal(tmp_path, ((k, e) for k, e in enumerate(envelopes)))
    back = list(read_journal(tmp_path, torn))
    kept = [(k, e) for k, e in enumerate(envelopes) if e.topic != "imaging.preview"]
    assert torn == []
    assert [r.log_ns for r in back] == [k for k, _ in kept]
    assert all(same(a, b) for a, (_, b) in zip(back, kept, strict=True))


def test_mcaps_own_reader_and_any_messagepack_library_read_it(tmp_path):
    path = journal_of(tmp_path, small_session())
    with open(path, "rb") as file:
        reader = make_reader(file)
        rows = [(s, c, m, msgpack.unpackb(m.data)) for s, c, m in reader.iter_messages(log_time_order=False)]
        assert reader.get_summary().statistics.message_count == 4
    schema, channel, message, (header, body) = rows[0]
    assert (channel.topic, channel.message_encoding, schema.encoding) == ("task.show", "msgpack", "jsonschema")
    assert channel.metadata == {"source": "task", "instance": "task-1"}
    assert (message.log_time, message.publish_time, message.sequence) == (100, 5, 0)
    assert header["cause"] == {"frame": 7, "plane": 1, "time_s": 0.25, "arrival_ns": 123}
    assert body == {"type": "show", "what": "grating", "angle_deg": 45.0}
    assert json.loads(schema.data)["$defs"]["Show"]["properties"]["what"]["enum"] == ["black", "grating", "grey"]
    assert rows[2][3][2] == np.arange(6, dtype="<u2").tobytes()


def test_each_instance_has_its_own_channel(tmp_path):
    lick = Lick(count=1, t_ns=1)
    path = journal_of(tmp_path, [seal(lick, "actuation", i, 0, 1) for i in ("a-1", "a-2", "a-1")])
    with open(path, "rb") as file:
        channels = make_reader(file).get_summary().channels.values()
    assert [c.metadata["instance"] for c in channels] == ["a-1", "a-2"]


def test_every_message_class_has_a_schema():
    for topic, kind in MESSAGES.items():
        schema = schema_of(kind)
        assert schema["title"] == topic
        assert len(schema["prefixItems"]) == 2
        json.dumps(schema)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x81", b"\x80\x80", b"\xc4\x01a", b"\x93\x01\x02\x03", b"\x91" * 5000]
)
def test_a_malformed_body_is_kept_as_it_came(body):
    envelope = Envelope("actuation.lick", Header(1, "actuation", "a-1", 3, 4), body)
    assert same(unpack("actuation.lick", pack(envelope)), envelope)
    assert len(msgpack.unpackb(pack(envelope))) == 2


@pytest.mark.parametrize("seq", [2**32 + 5, 2**62])
@pytest.mark.parametrize("sent_ns", [-5, 2**63 - 1])
def test_numbers_that_mcap_has_no_room_for_stay_in_the_header(tmp_path, seq, sent_ns):
    journal_of(tmp_path, [seal(Lick(count=1, t_ns=1), "actuation", "a-1", seq, sent_ns)])
    (back,) = read_journal(tmp_path)
    assert (back.header.seq, back.header.sent_ns) == (seq, sent_ns)


# ---------------------------------------------------------------- cuts and damage


def readable_of(data: bytes, folder: Path) -> tuple[list[Envelope], list[TornTail]]:
    path = folder / "cut.mcap"
    path.write_bytes(data)
    torn: list[TornTail] = []
    return list(read_journal(path, torn)), torn


def message_ends(data: bytes) -> list[int]:
    """Where each message record of an unclosed journal ends."""
    ends, at = [], 8
    while at < len(data):
        opcode, length = data[at], int.from_bytes(data[at + 1 : at + 9], "little")
        at += 9 + length
        if opcode == 5:
            ends.append(at)
    return ends


def test_a_journal_cut_at_any_byte_yields_every_whole_record(tmp_path):
    show, _, _, lick = small_session()
    envelopes = [show, lick, show]
    data = journal_of(tmp_path / "whole", envelopes, close=False).read_bytes()
    whole = message_ends(data)
    assert len(whole) == len(envelopes)
    for cut in range(len(data) + 1):
        back, torn = readable_of(data[:cut], tmp_path)
        expected = sum(end <= cut for end in whole)
        assert len(back) == expected, f"cut at byte {cut}"
        assert all(same(a, b) for a, b in zip(back, envelopes, strict=False))
        assert len(torn) == 1
        assert torn[0].offset + torn[0].n_bytes == cut


def test_a_larger_journal_cut_at_random_bytes(tmp_path):
    made = make_session(seconds=22)
    path = write_journal(tmp_path / "whole", made.envelopes) / "journal.mcap"
    data, n_all = path.read_bytes(), sum(e.topic != "imaging.preview" for _, e in made.envelopes)
    whole = list(read_journal(path))
    assert len(whole) == n_all
    rng = random.Random(3)
    before = 0
    for cut in sorted(rng.randrange(len(data)) for _ in range(25)):
        back, torn = readable_of(data[:cut], tmp_path)
        assert before <= len(back) <= n_all
        assert all(same(a, b) for a, b in zip(back, whole, strict=False))
        assert len(torn) <= 1  # none if the cut is within MCAP's summary, behind all messages
        before = len(back)


@settings(max_examples=150)
@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_reported_never_raised(tmp_path_factory, garbage, behind_a_journal):
    folder = tmp_path_factory.mktemp("garbage")
    start = journal_of(folder, small_session(), close=False).read_bytes() if behind_a_journal else b""
    back, torn = readable_of(start + garbage, folder)
    assert len(back) >= 4 * behind_a_journal
    assert torn or garbage[:1] == b"\x02"  # a footer by chance ends the file


@settings(max_examples=150)
@given(st.integers(min_value=0), st.integers(1, 255))
def test_one_damaged_byte_costs_no_more_than_what_it_must(tmp_path_factory, position, flip):
    folder = tmp_path_factory.mktemp("damage")
    data = bytearray(journal_of(folder, small_session(), close=False).read_bytes())
    position %= len(data)
    intact = sum(end <= position for end in message_ends(bytes(data)))
    data[position] ^= flip
    back, _ = readable_of(bytes(data), folder)
    assert intact <= len(back) <= 4
    assert all(same(a, b) for a, b in zip(back[:intact], small_session(), strict=False))


def test_zeros_behind_the_last_record_are_a_torn_tail(tmp_path):
    data = journal_of(tmp_path, small_session(), close=False).read_bytes()
    back, (tail,) = readable_of(data + bytes(4096), tmp_path)
    assert len(back) == 4
    assert (tail.offset, tail.n_bytes) == (len(data), 4096)


def test_an_undeclared_channel_or_a_foreign_protocol_costs_one_record(tmp_path):
    data = journal_of(tmp_path, small_session(), close=False).read_bytes()
    stranger = b"\x05" + (24).to_bytes(8, "little") + b"\xff\x00" + bytes(20) + b"\x90\x90"
    path = tmp_path / "odd.mcap"
    first = message_ends(data)[0]
    path.write_bytes(data[:first] + stranger + data[first:])
    torn: list[TornTail] = []
    assert len(list(read_journal(path, torn))) == 4
    assert "channel 255" in torn[0].reason
    assert "no footer" in torn[1].reason


# ---------------------------------------------------------------- segments, recover


def test_segments_are_chained_in_order(tmp_path):
    for n in range(12):
        write_journal(tmp_path, [(n, seal(Lick(count=n, t_ns=n), "actuation", "a-1", n, n))], close=n % 2 == 0)
    (tmp_path / "journal-notes.mcap").write_bytes(b"somebody's")
    back = list(read_journal(tmp_path))
    assert [r.header.seq for r in back] == list(range(12))
    assert [r.segment for r in back] == list(range(1, 13))
    assert segments(tmp_path)[9].name == "journal-10.mcap"


def test_a_segment_is_never_overwritten(tmp_path):
    names = []
    for _ in range(3):
        with open_segment(tmp_path) as file:
            names.append(Path(str(file.name)).name)
    assert names == ["journal.mcap", "journal-2.mcap", "journal-3.mcap"]


def test_recover_makes_a_clean_file_of_a_torn_one(tmp_path):
    path = journal_of(tmp_path, small_session(), close=False)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 3)
    clean = recover(path)
    with open(clean, "rb") as file:
        assert make_reader(file).get_summary().statistics.message_count == 3
    torn: list[TornTail] = []
    back = list(read_journal(clean, torn))
    assert torn == []
    assert all(same(a, b) for a, b in zip(back, small_session(), strict=False))
    assert segments(tmp_path) == [path]  # the copy is no segment of the run
    assert not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------- a disk that takes nothing


class Disk(io.BytesIO):
    """A file whose disk is full after `room` bytes; a write may take part of its data first."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data):  # type: ignore[no-untyped-def]
        free = self.room - self.tell()
        if free <= 0:
            raise OSError(28, "No space left on device")
        return super().write(bytes(data)[:free])

    def fileno(self) -> int:
        raise io.UnsupportedOperation("lies in memory")

    def close(self) -> None:
        self.final = self.getvalue()


def test_a_full_disk_loses_nothing_and_leaves_whole_records(tmp_path):
    disk = Disk(room=0)
    writer = JournalWriter(lambda: disk)
    envelopes = small_session()
    for k, envelope in enumerate(envelopes):
        writer.write(envelope, k)
        disk.room = writer.size + 37  # a piece of a record fits
        with pytest.raises(OSError, match="No space"):
            writer.flush()
        assert len(disk.getvalue()) == writer.size  # the piece was cut off again
        assert writer.flushed == {}
    disk.room = 10**6
    writer.flush()
    assert writer.flushed["imaging-1"] == {"imaging.traces": 0, "imaging.raw": 0}
    assert writer.flushed["actuation-1"] == {"actuation.lick": 4}
    writer.close()
    back, torn = readable_of(disk.final, tmp_path)
    assert torn == []
    assert all(same(a, b) for a, b in zip(back, envelopes, strict=True))


def test_a_file_that_cannot_be_opened_yet_is_opened_later(tmp_path):
    folder = tmp_path / "absent"
    writer = JournalWriter(lambda: open_segment(folder))
    writer.write(small_session()[0], 1)
    with pytest.raises(OSError, match="absent"):
        writer.flush()
    folder.mkdir()
    writer.close()
    assert len(list(read_journal(folder))) == 1
