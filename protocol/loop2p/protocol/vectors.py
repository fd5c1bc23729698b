"""Golden vectors: examples of everything that travels, as bytes and as what a reader must find in them.

A minimal example holds the fields without a default, a full one has every field at another value than its default.
They are made from the types, so a new field is in them at once.
"""

import json
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct, structs

from loop2p.protocol import control
from loop2p.protocol.arrays import array_dtype, f32, f64, i32, i64
from loop2p.protocol.messages import MESSAGES, PROTOCOL, Message
from loop2p.protocol.wire import Header

FIXED: dict[str, Any] = {"protocol": PROTOCOL, "plane": 1, "height": 2, "width": 3}
"""Fields whose value must make sense together with others."""
BUFFERS: dict[str, tuple[bytes, ...]] = {
    "imaging.preview": (bytes(range(6)),),
    "imaging.raw": (b"".join(k.to_bytes(2, "little") for k in range(6)),),
    "imaging.rois": (f32(range(6)),),
}
"""Pixels of the full examples, 2 x 3."""

ARRAYS = {"<f4": f32([0.5, 100, -1.25]), "<f8": f64([0.5, -1.25]), "<i4": i32([1]), "<i8": i64([1_234_567_890_123])}
"""Element type -> values of an array."""


def example(kind: type[Struct], full: bool) -> Any:
    """An instance with every field, or with those that have no default."""
    fields = {f.name: f for f in structs.fields(kind)}
    values = {
        name: _value(name, f.type, f.default)
        for name, f in fields.items()
        if name != "buffers" and (full or (f.default is NODEFAULT and f.default_factory is NODEFAULT))
    }
    if full and isinstance(kind, type) and issubclass(kind, Message):
        values["buffers"] = BUFFERS.get(kind.topic, ())
    return kind(**values)


def _value(name: str, hint: Any, default: Any = NODEFAULT) -> Any:
    """A value of this type that is not the default."""
    if name in FIXED:
        return FIXED[name]
    if array_dtype(hint):
        return ARRAYS[array_dtype(hint)]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(name, args[0])
    if origin is Literal:
        return args[-1]
    if origin in (Union, UnionType):
        return _value(name, args[0])
    if origin is list:
        return [_value(name, args[0])]
    if origin is dict:
        return {"key": _value(name, args[1])}
    if isinstance(hint, type) and issubclass(hint, Struct):
        return example(hint, full=True)
    if hint is bool:
        return default is not True
    simple = {int: 1_234_567_890_123 if name.endswith("_ns") else 300, float: 1.5, str: f"{name} µ", bytes: b"\0\xff"}
    return simple[hint]


def files() -> dict[str, bytes]:
    """Every vector and their index, by file name."""
    made: dict[str, bytes] = {}
    index: list[dict[str, Any]] = []

    def add(name: str, kind: str, value: Struct, **more: Any) -> None:
        for key, default in (("cause", None), ("buffers", ())):  # these travel outside the body
            if isinstance(value, Message):
                value = structs.replace(value, **{key: default})
        made[f"{name}.msgpack"] = msgspec.msgpack.encode(value)
        index.append(
            {
                "file": f"{name}.msgpack",
                "kind": kind,
                **more,
                "content": _json(msgspec.to_builtins(value, builtin_types=(bytes,))),
            }
        )

    for size in ("minimal", "full"):
        add(f"header.{size}", "header", example(Header, size == "full"))
    for topic, message in MESSAGES.items():
        for size in ("minimal", "full"):
            one = example(message, size == "full")
            add(
                f"{topic}.{size}",
                "body",
                one,
                topic=topic,
                header=f"header.{size}.msgpack",
                buffers=[b.hex() for b in one.buffers],
            )
    for kind, union in (("request", control.Request), ("reply", control.Reply)):
        for one in get_args(union):
            for size in ("minimal", "full"):
                add(f"control.{one.__struct_config__.tag}.{size}", kind, example(one, size == "full"))
    made["index.json"] = (
        json.dumps({"protocol": PROTOCOL, "vectors": index}, indent=1, ensure_ascii=False) + "\n"
    ).encode()
    return made


def _json(value: Any) -> Any:
    """Bytes as {"hex": ...}; all else as it is."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    return value
