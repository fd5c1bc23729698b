"""What the experiment knows of a session, as plain CSV files: trials, pictures, phases, licks, running.

Comma-separated, UTF-8, the first line names the columns, in any order; columns that nobody asked for are left alone.
Times are seconds of the task's clock.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.sessions import SessionError


class Kind(Struct, frozen=True):
    """What a cell may hold."""

    parse: Callable[[str], Any]
    """Raises ValueError."""
    dtype: type[np.generic]
    expected: str


def _number(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError
    return value


def _whole(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise ValueError
    return value


def one_of(*words: str) -> Kind:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Kind(parse, np.str_, f"one of {', '.join(words)}")


NUMBER = Kind(_number, np.float64, "a number")
MAYBE = Kind(lambda text: _number(text) if text else np.nan, np.float64, "a number or nothing")
WHOLE = Kind(_whole, np.int64, "a whole number from 0")
TEXT = Kind(str, np.str_, "a text")


class Table(Struct, frozen=True):
    """A CSV file that was read."""

    path: Path
    columns: dict[str, NDArray[Any]]
    """All (n_rows,)."""
    lines: list[int]
    """(n_rows,) where in the file each row stands, from 1."""

    def __getitem__(self, column: str) -> NDArray[Any]:
        return self.columns[column]

    def require(self, good: NDArray[np.bool_], column: str, expected: str) -> None:
        """Raises SessionError naming the first row that is not good (n_rows,)."""
        if not good.all():
            row = int(np.argmin(good))
            place, found = f"{self.path}, line {self.lines[row]}", self[column][row]
            raise SessionError(f"{place}: {column} {found}, expected {expected}")

    def require_rising(self, column: str) -> None:
        """Raises SessionError naming the first row whose time is before that of the row above."""
        self.require(
            self[column] >= self.before(column), column, "times that rise from row to row: sort the rows by it"
        )

    def before(self, column: str) -> NDArray[np.float64]:
        """(n_rows,) the value in the row above; -inf in the first."""
        return np.append(-np.inf, self[column])[: len(self.lines)]


def read_table(path: Path, kinds: dict[str, Kind]) -> Table:
    """The columns asked for. Raises SessionError naming file, line, column, what stands there and what should."""
    wanted = ",".join(kinds)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            for name in kinds:
                if names.count(name) != 1:
                    there = ",".join(names) or "nothing"
                    raise SessionError(f"{path}, line 1: {there}; expected a column {name}, once: {wanted}")
            rows, lines = [], []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(names):
                    raise SessionError(
                        f"{path}, line {reader.line_num}: {len(row)} cells, expected {len(names)}: one a column, "
                        "commas between them, numbers with a decimal point"
                    )
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except FileNotFoundError:
        raise SessionError(
            f"{path}: no such file, expected a table with the columns {wanted}; its first line alone if there were none"
        ) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise SessionError(f"{path}: {error}; expected comma-separated text in UTF-8: save it as such") from None
    cells = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
    return Table(path, {n: _parsed(path, n, kind, cells.get(n, ()), lines) for n, kind in kinds.items()}, lines)


def _parsed(path: Path, name: str, kind: Kind, cells: tuple[str, ...], lines: list[int]) -> NDArray[Any]:
    """(n_rows,)"""
    values = []
    for cell, line in zip(cells, lines, strict=True):
        try:
            values.append(kind.parse(cell))
        except ValueError:
            found = repr(cell) if cell else "nothing"
            raise SessionError(f"{path}, line {line}: {name}: {found}, expected {kind.expected}") from None
    return np.array(values, kind.dtype)


def read_experiment(folder: Path) -> dict[str, Any]:
    """Fields of `SessionData` that the tables of a session's folder tell. Raises SessionError, OSError."""
    trials = _trials(folder / "trials.csv")
    shown = read_table(folder / "shown.csv", {"t_s": NUMBER, "angle_deg": MAYBE})
    shown.require_rising("t_s")
    licks, speed = folder / "licks.csv", folder / "speed.csv"
    return {
        **trials.columns,
        "phases": _phases(folder / "phases.csv"),
        "shown_s": shown["t_s"],
        "shown_deg": shown["angle_deg"],
        "lick_s": _series(licks)["t_s"] if licks.exists() else np.zeros(0),
        **(_speed(speed) if speed.exists() else {"speed_cm_s": np.zeros(0)}),
    }


def _trials(path: Path) -> Table:
    outcome = one_of("hit", "miss", "void", "unfinished")
    table = read_table(path, {"start_s": NUMBER, "outcome": outcome, "hit_s": MAYBE, "reward_s": MAYBE})
    table.require_rising("start_s")
    start_s, hit_s, reward_s = table["start_s"], table["hit_s"], table["reward_s"]
    hit = table["outcome"] == "hit"
    table.require(~hit | (hit_s >= start_s), "hit_s", "the time of the hit, after the trial's start_s")
    table.require(hit | np.isnan(hit_s), "hit_s", "nothing: this trial is no hit")
    table.require(np.isnan(reward_s) | (reward_s >= start_s), "reward_s", "a time after start_s, or nothing")
    return table


def _phases(path: Path) -> list[tuple[str, str, float, float]]:
    phase = one_of("baseline", "calibration", "closed_loop", "paused")
    table = read_table(path, {"phase": phase, "detail": TEXT, "start_s": NUMBER, "stop_s": NUMBER})
    table.require_rising("start_s")
    table.require(table["stop_s"] > table["start_s"], "stop_s", "a time after start_s")
    table.require(table["start_s"] >= table.before("stop_s"), "start_s", "a time after stop_s of the row above")
    return list(zip(*(column.tolist() for column in table.columns.values()), strict=True))


def _series(path: Path, **more: Kind) -> Table:
    table = read_table(path, {"t_s": NUMBER, **more})
    table.require_rising("t_s")
    return table


def _speed(path: Path) -> dict[str, NDArray[Any]]:
    table = _series(path, cm_s=NUMBER)
    return {"speed_t_s": table["t_s"], "speed_cm_s": table["cm_s"]}
