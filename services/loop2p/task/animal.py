"""The animal file: what must outlive a day. Its [loop2p] table is written by the task alone, the rest is the lab's."""

import json
import re
from typing import Annotated

from msgspec import Meta, Struct, structs

from loop2p.protocol import FileError, parse_toml
from loop2p.task.selection import Index

_OURS = re.compile(r"^\[loop2p\][^\n]*(?:\n(?!\[)[^\n]*)*\n?", re.MULTILINE)


class Animal(Struct, frozen=True, forbid_unknown_fields=True):
    """The same neurons and the same criterion on every day (Methods 2.1, 2.4)."""

    day: int = 0
    """The last day that was calibrated; 0: none yet."""
    z_star: float | None = None
    """The criterion of day 1."""
    plus: list[Index] = []
    minus: list[Index] = []
    seed: Annotated[int, Meta(ge=0)] | None = None
    """Of the draw that split them."""
    drawn_by: str = ""
    """Who confirmed the draw."""
    drawn_at: str = ""
    """ISO 8601 wall time of the session that first used it."""
    ration_ul: Annotated[float, Meta(gt=0)] | None = None
    """The lab's: at most so much a day, where it is less than the task file's reward.day_limit_ul."""


class _File(Struct, frozen=True):
    loop2p: Animal = Animal()
    baseline: object = None
    closed_loop: object = None
    """A task file's; here they are a mistake."""


def parse_animal(text: str, place: str) -> Animal:
    """The task's own table in the animal file. Raises FileError, for a task file in its place too."""
    found = parse_toml(text, _File, place)
    if found.baseline is not None or found.closed_loop is not None:
        raise FileError(f"{place}: found a task file (it has baseline or closed_loop), expected an animal file")
    return found.loop2p


def updated(text: str, animal: Animal) -> str:
    """The animal file with the task's table written anew, everything else as it stands."""
    rest = _OURS.sub("", text).rstrip("\n")
    known = {key: value for key, value in structs.asdict(animal).items() if value not in (None, "")}
    table = ["[loop2p]  # written by task; the next day reads it", *(f"{k} = {_toml(v)}" for k, v in known.items())]
    return "\n".join([rest, "", *table] if rest else table) + "\n"


def _toml(value: object) -> str:
    """A number, a list of numbers or a text; texts are JSON's but for one character that TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)
