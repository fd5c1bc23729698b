"""Structs whose fields are all arrays with one entry for the same things: events, neuron-sessions, sessions."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

T = TypeVar("T", bound=Struct)


def joined(parts: Sequence[T]) -> T:
    """Put end to end. Raises ValueError for no parts."""
    if not parts:
        raise ValueError("nothing to put together, expected at least one part")
    names = parts[0].__struct_fields__
    return type(parts[0])(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def where(columns: T, chosen: NDArray[np.bool_]) -> T:
    """The entries where `chosen` (n,) is true."""
    return type(columns)(**{name: getattr(columns, name)[chosen] for name in columns.__struct_fields__})
