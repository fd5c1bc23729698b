"""The three shapes of dendritic against somatic size come back as they were planted."""

import numpy as np
import pytest
from msgspec import structs
from scipy import optimize

from loop2p.analysis.residuals import LEAST_EVENTS, Coincident
from loop2p.analysis.shape import MODELS, compare, fit_shapes

RELATIONS = {
    "linear": lambda s: 0.2 + 0.7 * s,
    "exponential": lambda s: 0.3 * np.exp(0.9 * s),
    "logarithmic": lambda s: 1.2 + 0.6 * np.log(s),
}


def events(relation, n_rois: int = 40, n_each: int = 80, noise: float = 0.2, seed: int = 0) -> Coincident:
    rng = np.random.default_rng(seed)
    roi = np.repeat(np.arange(n_rois), n_each)
    soma = rng.lognormal(-0.46, 0.45, len(roi))
    dendrite = relation(soma) + rng.normal(0, noise, len(roi))
    return Coincident(np.arange(len(roi)) * 1.0, roi, soma, dendrite, np.zeros(len(roi)))


def cohort(relation, **more) -> list:
    """Three mice, two sessions each."""
    return [fit_shapes(events(relation, seed=seed, **more), 40) for seed in range(6)]


MICE = ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("planted", MODELS)
def test_the_shape_that_was_planted_has_the_lowest_aic(planted):
    found = compare(cohort(RELATIONS[planted]), MICE)
    assert max(found.best, key=lambda name: found.best[name]) == planted
    means = {"linear": 0.0, **found.daic}
    assert min(means, key=lambda name: means[name]) == planted
    exponential, logarithmic, _ = found.tests[::3]
    assert max(exponential.p, logarithmic.p) < 0.01
    assert exponential.estimate == pytest.approx(found.daic["exponential"])
    assert found.n_neurons == 240
    assert [test.n for test in found.tests[:3]] == [(240,), (3,), (3,)]


def test_sizes_that_know_nothing_of_each_other_have_no_shape():
    found = compare(cohort(lambda s: np.ones_like(s)), MICE)
    assert all(abs(daic) < 0.5 for daic in found.daic.values())
    assert max(found.best.values()) < 0.6


def test_aic_is_that_of_a_gaussian_with_three_parameters():
    one = events(RELATIONS["exponential"], n_rois=1)
    found = fit_shapes(one, 1).aic[0]
    s, d = one.soma, one.dendrite
    curves = (lambda s, a, b: a + b * s, lambda s, a, b: a * np.exp(b * s), lambda s, a, b: a + b * np.log(s))
    for k, curve in enumerate(curves):
        best, _ = optimize.curve_fit(curve, s, d, p0=(0.5, 0.5))
        residual = d - curve(s, *best)
        variance = np.mean(residual**2)
        log_likelihood = -0.5 * np.sum(np.log(2 * np.pi * variance) + residual**2 / variance)
        assert found[k] == pytest.approx(2 * 3 - 2 * log_likelihood, abs=1e-4)


@pytest.mark.parametrize("planted", MODELS)
def test_units_do_not_matter(planted):
    """Sizes in other units, as height x width instead of dF/F."""
    one = events(RELATIONS[planted], n_rois=5)
    other = structs.replace(one, soma=20 * one.soma, dendrite=7 * one.dendrite)
    a, b = (fit_shapes(e, 5).aic for e in (one, other))
    assert a - a[:, :1] == pytest.approx(b - b[:, :1], abs=1e-3)


def test_the_residual_knows_nothing_of_somatic_size_on_its_own_events_nor_on_later_ones():
    found = compare(cohort(RELATIONS["linear"]), MICE)
    assert abs(found.r) < 1e-9  # an identity
    assert abs(found.r_ahead) < 0.04  # 3 standard errors of 240 neurons with 40 events
    shapes = fit_shapes(events(RELATIONS["linear"]), 40)
    assert np.nanstd(shapes.r_ahead) > 0.05


def test_a_line_that_changes_in_the_session_shows_in_later_events_alone():
    def drifting(seed: int) -> Coincident:
        one = events(RELATIONS["linear"], seed=seed)
        later = np.arange(len(one.roi)) % 80 >= 40
        return structs.replace(one, dendrite=one.dendrite + 0.4 * later * one.soma)

    found = compare([fit_shapes(drifting(seed), 40) for seed in range(6)], MICE)
    assert abs(found.r) < 1e-9
    assert found.r_ahead > 0.2
    assert found.tests[-2].level == "mouse"
    assert found.tests[-2].p < 0.01


def test_few_events_have_no_shape_and_one_mouse_no_test():
    few = fit_shapes(events(RELATIONS["linear"], n_each=LEAST_EVENTS - 1), 40)
    assert np.isnan(few.aic).all()
    with pytest.raises(ValueError, match="no neuron has a line"):
        compare([few], ["a"])
    one = compare([fit_shapes(events(RELATIONS["linear"]), 41)], ["a"])
    assert one.n_neurons == 40
    assert np.isnan(one.tests[1].p)


def test_a_size_without_a_logarithm_is_refused_by_name():
    one = events(RELATIONS["linear"])
    one.soma[3] = 0.0
    with pytest.raises(ValueError, match=r"event 3, ROI 0: somatic size 0\.0, expected above 0"):
        fit_shapes(one, 40)
