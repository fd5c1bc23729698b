"""Coincident events and the line from soma to dendrite, on events whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loop2p.analysis.columns import joined
from loop2p.analysis.residuals import (
    LEAST_EVENTS,
    Coincident,
    coincident,
    fit_lines,
    latency_r,
    z_residuals,
)
from loop2p.analysis.sessions import PlaneEvents, SessionData


def events(t_s, roi, magnitude=None) -> PlaneEvents:
    t_s = np.asarray(t_s, float)
    sizes = np.arange(len(t_s)) if magnitude is None else magnitude
    return PlaneEvents(t_s, np.asarray(roi, np.int64), np.asarray(sizes, float))


def pairs_of(soma, dendrite, **more) -> list[tuple[float, float]]:
    """Which numbers of `events` above were taken together."""
    found = coincident(soma, dendrite, **more)
    return list(zip(found.soma.tolist(), found.dendrite.tolist(), strict=True))


def test_an_event_takes_the_closest_partner_of_its_own_neuron():
    soma = events([1.0, 5.0, 9.0], [0, 0, 1])
    dendrite = events([1.4, 1.1, 5.0, 9.2], [0, 0, 1, 1])
    assert pairs_of(soma, dendrite) == [(0, 1), (2, 3)]
    assert coincident(soma, dendrite).latency_s == pytest.approx([0.1, 0.2])  # of the dendrite, after the soma


def test_a_partner_taken_by_a_closer_event_leaves_the_next_best():
    soma = events([1.0, 1.3], [0, 0])
    assert pairs_of(soma, events([1.2, 1.75], [0, 0])) == [(1, 0)]  # 1.0 would have 1.2, which is 1.3's; 1.75 is far
    assert pairs_of(soma, events([1.2, 1.45], [0, 0])) == [(0, 1), (1, 0)]


def test_half_a_second_still_coincides_and_no_more():
    assert pairs_of(events([1.0], [0]), events([1.5], [0])) == [(0, 0)]
    assert pairs_of(events([1.0], [0]), events([1.501], [0])) == []


def test_neurons_next_to_each_other_in_the_table_do_not_mix_at_the_ends_of_a_session():
    assert pairs_of(events([0.0, 100.0], [1, 0]), events([100.0, 0.0], [0, 1])) == [(1, 0), (0, 1)]
    assert pairs_of(events([100.0], [0]), events([0.0], [1])) == []


def test_no_events_have_no_partners():
    assert pairs_of(events([], []), events([1.0], [0])) == pairs_of(events([1.0], [0]), events([], [])) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_pairs_are_those_of_taking_the_closest_two_again_and_again(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 60, 2)
    soma = events(np.sort(rng.uniform(0, 12, n)), rng.integers(0, 3, n))
    dendrite = events(np.sort(rng.uniform(0, 12, m)), rng.integers(0, 3, m))
    apart = np.abs(soma.t_s[:, None] - dendrite.t_s[None])
    apart[soma.roi[:, None] != dendrite.roi[None]] = np.inf
    wanted = set()
    while apart.min() <= 0.5:
        one, other = np.unravel_index(apart.argmin(), apart.shape)
        wanted.add((float(one), float(other)))
        apart[one], apart[:, other] = np.inf, np.inf
    assert set(pairs_of(soma, dendrite)) == wanted


def neurons(n_each: int = 400, shift: float = 0.0, seed: int = 0) -> tuple[Coincident, np.ndarray]:
    """Three neurons with lines 0.1 + 0.5 x, 0.2 + 0.7 x, 0.3 + 0.9 x and SD 0.1, 0.2, 0.3; and their true z."""
    rng = np.random.default_rng(seed)
    roi = np.repeat(np.arange(3), n_each)
    x, z = rng.lognormal(0, 0.4, len(roi)), rng.standard_normal(len(roi)) + shift
    y = 0.1 * (roi + 1) + (0.5 + 0.2 * roi) * x + 0.1 * (roi + 1) * z
    return Coincident(np.arange(len(roi)) * 1.0, roi, x, y, np.zeros(len(roi))), z


def test_each_neuron_has_its_own_line():
    found, truth = neurons()
    lines = fit_lines(found, 4)
    assert np.allclose(lines.intercept[:3], [0.1, 0.2, 0.3], atol=0.07)
    assert np.allclose(lines.slope[:3], [0.5, 0.7, 0.9], atol=0.07)
    assert np.allclose(lines.sd[:3], [0.1, 0.2, 0.3], rtol=0.1)
    assert np.isnan(lines.slope[3])  # no events
    assert np.corrcoef(z_residuals(found, lines), truth)[0, 1] > 0.99


def test_residuals_are_z_scores_that_know_nothing_of_the_soma():
    found, _ = neurons()
    z = z_residuals(found, fit_lines(found, 3))
    for k in range(3):
        own = found.roi == k
        assert abs(z[own].mean()) < 1e-9
        assert z[own].std(ddof=1) == pytest.approx(1)
        assert abs(np.corrcoef(z[own], found.soma[own])[0, 1]) < 1e-9


def test_a_line_of_control_events_measures_the_shift_of_the_others():
    """As with the LED: the others lie 0.9 SD below the line that they had no part in."""
    control, _ = neurons(seed=1)
    lit, _ = neurons(seed=2, shift=-0.9)
    both = joined([control, lit])
    is_control = np.arange(len(both.roi)) < len(control.roi)
    z = z_residuals(both, fit_lines(both, 3, is_control))
    assert z[is_control].mean() == pytest.approx(0, abs=1e-9)
    assert z[~is_control].mean() == pytest.approx(-0.9, abs=0.1)


def test_a_neuron_of_few_events_or_of_one_size_has_no_line():
    few, _ = neurons(n_each=LEAST_EVENTS - 1)
    assert np.isnan(fit_lines(few, 3).slope).all()
    enough, _ = neurons(n_each=LEAST_EVENTS)
    assert np.isfinite(fit_lines(enough, 3).slope).all()
    same = structs.replace(enough, soma=np.full_like(enough.soma, 0.7))
    assert np.isnan(z_residuals(same, fit_lines(same, 3))).all()
    exact = structs.replace(enough, dendrite=0.2 + 0.7 * enough.soma)
    assert np.isnan(z_residuals(exact, fit_lines(exact, 3))).all()


def timed(lead_s: float, delay_s: float) -> SessionData:
    """Three neurons; dendrites are late by `delay_s` with an SD of 0.1 s, and earlier by `lead_s` an SD of residual."""
    found, z = neurons()
    rng = np.random.default_rng(3)
    late_s = delay_s - lead_s * z + rng.normal(0, 0.1, len(z))
    t_s = 2.0 * rng.permutation(len(z))
    none = np.zeros(0)
    return SessionData(
        path=Path("x.nwb"), mouse="m", day=1, role=np.array(["plus", "minus", "other", "other"]), start_s=none,
        outcome=none.astype(str), hit_s=none, reward_s=none, phases=[("closed_loop", "", 0.0, 1e4)], shown_s=none,
        shown_deg=none, lick_s=none, speed_t_s=none, speed_cm_s=none,
        events={0: PlaneEvents(t_s, found.roi, found.soma), 1: PlaneEvents(t_s + late_s, found.roi, found.dendrite)},
    )  # fmt: skip


def test_amplified_events_that_lead_are_found_whatever_the_delay_of_the_planes():
    r = latency_r(timed(lead_s=0.03, delay_s=0.1))
    assert r[:3] == pytest.approx([-0.29] * 3, abs=0.1)
    assert np.isnan(r[3])
    assert latency_r(timed(lead_s=0.03, delay_s=-0.1))[:3] == pytest.approx(r[:3], abs=0.02)
    assert np.abs(latency_r(timed(lead_s=0.0, delay_s=0.1))[:3]).max() < 0.15
