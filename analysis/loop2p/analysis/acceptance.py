"""The acceptance table (docs/experiment.md 7): the paper's value, ours, the rule, met or not.

Rules and levels were fixed before any judged cohort was simulated. Each row's rule stands beside its code in
`rows_learning` (A1-A5, A19), `rows_dendrites` (A6-A11), `rows_error` (A12-A16), `rows_perturbation` (A17, A18, A20) and
`rows_controls` (A21). The level at which a row is judged is the paper's: mice in A1-A5, A13, A21 and A19's test against
chance; sessions in A9-A11, A18 (its A9 and A10) and A19's groups; neuron-sessions in A6-A8, A12, A14-A18 and A20. As
neurons and sessions of a mouse are alike, each of these has the same question over mice beside it (`Row.tests`).
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loop2p.analysis import rows_controls, rows_dendrites, rows_error, rows_learning, rows_perturbation
from loop2p.analysis.arm import ARM_NAMES, Arm
from loop2p.analysis.learning import by_mouse
from loop2p.analysis.row import Row
from loop2p.analysis.sessions import SessionData, SessionError, read_arm

__all__ = ["Row", "check", "print_rows", "read_arms", "rows_of", "rows_of_sessions"]

PARTS = (rows_learning, rows_dendrites, rows_error, rows_perturbation, rows_controls)


def rows_of(arms: Mapping[str, Arm]) -> list[Row]:
    """A1 to A21. A row whose arms, days or decoders are not there is neither met nor not, and says what it needs."""
    return sorted((row(arms) for part in PARTS for row in part.ROWS), key=lambda row: int(row.id[1:]))


def rows_of_sessions(arms: Mapping[str, Sequence[SessionData]]) -> list[Row]:
    """A1-A5 and A19, which need no dendrites.

    Raises SessionError for a mouse without day 1: everything is measured against it.
    """
    for sessions in arms.values():
        for mouse, days in by_mouse(sessions).items():
            if days[0].day != 1:
                raise SessionError(f"{days[0].path}: the first session of {mouse} is day {days[0].day}, expected day 1")
    whole = {name: Arm(name, list(sessions)) for name, sessions in arms.items()}
    return [row(whole) for row in rows_learning.ROWS]


def read_arms(folder: Path) -> dict[str, list[SessionData]]:
    """Sessions by arm: a folder for each by its name ("main", "led", ...), or all of it one arm.

    Raises SessionError where there is none.
    """
    arms = {name: folder / name for name in ARM_NAMES if (folder / name).is_dir()}
    if not arms:
        asked = folder / "cohort.toml"
        name = tomllib.loads(asked.read_text(encoding="utf-8"))["arm"] if asked.exists() else folder.name
        if name not in ARM_NAMES:
            raise SessionError(f"{folder}: no arm of the experiment, expected a folder called {', '.join(ARM_NAMES)}")
        arms = {name: folder}
    return {name: read_arm(path) for name, path in arms.items()}


def check(folder: Path) -> list[Row]:
    """The rows that a folder's sessions alone allow. Raises SessionError, OSError."""
    return rows_of_sessions(read_arms(folder))


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """The table, for a person: a block of lines for each row."""
    for row in rows:
        verdict = "open" if row.met is None else "met" if row.met else "NOT MET"
        console.print(f"[bold]{row.id}  {verdict}[/]  {escape(row.signature)}", soft_wrap=True)
        note = f"no evidence in a simulated mouse: {row.imposed}" if row.imposed else ""
        lines = {"paper": row.paper, "measured": row.measured, "rule": row.rule, "aim": row.aim, "tests": row.detail}
        grid = Table.grid(padding=(0, 2, 0, 0))
        for name, text in {**lines, "why": row.unmet, "": note}.items():
            if text:
                grid.add_row(f"    {name}", escape(text))
        console.print(grid)
