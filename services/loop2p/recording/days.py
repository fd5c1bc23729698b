"""What an animal did on its days: read from the run folders that stand beside one another."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct


class Day(Struct, frozen=True):
    """All runs of one animal's day that had trials."""

    day: int
    accuracy: float
    """Of hits and misses; NaN without any."""
    rewards_per_min: float
    """Of the time from the first trial to the last."""
    trials: int
    reward_ul: float


def days_of(run_folder: Path, today: dict[str, Any]) -> list[Day]:
    """The days of this folder's animal up to its own, in order. `today`: the run's own summary (summary.json).

    An animal is known by the moment its P+ and P- were drawn, which task keeps in its animal file. A folder that
    can't be read, or is another animal's, is left out.
    """
    drawn_at = _drawn_at(run_folder)
    summaries = [today, *(_others(run_folder, drawn_at) if drawn_at else ())]
    days = sorted({s["day"] for s in summaries if s["day"] is not None and s["day"] <= (today["day"] or 0)})
    found = (_day(day, [s for s in summaries if s["day"] == day]) for day in days)
    return [day for day in found if day.trials]


def _day(day: int, runs: list[dict[str, Any]]) -> Day:
    hits, misses = sum(run["hits"] for run in runs), sum(run["misses"] for run in runs)
    minutes = sum(run["loop_s"] for run in runs) / 60
    return Day(
        day=day,
        accuracy=hits / (hits + misses) if hits + misses else float("nan"),
        rewards_per_min=sum(run["rewards"] for run in runs) / minutes if minutes else float("nan"),
        trials=sum(run["trials"] for run in runs),
        reward_ul=sum(run["reward_ul"] for run in runs),
    )


def _others(run_folder: Path, drawn_at: str) -> Iterator[dict[str, Any]]:
    own = run_folder.resolve()
    for folder in sorted(own.parent.iterdir()):
        if folder.is_symlink() or folder == own or _drawn_at(folder) != drawn_at:
            continue
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            _day(0, [summary])  # has all that is asked
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(summary.get("day"), int):
            yield summary


def _drawn_at(folder: Path) -> str:
    """Empty where the folder's animal file does not say."""
    try:
        text = (folder / "animal.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text)["loop2p"]["drawn_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
