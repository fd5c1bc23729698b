"""A17, A18 and A20 on toys in which a perturbation does what the paper says, and in which it does not."""

import pytest
from toy_blocks import blocks_session
from toy_decoders import made_outcomes
from toy_loop import NONE, VECTOR, cohort

from loop2p.analysis.arm import Arm
from loop2p.analysis.perturbation import ANAESTHESIA, LED
from loop2p.analysis.rows_perturbation import a17, a18, a20


def blocks(name: str, shift: float, factor: float, names=LED, mice=range(4)) -> Arm:
    return Arm(name, [blocks_session(mouse, day, shift, factor, names) for mouse in mice for day in (1, 2)])


@pytest.mark.parametrize(
    ("ndnf", "led", "met"),
    [
        ((-0.9, 0.4), (-0.1, 0.95), True),
        ((-0.2, 0.4), (-0.1, 0.95), False),  # too little
        ((-0.9, 1.6), (-0.1, 0.95), False),  # rate up
        ((-0.9, 0.4), (-0.5, 0.95), False),  # the light alone does it
    ],
)
def test_ndnf_lowers_residuals_and_rates_and_the_light_does_not(ndnf, led, met: bool):
    row = a17({"ndnf": blocks("ndnf", *ndnf), "led": blocks("led", *led, mice=range(10, 14))})
    assert row.met is met
    assert len(row.tests) == 18
    assert {test.level for test in row.tests} == {"neuron-session", "session", "mouse"}


@pytest.mark.parametrize(("shift", "factor", "met"), [(-0.6, 0.4, True), (0.6, 0.4, False), (-0.6, 1.5, False)])
def test_anaesthesia_lowers_both(shift: float, factor: float, met: bool):
    row = a20({"anaesthesia": blocks("anaesthesia", shift, factor, ANAESTHESIA)})
    assert row.met is met


def test_without_the_blocks_the_rows_are_open_and_say_so():
    row = a20({"anaesthesia": blocks("anaesthesia", -0.6, 0.4, LED)})
    assert row.met is None
    assert "expected one called awake" in row.detail
    assert a17({"ndnf": blocks("ndnf", -0.9, 0.4)}).detail == "needs the arm led"


def arm(name: str, works: bool, outcomes_work: bool | None = None, seed: int = 0) -> Arm:
    told = works if outcomes_work is None else outcomes_work
    gains = {"after": 0.11, "before": 0.07} if told else {"after": 0.0, "before": 0.0}
    sessions = cohort(0.5 * VECTOR if works else NONE, seed, mice=4, days=3, loop_s=1200.0)
    return Arm(name, sessions, outcomes=made_outcomes(**gains, mice=4, days=14, seed=seed))


def test_ndnf_abolishes_what_the_light_leaves():
    row = a18({"ndnf": arm("ndnf", False, seed=1), "led": arm("led", True)})
    assert "A12 less events nearby: NDNF reduction" in row.detail
    assert row.met is True
    assert "A9 and A10 beyond what is told by who was active: NDNF A9" in row.detail
    names = [(test.what, test.test) for test in row.tests]
    assert sum("residuals exchanged" in what for what, _ in names) == 12  # two arms, two epochs, three tests
    assert len(names) == len(set(names))
    between = [test for test in row.tests if test.what.startswith("NDNF - LED only")]
    assert len(between) == 3
    assert {test.test for test in between} == {"two-sample t"}
    assert max(test.p for test in between) < 0.05


@pytest.mark.parametrize(
    ("ndnf", "led"), [((True, True), (True, True)), ((False, False), (False, False)), ((False, True), (True, True)),
                      ((False, False), (True, False))],
)  # fmt: skip
def test_what_stays_or_is_gone_in_both_is_not_abolished(ndnf, led):
    """(the error signal, the decoders) of each."""
    assert a18({"ndnf": arm("ndnf", *ndnf, seed=1), "led": arm("led", *led)}).met is False


def test_without_decoders_the_row_is_open():
    bare = Arm("ndnf", arm("ndnf", False).sessions)
    assert a18({"ndnf": bare, "led": arm("led", True)}).met is None
