"""The page of an analysis: all that was judged, tested and drawn, and what it does not show."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from toy_arms import toy_arms, toy_session

from loop2p.analysis.arm import Arm
from loop2p.analysis.figures import all_figures
from loop2p.analysis.figures.power import design_power
from loop2p.analysis.report import limits, line_of, report_of, write_report
from loop2p.analysis.row import Row
from loop2p.analysis.statistics import Test

TESTS = [
    Test("z residual, P+ - P-", "two-sample t", "neuron-session", (40, 39), -0.1234, 1.5e-7, 3e-7),
    Test("dd", "one-sample t", "mouse", (6,), 0.31, 0.004),
    Test("silent", "paired t", "session", (1,), np.nan, np.nan, note="too few"),
]
ROWS = [
    Row("A1", "starts at chance", ".50", "0.52, 1.4/min", ".45-.60", True, aim="near: reached", detail="n = 6 mice"),
    Row("A12", "the sign <flips>", "+.004", "+0.01", "both p < .01", False, detail="p = 0.2", tests=tuple(TESTS[:1])),
    Row("A8", "amplified events earlier", "-.13", "-0.1", "r < 0", True, imposed="amplified trunks start earlier"),
    Row("A19", "NDNF blocks learning", ".56", "-", "ns", None, detail="needs the arm ndnf"),
]
META = {
    "folder": "cohort", "seed": 3, "params": {"n_shuffles": 19}, "versions": {"loop2p": "0.1"},
    "refused": ["x/m1.nwb: no intervals/phases, expected a session"], "simulated": True,
}  # fmt: skip


class Page(HTMLParser):
    """Text of the cells of each section, tags that are still open, and what the page would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: dict[str, list[str]] = {}
        self.section = ""
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "col"):
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attributes)["id"] or ""
            self.cells[self.section] = []
        if tag == "td":
            self.cells[self.section].append("")
        links = [value for key, value in attributes if value and key in ("src", "href", "xlink:href")]
        self.fetched += [link for link in links if not link.startswith(("#", "data:"))]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "col"):
            self.handle_endtag(tag)

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[self.section][-1] += data.strip()


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    return toy_arms()


@pytest.fixture(scope="module")
def html(arms: dict[str, Arm]) -> str:
    return report_of(arms, ROWS, TESTS, META)


def test_the_page_is_whole_and_fetches_nothing(html: str):
    page = Page(html)
    assert page.open == []
    assert page.fetched == []
    assert "@import" not in html
    assert "<script" not in html


def test_every_row_says_its_verdict_in_words(html: str):
    for row, verdict in zip(ROWS, ("met", "NOT MET", "met", "not there"), strict=True):
        line = re.search(rf'<td class="id">{row.id}</td>.*?</tr>', html)
        assert line is not None
        assert f">{verdict}</td>" in line[0]
        assert row.measured in line[0]
    assert "Aim: near: reached" in html
    assert "No evidence in a simulated mouse:</span> amplified trunks start earlier" in html
    assert "the sign &lt;flips&gt;" in html


def test_every_test_is_in_the_table_with_n_and_level(html: str):
    cells = Page(html).cells["tests"]
    assert len(cells) == 7 * len(TESTS)
    assert cells[:4] == ["z residual, P+ - P-", "two-sample t", "neuron-session", "40 + 39"]
    assert cells[4:7] == ["-0.123", "1.5e-07", "3e-07"]
    assert cells[7:14] == ["dd", "one-sample t", "mouse", "6", "+0.31", "0.004", "–"]
    assert cells[14].startswith("silent")
    assert "too few" in cells[14]
    assert cells[17:21] == ["1", "–", "–", "–"]


def test_every_figure_is_there_with_its_caption(html: str, arms: dict[str, Arm]):
    plates = all_figures(arms, 3)
    assert re.findall(r'class="figure" id="figure-([^"]+)"', html) == list(plates)
    assert html.count("<svg ") == len(plates)
    for number, plate in enumerate(plates.values(), 1):
        assert f"<h3>{number}. {plate.title}</h3>" in html
    assert "Dashed: the threshold is set so that half of the trials succeed by chance." in html


def test_the_page_says_what_was_analysed(html: str):
    cells = Page(html).cells["analysed"]
    assert cells[:5] == ["main", "3", "6", "1-2", "240"]
    assert "dF/F variant, P0 like P+ or P-, network decoder, outcome decoders" in cells[6]
    for name, value in (("seed", "3"), ("params", "n_shuffles 19"), ("versions", "loop2p 0.1")):
        assert cells[cells.index(name) + 1] == value
    assert "1 session left out" in html
    assert "x/m1.nwb: no intervals/phases" in html
    assert "Simulated mice." in html


def test_the_same_data_give_the_same_page():
    arms = {"main": Arm("main", [toy_session()])}
    assert report_of(arms, ROWS, TESTS, META) == report_of(arms, ROWS, TESTS, META)


def test_the_page_is_written_at_once(tmp_path: Path):
    path = write_report(tmp_path / "new", {"main": Arm("main", [])}, ROWS, TESTS, {"seed": 0})
    assert path == tmp_path / "new" / "report.html"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_live_recording_of_one_session_has_a_page():
    page = report_of({"main": Arm("main", [toy_session("mouse 7", 9)])}, [], [], {"seed": 0})
    assert "One mouse: nothing can be said of mice in general" in page
    assert "None was judged." in page
    assert 'id="power"' not in page
    assert "Simulated mice." not in page


def test_nothing_at_all_has_a_page():
    page = report_of({}, [], [], {"seed": 0})
    assert "There are no data to draw." in page
    assert "No arm has events in a closed loop" in page


def test_a_page_needs_a_seed():
    with pytest.raises(KeyError, match="seed"):
        report_of({}, [], [], {})


def test_figures_that_were_drawn_are_not_drawn_again(arms: dict[str, Arm]):
    plates = {"learning": all_figures({"led": arms["led"]}, 0)["learning"]}
    page = report_of(arms, [], [], {"seed": 0}, plates)
    assert page.count("<svg ") == 1


def test_limits_follow_from_what_is_there(arms: dict[str, Arm]):
    power = design_power(arms, 0)
    found = "\n".join(limits(arms, ROWS, TESTS, power))
    assert "3 mice, the paper had 6" in found
    assert power is not None
    assert f"below {power.detectable[1]:.2f} SD is missed" in found
    assert "Without the twins" not in found
    assert "NOT MET, so not shown here: A12 the sign <flips>." in found
    assert "Not judged: A19 needs the arm ndnf." in found
    assert "No evidence in a simulated mouse: A8 (amplified trunks start earlier)." in found
    assert "the p over mice is the one to believe" in found
    assert "1 of 3 p are not adjusted" in found
    alone = "\n".join(limits({"main": arms["main"]}, [], [], None))
    assert "Without the twins no apical role, scalar, permuted, yoked" in alone
    assert "neuron-sessions" not in alone


def test_an_arm_in_a_line():
    session = toy_session("a", 5)
    line = line_of(Arm("main", [session]))
    assert (line.mice, line.sessions, line.days, line.trials, line.measured) == (1, 1, "5", 40, "none")
    assert line.events == len(session.events[0].t_s)
