"""A6-A11 on toys in which each holds, and in which it does not."""

import numpy as np
import pytest
from msgspec import structs
from toy_decoders import made_network, made_outcomes
from toy_loop import NONE, cohort

from loop2p.analysis.acceptance import Row
from loop2p.analysis.arm import Arm
from loop2p.analysis.network import Network
from loop2p.analysis.outcome import Outcomes
from loop2p.analysis.rows_dendrites import a6, a7, a8, a9, a10, a11
from loop2p.analysis.sessions import PlaneEvents, SessionData


def toys(**more) -> dict[str, Arm]:
    return {"main": Arm("main", cohort(NONE, mice=4, days=2, loop_s=1200.0, **more))}


def told(found: Outcomes | None = None, network: Network | None = None) -> dict[str, Arm]:
    return {"main": Arm("main", [], outcomes=found, network=network)}


def bent(session: SessionData) -> SessionData:
    """Dendrites that grow exponentially with their somas."""
    soma, dendrite = session.events[0], session.events[1]
    noise = dendrite.magnitude - 0.7 * soma.magnitude
    size = 0.3 * np.exp(0.9 * soma.magnitude) + noise
    return structs.replace(session, events={0: soma, 1: PlaneEvents(dendrite.t_s, dendrite.roi, size)})


def test_a_line_is_told_from_a_curve():
    row = a6(toys())
    assert row.met
    assert "r is 0 by least squares, no evidence" in row.detail
    curved = a6(toys(edit=bent))
    assert curved.met is False
    assert "exponential -" in curved.measured


def test_dendrites_that_lead_when_amplified_are_told_from_those_that_do_not():
    leading = a8(toys(lead_s=0.03))
    assert leading.met
    assert [test.estimate for test in leading.tests] == pytest.approx([-0.34] * 6, abs=0.04)
    assert a8(toys(lead_s=0.0)).met is False
    assert a8(toys(lead_s=-0.03)).met is False


def test_a_network_that_tells_residuals_meets_the_row():
    row = a7(told(network=made_network()))
    assert row.met
    assert "Accuracy in those is circular" in row.detail
    share, over_mice, *_ = row.tests
    assert share.estimate == pytest.approx(0.15, abs=0.03)
    assert max(share.p, over_mice.p) < 0.01


@pytest.mark.parametrize(
    "wrong", [{"share": 0.05}, {"share": 0.4}, {"accuracy": 0.7}, {"accuracy": 0.53}, {"p0_accuracy": 0.5}]
)
def test_a_network_out_of_the_rule_does_not(wrong):
    row = a7(told(network=made_network(**wrong)))
    assert row.met is False


def test_without_enough_shuffles_or_without_p0_no_neuron_can_be_judged():
    assert a7(told(network=made_network(n_shuffles=10))).met is None
    whole = made_network()
    chosen = whole.role != "other"
    without = Network(**{name: getattr(whole, name)[chosen] for name in whole.__struct_fields__})
    assert a7(told(network=without)).detail == "needs decoded neurons of P0"


def test_decoders_of_outcomes_are_judged_against_their_shuffles():
    found = made_outcomes()
    assert [row(told(found)).met for row in (a9, a10)] == [True, True]
    assert [row(told(made_outcomes(after=0.0, before=0.0))).met for row in (a9, a10)] == [False, False]
    assert a10(told(made_outcomes(after=0.03, before=0.07))).met is False  # more before than after
    assert a9(told(made_outcomes(after=0.03, days=140))).met is False  # significant, and too little
    assert a9(told(found)).tests[0].n == (84,)
    assert a9(told(found)).tests[1].n == (6,)


HIT, MISS = (1, 0), (1, 1)


def test_the_order_before_a_hit_alone_meets_the_row():
    """Nearly always: with three nulls elsewhere, one or the other is below .05 by chance."""
    found = [a11(told(made_outcomes(seed=seed))).met for seed in range(40)]
    assert np.mean([met is True for met in found]) > 0.75
    row = a11(told(made_outcomes()))
    assert [test.level for test in row.tests] == ["session"] * 4 + ["mouse"] * 8
    assert np.isfinite([test.p_adjusted for test in row.tests]).all()
    assert row.measured.startswith("before hit +0.")


@pytest.mark.parametrize(
    "residual",
    [
        {},
        {HIT: (-0.11, 0.09, 0.0)},  # turned round
        {HIT: (0.09, -0.11, 0.3)},  # P0 above both
        {HIT: (0.09, -0.11, 0.01), MISS: (0.2, -0.2, 0.0)},
        {HIT: (0.09, -0.11, 0.01), (0, 0): (0.2, -0.2, 0.0)},
    ],
)
def test_no_order_another_order_or_one_elsewhere_does_not(residual):
    assert a11(told(made_outcomes(residual=residual))).met is False


def test_without_p0_the_order_is_open():
    found = made_outcomes()
    residual = found.residual.copy()
    residual[..., 2] = np.nan
    row = a11(told(structs.replace(found, residual=residual)))
    assert (row.met, row.detail) == (None, "needs events of P0 in the 2 s before a hit")


def test_nulls_are_hardly_ever_taken_for_an_order():
    met = [a11(told(made_outcomes(residual={}, seed=seed))).met for seed in range(60)]
    assert sum(map(bool, met)) <= 3


def test_rows_have_the_text_of_the_paper_and_of_the_rule():
    rows: list[Row] = [row({}) for row in (a6, a7, a8, a9, a10, a11)]
    assert [row.met for row in rows] == [None] * 6
    assert rows[3].rule == "accuracy >= shuffled + .05, p < .01"
