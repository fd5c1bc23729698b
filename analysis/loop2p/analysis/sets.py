"""The whole experiment several times over, on other mice: how often is each signature met?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct

from loop2p.analysis.row import Row
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


def often_table(often: Sequence[Often]) -> pd.DataFrame:
    """A line for each signature and set."""
    return pd.DataFrame(
        [
            {"id": one.row.id, "signature": one.row.signature, "set": name, "measured": one.measured[name], "met": met}
            for one in often
            for name, met in one.met.items()
        ]
    ).astype({"met": "boolean"})


def write_sets(folder: Path, rows: Mapping[str, Sequence[Row]], reports: Mapping[str, str]) -> Path:
    """sets.html with each set beside the others, and tables/sets.parquet; the page's path. Raises OSError.

    reports: set name -> where its own page is, from `folder`.
    """
    often = how_often(rows)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    often_table(often).to_parquet(folder / "tables" / "sets.parquet", index=False)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = folder / "sets.html"
    write_atomically(page, environment.get_template("sets.html.j2").render(often=often, reports=dict(reports)))
    return page
