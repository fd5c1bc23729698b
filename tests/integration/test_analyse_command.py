"""`loop2p analyse` as a user runs it: one worker, two, a scheduler of processes; killed and gone on with; bad files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from short_day import day_task
from suite2p_folder import from_nwb, write_sheet

from loop2p.cli.analyse import result_folder
from loop2p.simulation.cohort import CohortParams, prepare, run_day

MICE, DAYS = 2, 2
TASK = day_task(60, 400)
Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms: one with fluorescence, one with events alone."""
    folder = tmp_path_factory.mktemp("arms")
    for arm, level in (("main", "traces"), ("no-apical", "events")):
        asked = {"arm": arm, "level": level, "mice": MICE, "days": DAYS, "n_cells": 60, "seed": 4, "task": TASK}
        prepare(folder / arm, CohortParams(**asked))
        for mouse in range(MICE):
            for day in range(1, DAYS + 1):
                run_day(folder / arm, mouse, day)
    return folder


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "loop2p.cli.main", "analyse", str(folder), "--out", str(out), *more]


def run(folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, out, *more), capture_output=True, text=True, timeout=280)


def tables(out: Path) -> dict[str, pd.DataFrame]:
    found = {path.stem: pd.read_parquet(path) for path in sorted((out / "tables").glob("*.parquet"))}
    assert {"sessions", "neurons", "events", "acceptance", "tests"} <= set(found)
    return found


def assert_same(one: Path, other: Path) -> None:
    for name, table in tables(one).items():
        pd.testing.assert_frame_equal(table, tables(other)[name], check_exact=True)


