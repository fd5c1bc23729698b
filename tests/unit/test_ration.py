"""What was given today is never forgotten: not by a restart, a torn file, a lost file or a restarted controller."""

from pathlib import Path

import pytest

from loop2p.actuation.ration import Ration
from loop2p.actuation.ration_file import RationFile, RationFileError, read_ration


def test_a_restart_finds_what_was_given(tmp_path: Path) -> None:
    path = tmp_path / "rigs" / "ration.jsonl"
    file = RationFile(path)
    file.ration.begin_day("2026-11-02")
    file.ration.begin_session("run-1", "m1")
    file.ration.book(4.0, 50.0)
    file.write()  # and no close: killed
    again = RationFile(path)
    assert (again.ration.day_ul, again.ration.session_ul) == (4.0, 4.0)
    assert again.ration == file.ration
    again.close()
    file.close()


def test_a_torn_last_line_gives_the_line_before(tmp_path: Path) -> None:
    path = tmp_path / "ration.jsonl"
    path.write_bytes(b'{"day":"2026-11-02","ul":{"":4}}\n{"day":"2026-11-02","ul":{"":8}}\n{"day":"2026-1')
    assert read_ration(path).ul == {"": 8}


@pytest.mark.parametrize("content", [b"", b'{"day"', b'{"day":"2026-11-02"}\nnonsense\n', b'{"ul":7}\n', b"\xff\xfe\n"])
def test_a_file_that_cannot_be_read_is_not_taken_for_nothing_given(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ration.jsonl"
    path.write_bytes(content)
    with pytest.raises(RationFileError, match=r"ration\.jsonl.*expected a JSON line"):
        RationFile(path)
    assert path.read_bytes() == content


def test_the_file_stays_short_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "ration.jsonl"
    for _ in range(3):
        file = RationFile(path)
        file.ration.begin_day("2026-11-02")
        for _ in range(20):
            file.ration.book(1.0, 12.0)
            file.write()
            file.write()  # unchanged: no line
        file.close()
        assert len(path.read_text().splitlines()) == 1 + 20  # where it stood, and each change
    assert read_ration(path).day_ul == 60.0


def test_a_new_day_starts_afresh_but_not_a_clock_that_went_back() -> None:
    ration = Ration(day="2026-11-02", animal="m1", run="r", ul={"m1": 900.0}, runs={"r": 500.0}, led_s={"m1": 3.0})
    ration.begin_day("2026-11-01")
    assert ration.day_ul == 900.0
    ration.begin_day("2026-11-03")
    assert (ration.day_ul, ration.day_led_s) == (0.0, 0.0)
    assert ration.session_ul == 500.0  # a session over midnight keeps its own limit


def test_each_animal_has_its_own_day_and_each_run_its_own_count() -> None:
    ration = Ration(day="2026-11-02")
    ration.begin_session("r1", "m1")
    ration.book(4.0, 50.0)
    ration.begin_session("r2", "m2")
    assert (ration.day_ul, ration.session_ul) == (0.0, 0.0)
    ration.begin_session("r3", "m1")
    assert (ration.day_ul, ration.session_ul) == (4.0, 0.0)
    ration.begin_session("r1", "m1")  # coming back resets nothing
    assert ration.session_ul == 4.0


def test_what_was_given_before_the_session_was_known_counts_for_it() -> None:
    ration = Ration(day="2026-11-02")
    ration.book(4.0, 50.0)
    ration.begin_session("r1", "m1")
    assert (ration.day_ul, ration.session_ul) == (4.0, 4.0)


def test_the_larger_count_stands() -> None:
    ration = Ration(day="2026-11-02")
    ration.reconcile(1, 0, 0, 0.1, booted_today=True)
    ration.book(4.0, 50.0)
    assert not ration.reconcile(1, 50, 0, 0.1, booted_today=True)
    assert not ration.reconcile(1, 20, 0, 0.1, booted_today=True)  # cut short: what was booked stays booked
    assert ration.day_ul == 4.0
    assert ration.reconcile(1, 80, 0, 0.1, booted_today=True)  # 30 ms that nobody booked
    assert ration.day_ul == pytest.approx(7.0)
    assert not ration.reconcile(1, 80, 0, 0.1, booted_today=True)


def test_a_lost_file_is_made_good_by_a_controller_that_booted_today() -> None:
    ration = Ration(day="2026-11-02")
    ration.reconcile(1, 1000, 60_000, 0.1, booted_today=True)
    assert (ration.day_ul, ration.day_led_s) == (pytest.approx(100.0), 60.0)


def test_counts_of_a_controller_that_has_run_for_days_start_now() -> None:
    ration = Ration(day="2026-11-02")
    ration.reconcile(1, 1000, 60_000, 0.1, booted_today=False)
    assert (ration.day_ul, ration.day_led_s) == (0.0, 0.0)
    ration.reconcile(1, 1010, 61_000, 0.1, booted_today=False)
    assert (ration.day_ul, ration.day_led_s) == (pytest.approx(1.0), 1.0)


def test_a_restarted_controller_takes_nothing_back() -> None:
    ration = Ration(day="2026-11-02")
    ration.reconcile(1, 0, 5_000, 0.1, booted_today=True)
    ration.book(4.0, 50.0)
    ration.reconcile(2, 0, 1_000, 0.1, booted_today=True)
    assert (ration.day_ul, ration.day_led_s) == (4.0, 6.0)
