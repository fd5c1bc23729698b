"""The learning curve of an animal, from the run folders that stand beside one another."""

import json
import math
from pathlib import Path
from typing import Any

from loop2p.recording.days import days_of
from loop2p.recording.figures import learning_figure


def put(folder: Path, name: str, drawn_at: str, day: int | None, hits: int, misses: int, **other: Any) -> Path:
    run = folder / name
    run.mkdir()
    (run / "animal.toml").write_text(f'[loop2p]\nday = {day or 0}\ndrawn_at = "{drawn_at}"\n')
    summary = {
        "day": day, "hits": hits, "misses": misses, "trials": hits + misses, "loop_s": 600.0, "rewards": hits,
        "reward_ul": 4.0 * hits,
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary | other))
    return run


def today(run: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def test_the_days_of_one_animal_up_to_this_one(tmp_path: Path):
    put(tmp_path, "a", "then", 1, 10, 10)
    put(tmp_path, "b", "then", 2, 12, 8)
    put(tmp_path, "c", "then", 2, 18, 2)  # a second run of that day
    own = put(tmp_path, "d", "then", 3, 16, 4)
    put(tmp_path, "e", "then", 4, 20, 0)  # tomorrow, when the report is made again
    put(tmp_path, "f", "another", 1, 0, 20)
    (tmp_path / "latest").symlink_to(own)
    days = days_of(own, today(own))
    assert [(d.day, d.accuracy, d.rewards_per_min, d.trials, d.reward_ul) for d in days] == [
        (1, 0.5, 1.0, 20, 40.0), (2, 0.75, 1.5, 40, 120.0), (3, 0.8, 1.6, 20, 64.0),
    ]  # fmt: skip
    assert learning_figure(days).startswith("<svg")


def test_what_cannot_be_read_is_left_out(tmp_path: Path):
    own = put(tmp_path, "own", "then", 2, 16, 4)
    put(tmp_path, "old", "then", 1, 1, 1)
    (tmp_path / "old" / "summary.json").write_text("{")
    for missing in ("hits", "loop_s", "day"):
        other = put(tmp_path, missing, "then", 1, 1, 1)
        summary = today(other)
        del summary[missing]
        (other / "summary.json").write_text(json.dumps(summary))
    put(tmp_path, "text", "then", 1, 1, 1, trials="many")
    put(tmp_path, "baseline", "then", 1, 0, 0, loop_s=0.0)  # no trial
    (tmp_path / "ration.jsonl").write_text("")
    (tmp_path / "empty").mkdir()
    assert [day.day for day in days_of(own, today(own))] == [2]


def test_an_animal_that_was_never_drawn_has_its_own_run_alone(tmp_path: Path):
    put(tmp_path, "other", "", 1, 5, 5)
    own = put(tmp_path, "own", "", 2, 0, 0, voids=3, trials=3)
    (day,) = days_of(own, today(own))
    assert (day.day, day.trials) == (2, 3)
    assert math.isnan(day.accuracy)
