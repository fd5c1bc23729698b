"""Reads the objects in a .npy file without running it.

suite2p writes `stat.npy` as a pickle, and a pickle is a program: `np.load(allow_pickle=True)` would run whatever is in
it. Here the pickle machine gets stand-ins for the four numpy names that such a file needs, and an error for any other;
and of its operations only those that build lists, dicts, numbers, strings and calls of these stand-ins. It is the
machine in Python, not the one in C: that one allocates whatever a damaged file asks for.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


class Refused(ValueError):
    """The file is damaged, or asks for something that an array of dicts does not need."""


def read_objects(path: Path) -> list[Any]:
    """The elements of a one-dimensional object array: dicts, lists, numbers, strings, numpy arrays.

    Raises Refused with what was found; OSError if the file can't be read.
    """
    with open(path, "rb") as file:
        data = file.read()
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
    except Exception as error:
        raise Refused(f"no .npy file: {error}") from None
    if dtype != np.dtype(object) or len(shape) != 1:
        raise Refused(f"found {dtype} of shape {shape}, expected a one-dimensional array of objects")
    try:
        found = _Reader(stream).load()
        objects = found.value() if isinstance(found, _Array) else found
    except Refused:
        raise
    except Exception as error:  # a pickle can be damaged in any way
        raise Refused(f"damaged: {type(error).__name__}: {error}") from None
    if not isinstance(objects, list) or len(objects) != shape[0]:
        raise Refused(f"expected {shape[0]} objects in a list")
    return [_plain(item) for item in objects]


class _Operations(dict[int, Any]):
    def __missing__(self, code: int) -> NoReturn:
        raise Refused(f"it holds the pickle operation {code:#04x}, expected only those that numpy arrays need")


_LEFT_OUT = (
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID, pickle.INST, pickle.OBJ),
    *(pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class _Reader(pickle._Unpickler):
    dispatch = _Operations({k: v for k, v in pickle._Unpickler.dispatch.items() if bytes([k]) not in _LEFT_OUT})

    def find_class(self, module: str, name: str) -> Any:
        place = module.replace("numpy._core", "numpy.core")
        if (place, name) == ("numpy", "ndarray"):
            return _Name()
        if (place, name) == ("numpy", "dtype"):
            return _Maker(_Dtype)
        if (place, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _Maker(_Array)
        if (place, name) == ("numpy.core.multiarray", "scalar"):
            return _Maker(_scalar)
        raise Refused(f"it asks for {module}.{name}, expected numpy arrays and numbers only; nothing was run")


class _Name:
    """A name that is only ever handed on."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise Refused("it changes a name")


class _Maker(_Name):
    """A callable that the pickle can call but not alter."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


class _Dtype:
    """A numeric dtype, as pickled: ('f8', False, True) and then (3, '<', None, None, None, -1, -1, 0)."""

    __slots__ = ("kind", "order")

    def __init__(self, kind: Any, *_: Any) -> None:
        self.kind, self.order = kind, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any] | None:
        """None: objects."""
        if self.kind == "O8":
            return None
        if self.order not in ("<", ">", "|", "=") or not isinstance(self.kind, str) or self.kind[:1] not in "biufcUS":
            raise Refused(f"found dtype {self.kind!r}, expected a number or string")
        return np.dtype(self.order + self.kind)


class _Array:
    """An array, as pickled: (ndarray, (0,), b'b') and then (1, shape, dtype, fortran, bytes or list)."""

    __slots__ = ("state",)

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self) -> Any:
        """The array; a list where it holds objects. Raises on anything that does not fit."""
        _, shape, dtype, fortran, data = self.state
        kind = dtype.numpy()
        if kind is None:
            return list(data)
        return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    kind = dtype.numpy()
    if kind is None:
        raise Refused("found an object as a number")
    return np.frombuffer(data, kind)[0]


def _plain(item: Any) -> Any:
    """Stand-ins inside dicts and lists -> arrays."""
    try:
        if isinstance(item, _Array):
            return item.value()
        if isinstance(item, dict):
            return {key: v.value() if isinstance(v, _Array) else v for key, v in item.items()}
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"damaged: {type(error).__name__}: {error}") from None
    return item
