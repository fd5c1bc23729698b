"""TOML text -> msgspec struct, with every mistake named by line or key and what was expected."""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

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
        message = str(error)
        found = re.search(r" - at `(?:key in )?\$\.?(.*)`$", message)
        inner = found.group(1) if found else ""
        if found:
            message = message[: found.start()]
        unknown = re.search(r"unknown field `(.+)`", message)
        if unknown:
            inner = f"{inner}.{unknown.group(1)}".strip(".")
            message = f"unknown key; expected one of {', '.join(_known(kind, inner))}"
        key = ".".join(part for part in (prefix, inner) if part)
        line = line_of(text, key)
        raise FileError(f"{place}{f', line {line}' if line else ''}: {key or 'file'}: {message}") from None


def _known(kind: type[Any], inner: str) -> list[str]:
    """Keys that are allowed beside the unknown one (top table only where the way down is not plain)."""
    for part in inner.split(".")[:-1]:
        hint = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}.get(part.split("[")[0])
        if not (isinstance(hint, type) and issubclass(hint, msgspec.Struct)):
            return ["those of SPEC.md"]
        kind = hint
    return [f.encode_name for f in msgspec.structs.fields(kind)]


def line_of(text: str, key: str) -> int | None:
    """The line where a dotted key (or the deepest table that holds it) stands in TOML text, from 1."""
    parts = re.sub(r"\[[^\]]*\]", "", key).split(".") if key else []
    table: list[str] = []
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?", line)
        entry = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
        if header:
            table = [p.strip().strip("\"'") for p in header.group(1).split(".")]
            path = table
        elif entry:
            path = table + [p.strip().strip("\"'") for p in entry.group(1).split(".")]
        else:
            continue
        if path and parts[: len(path)] == path and (best is None or len(path) > best[0]):
            best = (len(path), number)
    return best[1] if best else None
