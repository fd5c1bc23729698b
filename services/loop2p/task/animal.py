"""The animal file: what must outlive a day. Its [loop2p] table is written by the task alone, the rest is the lab's."""

import re

from msgspec import Struct

from loop2p.protocol import parse_toml
from loop2p.task.selection import Index

_OURS = re.compile(r"^\[loop2p\][^\n]*\n(?:(?!\[)[^\n]*\n?)*", re.MULTILINE)


class Animal(Struct, frozen=True, forbid_unknown_fields=True):
    """The same neurons and the same criterion on every day (Methods 2.1, 2.4)."""

    day: int = 0
    """The last day that was calibrated; 0: none yet."""
    z_star: float | None = None
    """The criterion of day 1."""
    plus: list[Index] = []
    minus: list[Index] = []


class _File(Struct, frozen=True):
    loop2p: Animal = Animal()


def parse_animal(text: str, place: str) -> Animal:
    """The task's own table in the animal file. Raises FileError."""
    return parse_toml(text, _File, place).loop2p


def updated(text: str, animal: Animal) -> str:
    """The animal file with the task's table written anew, everything else as it stands."""
    rest = _OURS.sub("", text).rstrip("\n")
    z_star = [f"z_star = {animal.z_star!r}"] if animal.z_star is not None else []
    table = [
        "[loop2p]  # written by task; the next day reads it",
        f"day = {animal.day}",
        *z_star,
        f"plus = {animal.plus}",
        f"minus = {animal.minus}",
    ]
    return "\n".join([rest, "", *table] if rest else table) + "\n"
