"""Arrays inside messages: plain little-endian bytes whose element type the schema states.

Measured (docs/decisions/0002-arrays.md): for 10 ROIs bytes cost a third of a list of floats to
encode and decode, for 500 ROIs a tenth; any language reads them with one call.
"""

from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike, NDArray

F32 = Annotated[bytes, Meta(extra={"dtype": "<f4"}, extra_json_schema={"x-dtype": "<f4"})]
"""float32, little-endian, C order."""
I32 = Annotated[bytes, Meta(extra={"dtype": "<i4"}, extra_json_schema={"x-dtype": "<i4"})]
"""int32, little-endian, C order."""


def f32(values: ArrayLike) -> bytes:
    """Pack numbers as little-endian float32."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def i32(values: ArrayLike) -> bytes:
    """Pack numbers as little-endian int32."""
    return np.ascontiguousarray(values, dtype="<i4").tobytes()


def from_f32(data: bytes) -> NDArray[np.float32]:
    """Read a packed float32 array, (n,). Raises ValueError if the bytes are no whole number of elements."""
    return np.frombuffer(data, dtype="<f4")


def from_i32(data: bytes) -> NDArray[np.int32]:
    """Read a packed int32 array, (n,). Raises ValueError if the bytes are no whole number of elements."""
    return np.frombuffer(data, dtype="<i4")
