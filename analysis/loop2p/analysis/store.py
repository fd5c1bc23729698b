"""Structs of arrays as Parquet files and back, to the bit; whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

T = TypeVar("T", bound=Struct)
STAMP = "done.json"


def to_table(columns: Struct) -> pa.Table:
    """A column for each field: arrays of equal length; a field (n, ...) becomes a column of lists.

    Raises ValueError where lengths differ.
    """
    fields = {name: np.asarray(getattr(columns, name)) for name in columns.__struct_fields__}
    lengths = {name: len(values) for name, values in fields.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{type(columns).__name__}: fields of lengths {lengths}, expected equal ones")
    shapes = {name: values.shape[1:] for name, values in fields.items()}
    arrays = {name: _column(values) for name, values in fields.items()}
    return pa.table(arrays, metadata={"shapes": json.dumps(shapes)})


def _column(values: Any) -> pa.Array:
    if values.dtype.kind == "U":
        return pa.array(values.tolist(), pa.string())
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


def from_table(kind: type[T], table: pa.Table) -> T:
    """What `to_table` was given. Raises KeyError for a table that is no such struct."""
    shapes = json.loads(table.schema.metadata[b"shapes"])
    fields = {}
    for name in kind.__struct_fields__:
        column = table.column(name).combine_chunks()
        if pa.types.is_string(column.type):
            fields[name] = np.array(column.to_pylist(), np.str_)
        elif pa.types.is_fixed_size_list(column.type):
            fields[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shapes[name])
        else:
            fields[name] = column.to_numpy(zero_copy_only=False)
    return kind(**fields)


def save(folder: Path, tables: Mapping[str, pa.Table], stamp: Mapping[str, Any]) -> None:
    """Replace a folder by these tables (NAME.parquet) and a stamp that says what they were made of.

    The stamp is written last and the folder takes its name after that, so a folder with a stamp is complete.
    """
    fresh = folder.with_name(f"{folder.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, table in tables.items():
        pq.write_table(table, fresh / f"{name}.parquet", compression="zstd")
    (fresh / STAMP).write_text(json.dumps(stamp, indent=1, sort_keys=True), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(fresh, folder)


def stamp_of(folder: Path) -> dict[str, Any] | None:
    """What a folder was made of; None where it is missing or not readable."""
    try:
        found: dict[str, Any] = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def holds(folder: Path, name: str) -> bool:
    """Whether a folder has a table."""
    return (folder / f"{name}.parquet").exists()


def load(folder: Path, name: str) -> pa.Table:
    """A table of a folder. Raises OSError where there is none."""
    return pq.read_table(folder / f"{name}.parquet")
