"""The report is one file that tells a person what was run and what was wrong, and loads nothing."""

from pathlib import Path

import pytest
from synthetic_session import Made, make_session, write_journal

from loop2p.protocol import Session, seal
from loop2p.recording.report import write_report


@pytest.fixture(scope="module")
def made() -> Made:
    return make_session(seconds=70, opto=True, fault=True, kill_decoding_s=40)


@pytest.fixture(scope="module")
def folder(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_journal(tmp_path_factory.mktemp("run"), made.envelopes)


def test_the_report_is_one_file_and_says_loudly_what_was_simulated(folder):
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count("<svg") == 7
    for words in ("Simulated", "No display", "Fault in stimulus", "valve-date", "angle is nan", "decoding.output"):
        assert words in page, words
    outside = [part for part in page.split('"') if part.startswith(("http", "//"))]
    assert all("www.w3.org" in part for part in outside)  # SVG's name spaces; nothing is loaded
    assert "<script" not in page
    assert not list(folder.glob(".*"))


def test_the_report_does_not_run_what_a_text_contains(tmp_path):
    session = Session(run_id="<script>x</script>", rig="</pre><script>y</script>", task="", simulated=False)
    page = write_report(write_journal(tmp_path, [(1, seal(session, "task", "task-1", 0, 1))])).read_text(
        encoding="utf-8"
    )
    assert "<script" not in page
    assert "Simulated" not in page


def test_the_same_journal_gives_the_same_report(folder):
    assert write_report(folder).read_text() == write_report(folder).read_text()


def test_a_report_of_next_to_nothing_is_still_a_page(made, tmp_path):
    page = write_report(write_journal(tmp_path, made.envelopes[:40])).read_text(encoding="utf-8")
    assert "No trial was run" in page


def test_an_incomplete_record_is_said_at_the_top(made, tmp_path):
    holed = [(at, e) for at, e in made.envelopes if not (e.topic == "imaging.traces" and e.header.seq == 5)]
    page = write_report(write_journal(tmp_path, holed)).read_text(encoding="utf-8")
    assert "The record is not complete" in page
    assert "1 of 2163 missing, numbers 5" in page
