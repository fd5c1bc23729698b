"""TOML text -> msgspec struct, with every mistake named by line or key and what was expected."""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

T = TypeVar("T")


class FileError(ValueError):
    """A mistake in a file a person wrote: file, line or key, found, expected."""


def read_toml(path: Path, kind: type[T]) -> tuple[T, str]:
    """Read and check a file; returns the struct and the text as it stands. Raises FileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse_toml(text, kind, str(path)), text


def parse_toml(text: str, kind: type[T], place: str) -> T:
    """Check TOML text against a struct. Raises FileError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{place}: not TOML: {error}") from None
    return convert(data, kind, place, text)


def convert(data: dict[str, Any], kind: type[T], place: str, text: str = "", prefix: str = "") -> T:
    """Check a dict against a struct; `prefix` is the table it came from. Raises FileError."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        key, message = _blame(data, kind) or ("", str(error))
    key = ".".join(part for part in (prefix, key) if part)
    line = line_of(text, key)
    raise FileError(f"{place}{f', line {line}' if line else ''}: {key or 'file'}: {message}")


def _blame(value: Any, kind: Any) -> tuple[str, str] | None:
    """The key of the smallest part that does not fit its type, and why; None if all fits."""
    for key, part, part_kind in _parts(value, kind):
        inner = _blame(part, part_kind)
        if inner:
            return f"{key}.{inner[0]}".strip("."), inner[1]
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        unknown = re.search(r"unknown field `(.+)`", message)
        if unknown:
            known = ", ".join(f.encode_name for f in msgspec.structs.fields(kind))
            return unknown.group(1), f"unknown key; expected one of {known}"
        message = message.replace("Object missing required field", "missing key").replace("`object`", "a table")
        return "", message if isinstance(value, dict | list) else f"{message}, found {value!r}"
    return None


def _parts(value: Any, kind: Any) -> list[tuple[str, Any, Any]]:
    """(key, value, type) of what a table or list holds, as far as its type says."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        fields = msgspec.structs.fields(kind)
        return [(f.encode_name, value[f.encode_name], f.type) for f in fields if f.encode_name in value]
    if get_origin(kind) is dict and isinstance(value, dict):
        return [(str(key), part, get_args(kind)[1]) for key, part in value.items()]
    if get_origin(kind) is list and isinstance(value, list):
        return [(str(k), part, get_args(kind)[0]) for k, part in enumerate(value)]
    return []


def line_of(text: str, key: str) -> int | None:
    """The line where a dotted key (or the deepest table that holds it) stands in TOML text, from 1."""
    parts = key.split(".") if key else []
    table: list[str] = []
    rows: dict[str, int] = {}  # how often a [[table]] has come
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([\w.\s\"'-]+?)\s*\]\]?\s*(#.*)?$", line)
        entry = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
        if header:
            table = [p.strip().strip("\"'") for p in header.group(1).split(".")]
            if line.lstrip().startswith("[["):
                row = rows[header.group(1)] = rows.get(header.group(1), -1) + 1
                table.append(str(row))
            path = table
        elif entry:
            path = table + [p.strip().strip("\"'") for p in entry.group(1).split(".")]
        else:
            continue
        if path and parts[: len(path)] == path and (best is None or len(path) > best[0]):
            best = (len(path), number)
    return best[1] if best else None
