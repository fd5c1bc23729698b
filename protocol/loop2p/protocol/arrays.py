"""Arrays inside messages: plain little-endian bytes whose element type the schema states.

Measured (docs/decisions/0002-arrays.md): for 500 ROIs bytes cost a twentieth or less of a list of floats to encode and
decode, for 10 ROIs the same; any language reads them with one call.
"""

from functools import cache
from typing import Annotated, get_args, get_origin

import numpy as np
from msgspec import Meta, Struct, structs
from numpy.typing import ArrayLike, NDArray

F32 = Annotated[bytes, Meta(extra={"dtype": "<f4"}, extra_json_schema={"x-dtype": "<f4"})]
"""float32, little-endian, C order."""
I32 = Annotated[bytes, Meta(extra={"dtype": "<i4"}, extra_json_schema={"x-dtype": "<i4"})]
"""int32, little-endian, C order."""
F64 = Annotated[bytes, Meta(extra={"dtype": "<f8"}, extra_json_schema={"x-dtype": "<f8"})]
"""float64, little-endian, C order."""
I64 = Annotated[bytes, Meta(extra={"dtype": "<i8"}, extra_json_schema={"x-dtype": "<i8"})]
"""int64, little-endian, C order."""


_F4, _I4, _F8, _I8 = (np.dtype(name) for name in ("<f4", "<i4", "<f8", "<i8"))


def f32(values: ArrayLike) -> bytes:
    """Pack numbers as little-endian float32."""
    return np.ascontiguousarray(values, dtype=_F4).tobytes()


def i32(values: ArrayLike) -> bytes:
    """Pack numbers as little-endian int32."""
    return np.ascontiguousarray(values, dtype=_I4).tobytes()


def f64(values: ArrayLike) -> bytes:
    """Pack numbers as little-endian float64."""
    return np.ascontiguousarray(values, dtype=_F8).tobytes()


def i64(values: ArrayLike) -> bytes:
    """Pack numbers as little-endian int64."""
    return np.ascontiguousarray(values, dtype=_I8).tobytes()


def from_f32(data: bytes) -> NDArray[np.float32]:
    """Read a packed float32 array, (n,). Raises ValueError if the bytes are no whole number of elements."""
    return np.frombuffer(data, dtype=_F4)


def from_i32(data: bytes) -> NDArray[np.int32]:
    """Read a packed int32 array, (n,). Raises ValueError if the bytes are no whole number of elements."""
    return np.frombuffer(data, dtype=_I4)


def from_f64(data: bytes) -> NDArray[np.float64]:
    """Read a packed float64 array, (n,). Raises ValueError if the bytes are no whole number of elements."""
    return np.frombuffer(data, dtype=_F8)


def from_i64(data: bytes) -> NDArray[np.int64]:
    """Read a packed int64 array, (n,). Raises ValueError if the bytes are no whole number of elements."""
    return np.frombuffer(data, dtype=_I8)


def broken_array(struct: Struct) -> str:
    """What is wrong with the first array field (also of structs in a list) that is no whole number of elements."""
    arrays, lists = _layout(type(struct))
    for name, dtype, size in arrays:
        n_bytes = len(getattr(struct, name))
        if n_bytes % size:
            return f"{name} of {n_bytes} bytes, expected a multiple of {size} ({dtype})"
    for name in lists:
        for k, item in enumerate(getattr(struct, name)):
            inner = broken_array(item)
            if inner:
                return f"{name}[{k}].{inner}"
    return ""


@cache
def _layout(kind: type[Struct]) -> tuple[list[tuple[str, str, int]], list[str]]:
    """The array fields (name, dtype, bytes an element), and the fields that are lists of structs."""
    arrays, lists = [], []
    for field in structs.fields(kind):
        dtype = array_dtype(field.type)
        if dtype:
            arrays.append((field.name, dtype, np.dtype(dtype).itemsize))
        elif get_origin(field.type) is list:
            item = get_args(field.type)[0]
            if isinstance(item, type) and issubclass(item, Struct):
                lists.append(field.name)
    return arrays, lists


def array_dtype(hint: object) -> str:
    """numpy's name of the elements of an array field; empty for any other field."""
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, Meta) and meta.extra and "dtype" in meta.extra:
            return str(meta.extra["dtype"])
    return ""
