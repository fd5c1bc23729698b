"""SPEC.md and the golden vectors are what the code says, and any MessagePack library reads them."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from msgspec import NODEFAULT, structs

from loop2p.protocol import MESSAGES, PROTOCOL, Header, Output, control, decode_body, generate, open_parts, spec
from loop2p.protocol.messages import Cause, PlaneRois, TopicAudit

FOLDER = generate.FOLDER
VECTORS = FOLDER / "vectors"
INDEX: list[dict[str, Any]] = json.loads((VECTORS / "index.json").read_text(encoding="utf-8"))["vectors"]
REQUESTS, REPLIES = get_args(control.Request), get_args(control.Reply)
DECODERS = {"request": control.decode_request, "reply": control.decode_reply}

vectors = pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["file"])


def data(entry: dict[str, Any]) -> bytes:
    return (VECTORS / entry["file"]).read_bytes()


def ours(entry: dict[str, Any], raw: bytes) -> Any:
    """What our own decoder makes of it."""
    if entry["kind"] == "header":
        return msgspec.msgpack.decode(raw, type=Header)
    if entry["kind"] == "body":
        header = (VECTORS / entry["header"]).read_bytes()
        return open_parts([entry["topic"].encode(), header, raw, *map(bytes.fromhex, entry["buffers"])]).message
    return DECODERS[entry["kind"]](raw)


def as_stated(value: Any) -> Any:
    """As index.json writes it."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: as_stated(part) for key, part in value.items()}
    return [as_stated(part) for part in value] if isinstance(value, list) else value


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type: 1 is not 1.0 and not True."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def test_committed_files_are_as_generated() -> None:
    assert generate.differences(FOLDER) == [], "run: python -m loop2p.protocol.generate"


def test_generation_is_deterministic() -> None:
    assert generate.files() == generate.files()


def test_check_finds_whatever_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--folder", str(tmp_path)]
    assert generate.main(folder) == 0
    assert generate.main(["--check", *folder]) == 0
    (tmp_path / "SPEC.md").write_text(
        (tmp_path / "SPEC.md").read_text(encoding="utf-8").replace("## Limits", "## Limit")
    )
    (tmp_path / "vectors" / "old.msgpack").write_bytes(b"")
    (tmp_path / "vectors" / "header.full.msgpack").unlink()
    (tmp_path / "vectors" / "task.show.full.msgpack").write_bytes(b"\x80")
    capsys.readouterr()
    assert generate.main(["--check", *folder]) == 1
    said = capsys.readouterr().out
    for words in ("-## Limit\n+## Limits", "old.msgpack is not generated any more", "header.full.msgpack is missing"):
        assert words in said
    assert "task.show.full.msgpack differs: 80 should be 8" in said
    generate.main(folder)
    assert generate.differences(tmp_path) == []


def test_everything_that_travels_is_there_minimal_and_full() -> None:
    names = ["header", *MESSAGES, *(f"control.{c.__struct_config__.tag}" for c in (*REQUESTS, *REPLIES))]
    assert {e["file"] for e in INDEX} == {f"{n}.{size}.msgpack" for n in names for size in ("minimal", "full")}


@pytest.mark.parametrize("kind", [*MESSAGES.values(), Header, *REQUESTS, *REPLIES], ids=lambda kind: kind.__name__)
def test_a_minimal_example_holds_what_is_required_and_a_full_one_no_default(kind: Any) -> None:
    tag = kind.__struct_config__.tag
    name = "header" if kind is Header else getattr(kind, "topic", f"control.{tag}")
    minimal, full = ({e["file"]: e for e in INDEX}[f"{name}.{size}.msgpack"] for size in ("minimal", "full"))
    for field in structs.fields(kind):
        if field.name in ("cause", "buffers") and kind is not Header:
            assert field.name not in full["content"], "travels outside the body"
            continue
        default = field.default_factory() if field.default_factory is not NODEFAULT else field.default
        required = default is NODEFAULT
        omitted = kind.__struct_config__.omit_defaults and not required
        assert (field.encode_name in minimal["content"]) == (not omitted)
        if field.name == "protocol":  # there is only one
            continue
        assert required or getattr(ours(full, data(full)), field.name) != default


@vectors
def test_a_plain_messagepack_library_finds_the_stated_content(entry: dict[str, Any]) -> None:
    assert same(as_stated(msgpack.unpackb(data(entry))), entry["content"])


@vectors
def test_our_decoder_finds_the_stated_content(entry: dict[str, Any]) -> None:
    message = ours(entry, data(entry))
    for name, stated in entry["content"].items():
        if name == "type":
            assert type(message).__struct_config__.tag == stated
        else:
            assert as_stated(msgspec.to_builtins(getattr(message, name), builtin_types=(bytes,))) == stated
    assert [b.hex() for b in getattr(message, "buffers", ())] == entry.get("buffers", [])


@vectors
def test_what_a_plain_library_writes_is_the_same_message_to_us(entry: dict[str, Any]) -> None:
    read = msgpack.unpackb(data(entry))
    backwards = dict(reversed(list(read.items())))
    for content in (read, backwards):
        assert ours(entry, msgpack.packb(content)) == ours(entry, data(entry))


def test_spec_names_every_topic_its_publisher_and_every_field() -> None:
    text = (FOLDER / "SPEC.md").read_text(encoding="utf-8")
    docs = {k: v for module in (spec.messages, spec.wire, spec.control) for k, v in spec.read_docs(module).items()}
    for topic, kind in MESSAGES.items():
        assert f"### {topic}\n" in text
        assert spec.publisher(kind), f"the docstring of {kind.__name__} does not say who publishes it: 'From ...'"
        if not topic.startswith("rig."):
            assert spec.publisher(kind) == topic.split(".")[0]
    for kind in (*MESSAGES.values(), Header, Cause, PlaneRois, TopicAudit, *REQUESTS, *REPLIES):
        for field in structs.fields(kind):
            told = any(field.name in docs.get(c.__name__, {}) for c in kind.__mro__)
            assert told or field.name == "cause", f"{kind.__name__}.{field.name} has no docstring below it"


def test_the_peer_in_the_spec_is_understood() -> None:
    """The example in SPEC.md, run as it stands there."""
    code = re.findall(r"```python\n(.*?)```", (FOLDER / "SPEC.md").read_text(encoding="utf-8"), re.S)
    assert len(code) == 1
    names: dict[str, Any] = {}
    exec(code[0], names)
    entry = next(e for e in INDEX if e["file"] == "imaging.traces.full.msgpack")
    parts = [b"imaging.traces", (VECTORS / "header.full.msgpack").read_bytes(), data(entry)]
    envelope = open_parts(names["answer"](parts, 5, 1000))
    assert (envelope.header.seq, envelope.header.protocol) == (5, PROTOCOL)
    assert envelope.message == Output(d=0.25, value=0.25, cause=open_parts(parts).header.cause)


def test_the_walk_through_in_the_spec_is_a_message() -> None:
    text = (FOLDER / "SPEC.md").read_text(encoding="utf-8").split("## A message byte by byte")[1]
    hexes: dict[str, str] = {}
    name = ""
    for line in text.split("```")[1].splitlines()[1:]:
        name = line[:8].strip() or name
        hexes[name] = hexes.get(name, "") + line[8:]
    topic, header, body = (bytes.fromhex(hexes[part]) for part in ("topic", "header", "body"))
    assert open_parts([topic, header, body]).message == decode_body("imaging.traces", body)
