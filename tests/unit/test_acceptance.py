"""The table as a whole: all rows in order, open where something is missing, readable, and nothing that crashes it."""

import json
from io import StringIO

import numpy as np
import pytest
from msgspec import structs
from rich.console import Console
from toy_decoders import made_network, made_outcomes
from toy_loop import VECTOR, cohort

from loop2p.analysis.acceptance import Row, print_rows, rows_of, rows_of_sessions
from loop2p.analysis.arm import Arm
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Test

IDS = [f"A{k}" for k in range(1, 22)]
IMPOSED = {"A5", "A6", "A7", "A8", "A9", "A17", "A20"}


def loops(mice: int = 2, days: int = 2) -> list[SessionData]:
    return cohort(0.4 * VECTOR, mice=mice, days=days, loop_s=600.0)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Of a main arm of two days."""
    return rows_of({"main": Arm("main", loops(), network=made_network(), outcomes=made_outcomes())})


def test_all_rows_are_there_in_order_whatever_the_arms(rows: list[Row]):
    assert [row.id for row in rows] == IDS
    nothing = rows_of({})
    assert [row.id for row in nothing] == IDS
    assert {row.met for row in nothing} == {None}
    assert {row.measured for row in nothing} == {"-"}
    assert all(row.signature and row.paper and row.rule for row in nothing)
    assert all(row.detail.startswith("needs ") for row in nothing)


def test_an_open_row_says_what_it_needs(rows: list[Row]):
    needs = {row.id: row.detail for row in rows if row.met is None}
    assert needs["A2"] == "needs days 9-14 of every mouse of the arm main"
    assert needs["A4"] == "needs events, and days 10-14 of every mouse of the arm main"
    assert needs["A16"] == "needs which P0 are like P+ and P-, which was not measured"
    assert needs["A17"] == "needs the arm ndnf"
    assert needs["A21"] == "needs the arms no-apical, scalar, permuted, yoked"
    bare = rows_of({"main": Arm("main", [structs.replace(s, events={}) for s in loops()])})
    needs = {row.id: row.detail for row in bare if row.met is None}
    assert needs["A7"] == "needs the network decoder, which was not run"
    assert needs["A9"] == "needs the outcome decoders, which were not run"
    assert needs["A12"] == "needs events of both planes, which 0-1.nwb has not"
    passive = rows_of({"main": Arm("main", [structs.replace(s, phases=[]) for s in loops()])})
    assert passive[11].detail == "needs closed loops of the arm main"


def test_a_recording_of_one_day_of_one_mouse_is_judged_where_it_can_be():
    rows = {row.id: row for row in rows_of({"main": Arm("main", loops(mice=1, days=1))})}
    assert rows["A1"].met is not None
    assert rows["A6"].met is not None
    assert rows["A12"].met is not None
    assert rows["A13"].detail.startswith("needs more than 1 mice: no p for")
    later = [structs.replace(s, day=7) for s in loops(mice=1, days=1)]
    assert rows_of({"main": Arm("main", later)})[0].detail == "needs day 1 of m0, whose first session is day 7"


def test_mice_that_are_in_two_arms_are_counted_once():
    def called(name: str) -> list[SessionData]:
        return [structs.replace(s, mouse=f"sim-{name}-{s.mouse}") for s in loops()]

    (first, *_) = rows_of({name: Arm(name, called(name)) for name in ("main", "led")})
    assert first.tests[0].n == (2,)
    assert first.detail.startswith("day 1, n = 2 mice in 4 sessions")


def test_few_events_leave_rows_open_and_crash_none():
    def few(session: SessionData) -> SessionData:
        events = {k: type(e)(e.t_s[:30], e.roi[:30], e.magnitude[:30]) for k, e in session.events.items()}
        return structs.replace(session, events=events)

    rows = {row.id: row for row in rows_of({"main": Arm("main", [few(s) for s in loops()])})}
    assert rows["A6"].detail.startswith("needs more events: no neuron has a line")
    assert {rows[name].met for name in ("A6", "A8", "A12", "A13", "A14", "A15")} == {None}


def test_rows_say_n_test_level_and_p_of_both_levels(rows: list[Row]):
    by_id = {row.id: row for row in rows}
    assert "(two-sample t, 20 + 20 neuron-sessions)" in by_id["A12"].detail
    assert "(paired t, 2 mice)" in by_id["A12"].detail
    for row in rows:
        if row.met is not None and row.id not in ("A1", "A13"):
            assert {"mouse"} < {test.level for test in row.tests}, row.id
        assert all(isinstance(test, Test) and test.what for test in row.tests)


def test_no_two_tests_of_a_row_have_one_name(rows: list[Row]):
    names = [(row.id, test.what, test.test, test.level) for row in rows for test in row.tests]
    assert len(names) > 50
    assert len(names) == len(set(names))


def test_rows_that_a_simulated_mouse_makes_by_construction_say_so(rows: list[Row]):
    assert {row.id for row in rows if row.imposed} == IMPOSED
    text = StringIO()
    print_rows(rows, Console(file=text, width=100))
    printed = text.getvalue()
    assert printed.count("no evidence in a simulated mouse: ") == len(IMPOSED)
    assert "[" not in printed  # no markup is left
    assert max(map(len, printed.splitlines())) <= 100
    assert printed.count("open") >= 5


def test_a_row_is_json_without_nan(rows: list[Row]):
    text = json.dumps([row.as_dict() for row in rows], allow_nan=False)
    assert [row["id"] for row in json.loads(text)] == IDS


def test_sessions_alone_give_the_learning_rows():
    assert [row.id for row in rows_of_sessions({"main": loops()})] == ["A1", "A2", "A3", "A4", "A5", "A19"]
    assert np.isfinite([test.p for test in rows_of_sessions({"main": loops()})[0].tests]).all()
