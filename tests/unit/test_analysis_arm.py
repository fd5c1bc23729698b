"""Which folders are arms and sets where the results of an earlier run lie among them."""

from pathlib import Path

import pytest

from loop2p.analysis.arm import arms_in, sets_in
from loop2p.analysis.sessions import SessionError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_results_are_no_set(tmp_path: Path):
    touch(tmp_path, "day-01.nwb", "measured/main/day-01/done.json", "out/main/measured/main/day-01/done.json")
    results = (tmp_path / "measured", tmp_path / "out" / "main")
    assert list(sets_in(tmp_path)) == ["measured", "out"]
    assert sets_in(tmp_path, results) == {}
    assert arms_in(tmp_path, results=results) == {"main": [tmp_path / "day-01.nwb"]}


def test_results_are_no_arm_however_their_path_is_written(tmp_path: Path):
    touch(tmp_path, "21/main/day-01.nwb", "21/led/measured/main/day-01/done.json", "led/report.html")
    results = (tmp_path / "21" / ".." / "21" / "led", tmp_path / "21" / ".." / "led")
    assert list(sets_in(tmp_path, results)) == ["21"]
    assert arms_in(tmp_path / "21", results=results) == {"main": [tmp_path / "21" / "main" / "day-01.nwb"]}
    with pytest.raises(SessionError, match="led: no session"):
        arms_in(tmp_path / "21")


def test_results_that_are_written_among_sessions_hide_none(tmp_path: Path):
    touch(tmp_path, "a/main/day-01.nwb", "a/main/report.html", "a/led/day-01.nwb", "a/report.html")
    assert list(arms_in(tmp_path / "a", results=(tmp_path / "a" / "main",))) == ["main", "led"]
    assert list(sets_in(tmp_path, (tmp_path / "a",))) == ["a"]