@pytest.fixture(scope="module")
def whole(arms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results by one worker."""
    out = tmp_path_factory.mktemp("one-worker")
    done = run(arms, out, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row for row in json.loads(done.stdout)["rows"]}
    assert list(rows) == [f"A{k}" for k in range(1, 22)]
    return out


def test_results_are_tables_figures_and_a_page_that_needs_nothing_else(whole: Path):
    found = tables(whole)
    assert len(found["sessions"]) == 2 * MICE * DAYS
    assert found["sessions"].groupby("arm").n_pairs.count().to_dict() == {"main": MICE * DAYS, "no-apical": 0}
    assert len(found["events"]) > 50
    assert found["tests"].n.str.len().min() > 0
    pictures = [path.name for path in (whole / "figures").iterdir()]
    assert sum(name.endswith(".svg") for name in pictures) == sum(name.endswith(".png") for name in pictures) > 3
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert all(f">A{k}<" in page for k in range(1, 22))
    assert "<svg" in page
    assert not any(word in page for word in ('src="http', "src='http", "<link", "@import", "<script src"))


@pytest.mark.long
def test_two_workers_find_the_same(arms: Path, whole: Path, tmp_path: Path):
    assert run(arms, tmp_path, "--workers", "2", "--json").returncode == 0
    assert_same(whole, tmp_path)


def test_a_scheduler_and_workers_of_their_own_find_the_same(arms: Path, whole: Path, tmp_path: Path, spawn: Spawn):
    address = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file"]
    spawn(*scheduler, str(address), stdout=-3, stderr=-3)
    worker = [*dask, "worker", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
    for _ in range(2):
        spawn(*worker, "--scheduler-file", str(address), stdout=-3, stderr=-3)
    deadline = time.monotonic() + 120
    while not address.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    where = json.loads(address.read_text())["address"]
    out = tmp_path / "out"
    done = run(arms, out, "--scheduler", where, "--json")
    assert done.returncode == 0, done.stderr
    assert_same(whole, out)


def test_a_killed_analysis_goes_on_and_finds_the_same(arms: Path, whole: Path, tmp_path: Path, spawn: Spawn):
    first = spawn(*command(arms, tmp_path, "--workers", "1"), stdout=-1, stderr=-1, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("done.json")):
        assert first.poll() is None, first.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("done.json")}
    assert len(kept) < 2 * MICE * DAYS
    assert not (tmp_path / "report.html").exists()
    assert run(arms, tmp_path, "--workers", "2", "--json").returncode == 0
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert_same(whole, tmp_path)


def test_several_sets_of_mice_are_judged_one_by_one_and_counted(arms: Path, whole: Path, tmp_path: Path):
    for name in ("first", "second"):
        shutil.copytree(arms / "no-apical", tmp_path / "sets" / name / "no-apical")
    done = run(tmp_path / "sets", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["sets"]
    assert list(found) == ["first", "second"]
    assert found["first"] == found["second"]
    page = (tmp_path / "out" / "sets.html").read_text(encoding="utf-8")
    assert 'href="second/report.html"' in page
    assert (tmp_path / "out" / "second" / "report.html").exists()
    one = tables(tmp_path / "out" / "first")["events"]
    other = tables(whole)["events"].query("arm == 'no-apical'").reset_index(drop=True)
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_bad_session_is_named_and_left_out(arms: Path, whole: Path, tmp_path: Path):
    folder = tmp_path / "main"
    shutil.copytree(arms / "main", folder)
    (folder / "mouse-01" / "day-02.nwb").write_bytes(b"no HDF5 file")
    done = run(folder, tmp_path / "out", "--json")
    assert done.returncode == 1
    (refused,) = json.loads(done.stdout)["refused"]
    assert "day-02.nwb" in refused
    assert "day-02.nwb" in (tmp_path / "out" / "report.html").read_text()
    found = tables(tmp_path / "out")["sessions"]
    all_days = tables(whole)["sessions"].query("arm == 'main'").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, all_days.iloc[:-1], check_exact=True)


def test_sessions_beside_the_arms_are_named_and_left_out(arms: Path, tmp_path: Path):
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(arms / "no-apical", folder / "no-apical")
    for day in range(5):
        write_sheet(folder / f"2026-01-0{day}-m7", "")
    done = run(folder, out, "--json")
    assert done.returncode == 1, done.stderr
    *named, more = json.loads(done.stdout)["refused"]
    what_to_do = "expected every session in one; move it into a folder named after its arm, or analyse it on its own"
    assert named == [
        f"{folder / f'2026-01-0{day}-m7'}: in none of the arms' folders in {folder}, {what_to_do}" for day in range(3)
    ]
    assert more == f"{folder}: 2 more in none of the arms' folders"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "5 sessions left out" in page
    assert all(f"2026-01-0{day}-m7" in page for day in range(5))
    assert len(tables(out)["sessions"]) == MICE * DAYS


def test_sessions_beside_sets_and_beside_the_arms_of_a_set_are_named_and_left_out(arms: Path, tmp_path: Path):
    folder = tmp_path / "runs"
    shutil.copytree(arms / "no-apical", folder / "cohort" / "no-apical")
    for name in ("2026-01-05-m7", "cohort/2026-01-06-m7"):
        (folder / name).mkdir()
        (folder / name / "session.nwb").touch()
    for again in range(2):  # with the results of the first run in the folder
        done = subprocess.run(command(folder, folder)[:-2], capture_output=True, text=True, timeout=280)
        assert done.returncode == 1, (again, done.stderr)
        told = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
        assert [line.partition(": in none")[0] for line in told] == [
            f"left out: {folder / name / 'session.nwb'}" for name in ("2026-01-05-m7", "cohort/2026-01-06-m7")
        ]
        assert (folder / "analysis" / "sets.html").exists()
    page = (folder / "analysis" / "cohort" / "report.html").read_text(encoding="utf-8")
    assert "2 sessions left out" in page


def test_results_among_the_sessions_are_not_taken_for_an_arm(arms: Path, tmp_path: Path):
    for mouse in (arms / "no-apical").glob("mouse-*"):
        shutil.copytree(mouse, tmp_path / mouse.name)
    for out in (tmp_path, tmp_path / "led", tmp_path / "led"):
        done = run(tmp_path, out, "--json")
        assert done.returncode == 0, (out, done.stderr)
        assert len(tables(out)["sessions"]) == MICE * DAYS
        assert (out / "measured" / "main" / "mouse-00--day-01" / "done.json").exists()


def test_suite2p_sessions_named_by_date_have_results_of_their_own(arms: Path, tmp_path: Path):
    folder, out = tmp_path / "m0", tmp_path / "out"
    for day in (1, 2):
        from_nwb(folder / f"2026.01.0{day}", arms / "main" / "mouse-00" / f"day-0{day}.nwb")
    done = run(folder, out, "--arm", "scalar", "--json")
    assert done.returncode == 0, done.stderr
    assert tables(out)["sessions"].day.tolist() == [1, 2]
    assert sorted(path.name for path in (out / "measured" / "scalar").iterdir()) == ["2026.01.01", "2026.01.02"]


def test_a_session_has_its_result_folder_by_its_place(tmp_path: Path):
    for name in ("mouse-00/day-01.nwb", "2026.01.05/session.nwb", "m.7/2026.01.05.nwb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    places = {
        "mouse-00/day-01.nwb": "mouse-00--day-01",
        "2026.01.05/session.nwb": "2026.01.05--session",
        "m.7/2026.01.05.nwb": "m.7--2026.01.05",
        "2026.01.05": "2026.01.05",
        "": tmp_path.name,
    }
    for name, place in places.items():
        assert result_folder(tmp_path, Path("out"), "main", tmp_path / name) == Path("out/measured/main", place)


def test_an_arm_without_a_usable_session_is_refused_in_few_words(arms: Path, tmp_path: Path):
    for arm, days in (("main", 2), ("led", 5)):
        for day in range(days):
            path = tmp_path / "in" / arm / f"day-{day}.nwb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"no HDF5 file")
    done = run(tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2
    assert "no session of the arm led is usable" in done.stderr or "no session of the arm main is" in done.stderr
    assert done.stderr.count(".nwb: ") <= 3
    led = run(tmp_path / "in" / "led", tmp_path / "out", "--arm", "led")
    assert "day-0.nwb" in led.stderr
    assert "day-4.nwb" not in led.stderr
    assert "and 2 more" in led.stderr


def test_a_folder_without_sessions_and_an_unknown_arm_are_refused(arms: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    nothing = run(tmp_path / "empty", tmp_path / "out")
    assert nothing.returncode == 2
    assert "no session, expected NWB files or suite2p session folders" in nothing.stderr
    unknown = run(arms, tmp_path / "out", "--arm", "x")
    assert unknown.returncode == 2
    assert "arm 'x', expected one of main, led" in unknown.stderr
