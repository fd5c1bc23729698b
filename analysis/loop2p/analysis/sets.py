"""The whole experiment several times over, on other mice: how often is each signature met?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct

from loop2p.analysis.row import Row, p_text
from loop2p.analysis.statistics import Test, combined
from loop2p.runtime.atomic import write_atomically


class Often(Struct, frozen=True):
    """A signature in all sets."""

    row: Row
    """Of the first set: what is not measured is the same in all."""
    measured: dict[str, str]
    """By set."""
    met: dict[str, bool | None]

    @property
    def n_met(self) -> int:
        return sum(verdict is True for verdict in self.met.values())

    @property
    def n_judged(self) -> int:
        return sum(verdict is not None for verdict in self.met.values())


def how_often(rows: Mapping[str, Sequence[Row]]) -> list[Often]:
    """Each signature over the sets, (set name -> its rows). Raises ValueError for none, or other signatures."""
    ids = [[row.id for row in found] for found in rows.values()]
    if not ids or any(other != ids[0] for other in ids):
        raise ValueError(f"signatures of the sets: {ids}, expected at least one set and the same in all")
    return [
        Often(of[0], dict(zip(rows, (row.measured for row in of), strict=True)),
              dict(zip(rows, (row.met for row in of), strict=True)))
        for of in zip(*rows.values(), strict=True)
    ]  # fmt: skip


class Together(Struct, frozen=True):
    """One test over mice, of all sets that have it."""

    id: str
    """Of its row."""
    test: str
    by_set: dict[str, Test]
    all_mice: Test


def together(rows: Mapping[str, Sequence[Row]]) -> list[Together]:
    """Each signed test over mice that two sets or more have a p for, combined, in the order of the rows.

    No row is judged by it: the rules were written for one set. Raises ValueError as `combined`, for two tests of a row
    that answer one question by the same method.
    """
    found: dict[tuple[str, str, str], dict[str, Test]] = {}
    for name, of_set in rows.items():
        for row in of_set:
            for test in row.tests:
                if test.level == "mouse" and "ANOVA" not in test.test and not np.isnan(test.p):
                    key = row.id, test.what, test.test.partition(",")[0]
                    if found.setdefault(key, {}).setdefault(name, test) is not test:
                        raise ValueError(f"{row.id} of {name}: two tests {key[1:]}, expected one")
    return [
        Together(id, method, by_set, combined(list(by_set.values())))
        for (id, _, method), by_set in found.items()
        if len(by_set) > 1
    ]


def often_table(often: Sequence[Often]) -> pd.DataFrame:
    """A line for each signature and set."""
    return pd.DataFrame(
        [
            {"id": one.row.id, "signature": one.row.signature, "set": name, "measured": one.measured[name], "met": met}
            for one in often
            for name, met in one.met.items()
        ]
    ).astype({"met": "boolean"})


def together_table(tests: Sequence[Together]) -> pd.DataFrame:
    """A line for each test."""
    columns = {
        "id": [one.id for one in tests],
        "what": [one.all_mice.what for one in tests],
        "test": [one.test for one in tests],
        "n_sets": [len(one.by_set) for one in tests],
        "n_mice": [sum(one.all_mice.n) for one in tests],
        "estimate": [one.all_mice.estimate for one in tests],
        "p": [one.all_mice.p for one in tests],
    }
    return pd.DataFrame(columns)


def write_sets(
    folder: Path, rows: Mapping[str, Sequence[Row]], reports: Mapping[str, str], refused: Sequence[str] = ()
) -> Path:
    """sets.html with each set beside the others and all together, and tables/sets.parquet, tables/together.parquet.

    The page's path. Raises OSError; ValueError as `how_often` and `together`.
    reports: set name -> where its own page is, from `folder`. refused: why sessions are left out, which the page tells.
    """
    often, tests = how_often(rows), together(rows)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    often_table(often).to_parquet(folder / "tables" / "sets.parquet", index=False)
    together_table(tests).to_parquet(folder / "tables" / "together.parquet", index=False)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["p"] = p_text
    page = folder / "sets.html"
    template = environment.get_template("sets.html.j2")
    write_atomically(page, template.render(often=often, together=tests, reports=dict(reports), refused=refused))
    return page
