"""What the analysis keeps on disk comes back to the bit, or not at all."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec import Struct

from loop2p.analysis import store
from loop2p.analysis.columns import joined


class Parts(Struct, frozen=True):
    name: np.ndarray
    size: np.ndarray
    count: np.ndarray
    yes: np.ndarray
    table: np.ndarray
    block: np.ndarray


def parts(n: int, value: float = 1.5) -> Parts:
    return Parts(
        name=np.array([f"m{k}" for k in range(n)], np.str_),
        size=np.full(n, value),
        count=np.arange(n),
        yes=np.arange(n) % 2 == 0,
        table=np.arange(2.0 * n).reshape(n, 2) / 3,
        block=np.arange(12.0 * n).reshape(n, 2, 3, 2),
    )


def same(one: Parts, other: Parts) -> bool:
    fields = [(getattr(one, f), getattr(other, f)) for f in Parts.__struct_fields__]
    return all(
        a.shape == b.shape and a.dtype.kind == b.dtype.kind and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in fields
    )


@pytest.mark.parametrize("n", [0, 1, 7])
def test_what_is_saved_comes_back_to_the_bit(n: int, tmp_path: Path):
    store.save(tmp_path / "a", {"parts": store.to_table(parts(n))}, {"method": 1})
    assert same(store.from_table(Parts, store.load(tmp_path / "a", "parts")), parts(n))
    assert store.stamp_of(tmp_path / "a") == {"method": 1}


@given(hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(allow_nan=True, width=64)))
def test_any_float_comes_back(values: np.ndarray):
    n = len(values)
    again = store.from_table(Parts, store.to_table(Parts(**{**_fields(parts(n)), "size": values})))
    assert again.size.tobytes() == values.tobytes() or np.array_equal(again.size, values, equal_nan=True)


def _fields(of: Parts) -> dict[str, np.ndarray]:
    return {f: getattr(of, f) for f in Parts.__struct_fields__}


def test_parts_are_put_end_to_end():
    whole = joined([parts(2), parts(0), parts(3)])
    assert whole.name.tolist() == ["m0", "m1", "m0", "m1", "m2"]
    assert whole.block.shape == (5, 2, 3, 2)
    with pytest.raises(ValueError, match="nothing to put together"):
        joined([])


def test_fields_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="Parts: fields of lengths"):
        store.to_table(Parts(**{**_fields(parts(3)), "size": np.zeros(2)}))


def test_a_folder_is_replaced_whole_and_has_no_stamp_until_then(tmp_path: Path):
    folder = tmp_path / "deep" / "a"
    assert store.stamp_of(folder) is None
    store.save(folder, {"old": store.to_table(parts(1))}, {"method": 1})
    store.save(folder, {"new": store.to_table(parts(1))}, {"method": 2})
    assert not store.holds(folder, "old")
    assert store.holds(folder, "new")
    assert store.stamp_of(folder) == {"method": 2}
    (folder / store.STAMP).write_text("{ half")
    assert store.stamp_of(folder) is None
    assert [p.name for p in folder.parent.iterdir()] == ["a"]
