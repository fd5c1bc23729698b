"""A12-A16 on closed loops whose dendrites follow a vector, a level, or nothing."""

from functools import cache

import numpy as np
import pytest
from msgspec import structs
from toy_loop import NONE, ROLE, SCALAR, VECTOR, N, cohort

from loop2p.analysis.acceptance import Row
from loop2p.analysis.arm import Arm
from loop2p.analysis.rows_error import a12, a13, a14, a15, a16
from loop2p.analysis.sessions import PlaneEvents, SessionData
from loop2p.analysis.statistics import Test

STRONG = 0.45
"""Of a vector whose contrast has the size of the paper's, about."""


@cache
def toys(strength: float = STRONG, level: float = 0.0, days: int = 4) -> list[SessionData]:
    return cohort(strength * VECTOR, level=level, days=days, loop_s=1200.0)


def rows(*args, **more) -> dict[str, Row]:
    arms = {"main": Arm("main", toys(*args, **more))}
    return {row.id: row for row in (of(arms) for of in (a12, a13, a14, a15))}


def test_a_vector_meets_the_rows_of_a_vector():
    found = rows()
    assert [found[name].met for name in ("A12", "A13", "A14")] == [True, True, None]
    assert found["A14"].detail.endswith("dF/F: needs sessions with fluorescence")
    assert found["A13"].aim == "in every mouse: reached"
    assert "6 of 6" in found["A13"].measured
    neurons, mice, mixed = found["A12"].tests[:3]
    assert (neurons.n, mice.n, mixed.n) == ((120, 120), (6,), (6,))


def test_nothing_and_a_scalar_do_not():
    for weight in (NONE, STRONG * SCALAR):
        arms = {"main": Arm("main", cohort(weight, days=2, loop_s=1200.0))}
        assert [row(arms).met for row in (a12, a14)] == [False, False]
    turned = {"main": Arm("main", cohort(-STRONG * VECTOR, days=4, loop_s=1200.0))}
    assert [row(turned).met for row in (a12, a13, a14)] == [False, False, False]


def test_a_vector_that_is_too_large_is_not_that_of_the_paper():
    row = rows(strength=1.0)["A12"]
    assert row.met is False
    assert max(test.p for test in row.tests) < 0.01


def blurred(session: SessionData) -> SessionData:
    """The same events, measured in another way: other units, sizes that err by a tenth."""
    rng = np.random.default_rng(session.day)
    return structs.replace(
        session,
        events={
            k: PlaneEvents(e.t_s, e.roi, 3 * e.magnitude * rng.normal(1, 0.1, len(e.t_s)))
            for k, e in session.events.items()
        },
    )


def test_both_variants_have_to_survive():
    sessions = toys()
    assert a14({"main": Arm("main", sessions, dff=[blurred(s) for s in sessions])}).met is True
    lost = cohort(NONE, days=4, loop_s=1200.0)
    row = a14({"main": Arm("main", sessions, dff=lost)})
    assert row.met is False
    variants = {"soma-matched", "dF/F", "less events nearby"}
    assert {test.what.rsplit(", ")[-1] for test in row.tests} == variants
    assert a14({"main": Arm("main", lost)}).met is False


def regressed(row: Row, change: str, level: str) -> tuple[Test, Test]:
    """Coefficients over mice of both, each given the other."""
    found = {test.what: test for test in row.tests if test.test == "one-sample t"}
    return found[f"z residual: role x derivative ({change})"], found[f"z residual: role x level ({level})"]


def test_where_nothing_acts_no_level_is_seen_and_where_a_level_acts_it_is():
    none, level = (a15({"main": Arm("main", toys(0.0, level))}) for level in (0.0, 0.4))
    assert (none.met, level.met) == (True, False)
    judged = level.tests[:4]
    assert [test.level for test in judged] == ["neuron-session", "mouse"] * 2
    assert np.isfinite([test.p_adjusted for test in judged]).all()
    change_acts, level_acts = regressed(level, "velocity_deg_s", "error_deg")
    assert level_acts.p < 0.01
    assert abs(change_acts.estimate) < 0.3 * level_acts.estimate


def test_where_the_change_acts_the_regression_beside_the_bins_says_so():
    """Of the bins alone the same toys may be taken for a level."""
    row = rows()["A15"]
    change_acts, level_acts = regressed(row, "rotation_deg_s", "bin_error_deg")
    assert change_acts.p < 0.01
    assert abs(level_acts.estimate) < change_acts.estimate
    assert "both in one regression: change +" in row.measured


@pytest.mark.parametrize(("strength", "met"), [(0.25, True), (0.9, False), (-0.4, False)])
def test_p0_that_are_like_p_cells_have_to_follow_less(strength: float, met: bool):
    """P0 10-14 go with P+, 15-19 with P-, as strongly as this part of the vector."""
    like = np.full(N, "other")
    like[10:15], like[15:20] = "plus", "minus"
    weight = VECTOR.copy()
    weight[10:15], weight[15:20] = strength, -strength
    sessions = cohort(0.6 * weight, days=4)
    assert ROLE[10:20].tolist() == ["other"] * 10
    row = a16({"main": Arm("main", sessions, like=[like] * len(sessions))})
    assert row.met is met
