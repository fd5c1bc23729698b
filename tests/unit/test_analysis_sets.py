"""How often a signature is met over sets of mice."""

from pathlib import Path

import pandas as pd
import pytest

from loop2p.analysis.arm import sets_in
from loop2p.analysis.row import Row
from loop2p.analysis.sets import how_often, write_sets


def rows(**met: bool | None) -> list[Row]:
    return [Row(id, f"what {id} is", "paper", f"{verdict} <1>", "rule", verdict) for id, verdict in met.items()]


SETS = {"a": rows(A1=True, A2=False), "b": rows(A1=True, A2=None), "c": rows(A1=False, A2=True)}


def test_each_signature_is_counted_over_the_sets_that_could_be_judged():
    one, other = how_often(SETS)
    assert (one.row.id, one.n_met, one.n_judged) == ("A1", 2, 3)
    assert (other.row.id, other.n_met, other.n_judged) == ("A2", 1, 2)
    assert other.measured == {"a": "False <1>", "b": "None <1>", "c": "True <1>"}


def test_sets_with_other_signatures_or_none_are_refused():
    for wrong in ({}, {"a": rows(A1=True), "b": rows(A2=True)}):
        with pytest.raises(ValueError, match="expected at least one set and the same in all"):
            how_often(wrong)


def test_page_and_table_show_every_set(tmp_path: Path):
    page = write_sets(tmp_path, SETS, {name: f"{name}/report.html" for name in SETS}).read_text(encoding="utf-8")
    assert "2 of 3" in page
    assert "1 of 2" in page
    assert "True &lt;1&gt;" in page
    assert all(f'href="{name}/report.html"' in page for name in SETS)
    table = pd.read_parquet(tmp_path / "tables" / "sets.parquet")
    assert table.met.sum() == 3
    assert table.met.isna().sum() == 1


def test_sets_are_folders_that_hold_arms(tmp_path: Path):
    for name in ("one/main", "two/led", "two/main", "neither/x"):
        (tmp_path / name).mkdir(parents=True)
    assert list(sets_in(tmp_path)) == ["one", "two"]
    assert sets_in(tmp_path / "two") == {}
    assert sets_in(tmp_path / "absent") == {}
