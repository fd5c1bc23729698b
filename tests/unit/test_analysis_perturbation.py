"""A perturbation that lowers residuals or rates is measured, one that does nothing is not, block by block."""

import numpy as np
import pytest
from msgspec import structs
from scipy import stats
from toy_blocks import N, blocks_session

from loop2p.analysis.perturbation import ANAESTHESIA, LED, Perturbed, group_tests, perturbed, shift_tests
from loop2p.analysis.sessions import PlaneEvents, SessionError


def cohort(shift: float, factor: float, mice: range, names=LED, **more) -> Perturbed:
    sessions = [blocks_session(m, d, shift, factor, names, **more) for m in mice for d in (1, 2)]
    return perturbed(sessions, names)


def p_of(tests) -> dict[tuple[str, str], float]:
    return {(t.what.split(": ")[1].split(",")[0], t.level): t.p for t in tests}


def test_shift_and_rate_are_those_put_in_at_every_level():
    found = cohort(-0.9, 0.4, range(5))
    tests = shift_tests(found, "NDNF")
    assert [t.level for t in tests] == ["neuron-session", "session", "mouse"] * 2
    assert [t.n[0] for t in tests[1:3]] == [10, 5]
    assert [t.estimate for t in tests[:3]] == pytest.approx([-0.9] * 3, abs=0.15)
    rate_hz = found.rate_hz[:, 0].mean()
    assert [t.estimate for t in tests[3:]] == pytest.approx([-0.6 * rate_hz] * 3, abs=0.003)
    assert rate_hz == pytest.approx(0.042, abs=0.005)
    assert max(t.p for t in tests) < 0.001


def test_a_light_that_does_nothing_is_found_to_do_something_no_more_often_than_by_chance():
    """Over mice, whose lines differ a little from block to block; over neuron-sessions it is found too often."""
    found = [p_of(shift_tests(cohort(0.0, 1.0, range(k, k + 4)), "LED")) for k in range(100, 220, 4)]
    for name in ("residual", "somatic event rate"):
        assert stats.kstest([p[name, "mouse"] for p in found], "uniform").pvalue > 0.01
    assert np.mean([p["residual", "neuron-session"] < 0.05 for p in found]) > 0.2


def test_residual_and_rate_are_told_apart():
    residual = p_of(shift_tests(cohort(-0.9, 1.0, range(6)), "x"))
    assert residual["residual", "mouse"] < 0.001
    assert residual["somatic event rate", "mouse"] > 0.05
    rate = p_of(shift_tests(cohort(0.0, 0.4, range(6)), "x"))
    assert rate["residual", "mouse"] > 0.05
    assert rate["somatic event rate", "mouse"] < 0.001


def test_fewer_events_alone_are_no_shift_though_somatic_sizes_are_measured_badly():
    """The line is flat then, but it is as flat for the events that it judges."""
    found = cohort(0.0, 0.4, range(6), dilute=0.4)
    assert found.by("mouse", found.residual).mean() == pytest.approx(0, abs=0.12)


def test_groups_that_differ_are_told_apart_and_equal_ones_are_not():
    ndnf, led, other = (cohort(-0.9, 0.4, range(4)), *(cohort(-0.1, 0.95, range(k, k + 5)) for k in (10, 30)))
    tests = group_tests(ndnf, led, "NDNF - LED only")
    assert max(t.p for t in tests) < 0.001
    assert [t.n for t in tests[1:3]] == [(8, 10), (4, 5)]
    assert tests[2].estimate == pytest.approx(-0.8, abs=0.2)
    assert min(t.p for t in group_tests(led, other, "same") if t.level == "mouse") > 0.05


def test_anaesthesia_has_its_own_blocks():
    found = cohort(-0.6, 0.4, range(2), names=ANAESTHESIA)
    assert np.nanmean(found.residual) == pytest.approx(-0.6, abs=0.2)


def test_the_control_block_s_own_mean_is_0_and_a_block_against_itself_too():
    one = blocks_session(0, 1, -0.9, 0.4)
    found = perturbed([one], ("led-off", "led-off"))
    assert np.nanmax(np.abs(found.residual)) < 1e-9
    assert np.array_equal(found.rate_hz[:, 0], found.rate_hz[:, 1])


def test_a_block_in_two_pieces_is_one_block():
    one = blocks_session(0, 1, -0.9, 0.4)
    off, wait, _, loop = one.phases
    pieces = [
        ("baseline", "led-on", 1000.0, 1300.0),
        ("paused", "", 1300.0, 1300.0),
        ("baseline", "led-on", 1300.0, 1776.0),
    ]
    cut = perturbed([structs.replace(one, phases=[off, wait, *pieces, loop])])
    whole = perturbed([one])
    assert np.array_equal(cut.residual, whole.residual, equal_nan=True)
    assert np.allclose(cut.rate_hz, whole.rate_hz)


def test_a_neuron_without_a_line_has_a_rate_and_no_residual():
    one = blocks_session(0, 1, -0.9, 0.4)
    kept = [(e.roi != 3) | (e.t_s > 900) for e in one.events.values()]
    events = {
        plane: PlaneEvents(e.t_s[k], e.roi[k], e.magnitude[k])
        for (plane, e), k in zip(one.events.items(), kept, strict=True)
    }
    found = perturbed([structs.replace(one, events=events)])
    assert np.isnan(found.residual[3])
    assert found.rate_hz[3, 0] == 0 < found.rate_hz[3, 1]
    assert np.isfinite(found.residual).sum() > 50


def test_sessions_without_the_block_or_without_events_are_refused_by_name():
    one = blocks_session(0, 1, 0.0, 1.0)
    with pytest.raises(SessionError, match=r"0-1\.nwb: passive blocks are led-off, led-on, expected one called awake"):
        perturbed([one], ANAESTHESIA)
    with pytest.raises(SessionError, match=r"0-1\.nwb: no events/dendritic_events"):
        perturbed([structs.replace(one, events={0: one.events[0]})])
    with pytest.raises(ValueError, match="level event, expected neuron-session"):
        perturbed([one]).by("event", np.zeros(N))
