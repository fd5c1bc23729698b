"""The whole of an analysis, from what was measured in each session: rows, tests, tables, figures, report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from loop2p.analysis.acceptance import Row, rows_of
from loop2p.analysis.arm import Arm
from loop2p.analysis.figures import all_figures, save_figures
from loop2p.analysis.further import further_tests
from loop2p.analysis.report import write_report
from loop2p.analysis.statistics import Test
from loop2p.analysis.tables import all_tables


class Results(Struct, frozen=True):
    """What the arms say."""

    rows: list[Row]
    """A1 to A21."""
    tests: list[Test]
    """Every p of the rows and beside them."""


def results_of(arms: Mapping[str, Arm], seed: int) -> Results:
    """Judge the arms. Raises SessionError for arms that can't be judged: a mouse without day 1."""
    rows = rows_of(dict(arms))
    return Results(rows, [*(test for row in rows for test in row.tests), *further_tests(arms, seed)])


def write_results(folder: Path, arms: Mapping[str, Arm], results: Results, about: Mapping[str, Any]) -> Path:
    """Parquet tables, figures as SVG and PNG, and the page that shows it all; its path. Raises OSError.

    about: what the page says of how it was made; it must hold "seed".
    """
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for name, table in all_tables(arms, results.rows, results.tests).items():
        table.to_parquet(tables / f"{name}.parquet", index=False)
    figures = all_figures(dict(arms), int(about["seed"]))
    save_figures(figures, folder / "figures")
    simulated = any(session.simulated for arm in arms.values() for session in arm.sessions)
    return write_report(folder, dict(arms), results.rows, results.tests, {**about, "simulated": simulated}, figures)
