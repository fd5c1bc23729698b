"""On features that say nothing, the decoders' tests say nothing: p is uniform, and accuracy is that of shuffles.

Beside each the trap that it avoids, shown to be one. And the counterpart: what was planted is found, as large as it is.
"""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from loop2p.analysis.classify import leave_one_out, shuffled
from loop2p.analysis.network import Network, Signs, decode_signs, pearson_p

N_SETS = 200
N_SHUFFLES, N_EVENTS = 19, 16


def test_noise_is_told_as_well_as_shuffled_noise_and_no_better_also_in_unequal_classes():
    for n_true, n_false in ((8, 8), (5, 12), (3, 20)):
        rng = np.random.default_rng([1, n_true])
        labels = np.arange(n_true + n_false) < n_true
        data, chance = [], []
        for _ in range(8):
            features = rng.standard_normal((len(labels), 30))
            data.append(leave_one_out(features, labels, rng))
            chance += shuffled(features, labels, rng, 1)
        for of in ("accuracy", "balanced"):
            one, other = (np.array([getattr(d, of) for d in runs]) for runs in (data, chance))
            assert stats.ttest_ind(one, other).pvalue > 0.01
        assert abs(np.mean([d.balanced for d in data]) - 0.5) < 0.15


@cache
def nulls() -> list[Signs]:
    """Neurons whose residuals have nothing to do with the activity of 30 others."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(N_SETS):
        features = rng.poisson(0.2, (N_EVENTS, 30)).astype(float)
        found.append(decode_signs(features, rng.standard_normal(N_EVENTS), rng, N_SHUFFLES))
    return [one for one in found if np.isfinite(one.p)]  # in one of some hundred, fewer than three are of one sign


def uniform_p(ranks: np.ndarray, steps: int, rng: np.random.Generator) -> float:
    """KS. A p of 1/20, 2/20, ... is made continuous by taking off up to a step at random: exactly uniform if it is."""
    return float(stats.kstest(ranks - rng.uniform(0, 1 / steps, len(ranks)), "uniform").pvalue)


def test_p_of_confidence_against_residual_is_uniform_where_the_ordinary_one_is_too_small():
    found = nulls()
    rng = np.random.default_rng(2)
    assert uniform_p(np.array([f.p for f in found]), N_SHUFFLES + 1, rng) > 0.01
    every_r = np.array([[f.r, *f.r_shuffled] for f in found]).ravel()
    ordinary = np.mean(pearson_p(every_r, np.array(N_EVENTS)) < 0.05)
    assert ordinary > 0.08  # not 0.05: confidences were learned from the residuals that they are held against


def test_p_is_uniform_with_a_session_s_own_numbers_too():
    """60 events, 300 somas that are silent most of the time and share what they do, 4 of 10 residuals above 0."""
    rng = np.random.default_rng(5)
    ranks = []
    for _ in range(N_SETS):
        shared = rng.standard_normal((60, 4)) @ rng.standard_normal((4, 300))
        features = rng.poisson(0.06 * np.exp(0.5 * shared - 0.5)).astype(float)
        found = decode_signs(features, rng.standard_normal(60) - 0.25, rng, N_SHUFFLES)
        ranks.append(found.p)
    assert uniform_p(np.array(ranks), N_SHUFFLES + 1, rng) > 0.01


@pytest.mark.parametrize(("truth", "significant"), [(0.61, 0.4), (0.75, 1.0), (0.9, 1.0)])
def test_a_planted_decoder_is_found_with_its_accuracy(truth, significant):
    """100 events, 300 somas that follow four variables; one of these tells the residual's sign, `truth` at best."""
    rng = np.random.default_rng([6, round(100 * truth)])
    found = []
    for _ in range(20):
        shared = rng.standard_normal((100, 4))
        features = shared @ rng.standard_normal((4, 300)) + 0.3 * rng.standard_normal((100, 300))
        z = np.tan(np.pi * (truth - 0.5)) * shared[:, 0] + rng.standard_normal(100)
        found.append(decode_signs(features, z, rng, N_SHUFFLES))
    accuracy = np.mean([f.accuracy for f in found])
    print(f"planted {truth}, found {accuracy:.3f}")
    assert truth - 0.05 < accuracy < truth + 0.025
    assert 0.47 < np.mean([f.accuracy_shuffled for f in found]) < 0.53
    assert np.mean([f.p <= 0.05 for f in found]) >= significant


def test_neurons_chosen_by_r_are_accurate_in_noise_too():
    """Why accuracy is given of all neurons, and of shuffles chosen alike."""
    found = nulls()
    n, none = len(found), np.zeros(len(found), np.int64)
    noise = Network(
        mouse=np.full(n, "m"), day=none, roi=none, role=np.full(n, "plus"), n_events=np.full(n, N_EVENTS),
        accuracy=np.array([f.accuracy for f in found]), r=np.array([f.r for f in found]),
        p=np.array([f.p for f in found]), accuracy_shuffled=np.array([f.accuracy_shuffled for f in found]),
        r_shuffled=np.array([f.r_shuffled for f in found]),
    ).summary()  # fmt: skip
    assert abs(noise.everyone.accuracy - noise.everyone.accuracy_shuffled) < 0.06
    assert noise.as_paper_by_chance.accuracy > noise.everyone.accuracy_shuffled + 0.1


def test_p_of_accuracy_against_shuffles_over_sessions_is_uniform():
    """Four sessions of 10 trials, four of them misses."""
    rng = np.random.default_rng(4)
    labels = np.arange(10) < 6
    p = []
    for _ in range(N_SETS):
        margins = []
        for _ in range(4):
            features = rng.standard_normal((10, 10)) * (rng.random((10, 10)) < 0.3)
            chance = shuffled(features, labels, rng, 1)
            margins.append(leave_one_out(features, labels, rng).accuracy - chance[0].accuracy)
        p.append(stats.ttest_1samp(margins, 0).pvalue)
    assert stats.kstest(p, "uniform").pvalue > 0.01
