"""A21: twins without a vector pass, twins with one do not, and what is no twin is not compared."""

import numpy as np
import pytest
from msgspec import structs
from toy_loop import NONE, SCALAR, VECTOR, cohort

from loop2p.analysis.arm import Arm, name_in_all_arms
from loop2p.analysis.row import MissingError
from loop2p.analysis.rows_controls import a21, twin_of
from loop2p.analysis.sessions import SessionData

PERMUTED = np.array([1.0, -1, 1, -1, 0] * 2 + [0.0] * 20)
WEIGHTS = {"main": VECTOR, "no-apical": NONE, "scalar": SCALAR, "permuted": PERMUTED, "yoked": NONE}


def arm(name: str, weight: np.ndarray, days: int = 2) -> Arm:
    """Mice are called after their arm, as those of a simulated cohort are."""

    def called(session: SessionData) -> SessionData:
        return structs.replace(session, mouse=f"sim-{name}-{session.mouse[1:]}")

    return Arm(name, cohort(weight, len(name), edit=called, days=days, loop_s=1200.0))


def arms(**other: np.ndarray) -> dict[str, Arm]:
    return {name: arm(name, weight) for name, weight in {**WEIGHTS, **other}.items()}


def test_twins_without_a_vector_pass():
    row = a21(arms())
    assert row.met is True
    assert [test.n for test in row.tests] == [(6,)] * 4
    assert all(name in row.measured for name in WEIGHTS)


@pytest.mark.parametrize("name", ["no-apical", "scalar", "permuted", "yoked"])
def test_a_twin_with_a_vector_fails(name: str):
    row = a21(arms(**{name: 0.7 * VECTOR}))
    assert row.met is False
    assert f"{name} FAILS" in row.detail


def test_a_scalar_has_to_act_on_p_plus_and_p_minus_alike():
    against = np.where(VECTOR > 0, 1.0, -0.3)
    twin = twin_of(arms(scalar=against), "scalar")
    assert twin.changes[0] > 0 > twin.changes[1]
    assert not twin.passes


def test_a_main_arm_without_a_vector_is_no_better_than_its_twins():
    assert a21(arms(main=NONE)).met is False


def test_the_row_is_open_until_all_twins_are_there_and_shows_what_is():
    for name in ("permuted", "yoked"):
        some = arms()
        del some[name]
        row = a21(some)
        assert row.met is None
        assert row.detail.endswith(f"needs the arms {name}")
        assert "no-apical" in row.measured


def test_only_the_days_and_mice_of_both_are_compared():
    there = arms()
    there["scalar"] = Arm("scalar", arm("scalar", SCALAR, days=3).sessions[:8])  # 3 days of 2 mice, 2 of a third
    twin = twin_of(there, "scalar")
    assert sorted(set(twin.main.mouse)) == ["sim-0", "sim-1", "sim-2"]
    assert set(twin.main.day) == {1, 2}
    assert np.array_equal(twin.main.day, twin.twin.day)


def test_what_is_no_twin_is_refused():
    there = arms()
    others = [structs.replace(s, mouse=f"{s.mouse}9") for s in there["scalar"].sessions]
    with pytest.raises(MissingError, match="mice and days that both main and scalar have"):
        twin_of({**there, "scalar": Arm("scalar", others)}, "scalar")
    larger = [structs.replace(s, role=np.append(s.role, "other")) for s in there["scalar"].sessions]
    with pytest.raises(MissingError, match=r"as many neurons in 0-1\.nwb as in 0-1\.nwb"):
        twin_of({**there, "scalar": Arm("scalar", larger)}, "scalar")


def test_twins_have_one_name():
    assert name_in_all_arms("sim-no-apical-3", "no-apical") == name_in_all_arms("sim-main-3", "main") == "sim-3"
    assert name_in_all_arms("m3", "main") == "m3"
