"""On features that say nothing, the decoders' tests say nothing: p is uniform, and accuracy is that of shuffles.

Beside each the trap that it avoids, shown to be one. The full form of a check has 200 null data sets.
"""

from functools import cache

import numpy as np
import pytest
from scipy import stats

from loop2p.analysis.classify import leave_one_out, shuffled
from loop2p.analysis.network import Network, Signs, decode_signs, pearson_p

SETS = [30, pytest.param(200, marks=pytest.mark.long)]
N_SHUFFLES, N_EVENTS = 3, 16
"""For the nulls alone: a rank among four is as exact as one among twenty."""


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
def nulls(n_sets: int, seed: int) -> list[Signs]:
    """Neurons whose residuals have nothing to do with the activity of 30 others."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_sets):
        features = rng.poisson(0.2, (N_EVENTS, 30)).astype(float)
        found.append(decode_signs(features, rng.standard_normal(N_EVENTS), rng, N_SHUFFLES))
    return found


def uniform_p(ranks: np.ndarray, steps: int, rng: np.random.Generator) -> float:
    """KS. A p of 1/4, 2/4, ... is made continuous by taking off up to a step at random: exactly uniform if it is."""
    return float(stats.kstest(ranks - rng.uniform(0, 1 / steps, len(ranks)), "uniform").pvalue)


@pytest.mark.parametrize("n_sets", SETS)
def test_p_of_confidence_against_residual_is_uniform_where_the_ordinary_one_is_too_small(n_sets):
    found = nulls(n_sets, 1)
    rng = np.random.default_rng(2)
    assert uniform_p(np.array([f.p for f in found]), N_SHUFFLES + 1, rng) > 0.01
    every_r = np.array([[f.r, *f.r_shuffled] for f in found]).ravel()
    ordinary = np.mean(pearson_p(every_r, np.array(N_EVENTS)) < 0.05)
    assert ordinary > 0.08  # not 0.05: confidences were learned from the residuals that they are held against


def test_neurons_chosen_by_r_are_accurate_in_noise_too():
    """Why accuracy is given of all neurons, and of shuffles chosen alike."""
    found = nulls(30, 1)
    n, none = len(found), np.zeros(len(found), np.int64)
    noise = Network(
        mouse=np.full(n, "m"), day=none, roi=none, role=np.full(n, "plus"), n_events=np.full(n, N_EVENTS),
        accuracy=np.array([f.accuracy for f in found]), r=np.array([f.r for f in found]),
        p=np.array([f.p for f in found]), accuracy_shuffled=np.array([f.accuracy_shuffled for f in found]),
        r_shuffled=np.array([f.r_shuffled for f in found]),
    ).summary()  # fmt: skip
    assert abs(noise.everyone.accuracy - noise.everyone.accuracy_shuffled) < 0.06
    assert noise.as_paper_by_chance.accuracy > noise.everyone.accuracy_shuffled + 0.1


@pytest.mark.parametrize("n_sets", SETS)
def test_p_of_accuracy_against_shuffles_over_sessions_is_uniform(n_sets):
    """Four sessions of 10 trials, four of them misses."""
    rng = np.random.default_rng(4)
    labels = np.arange(10) < 6
    p = []
    for _ in range(n_sets):
        margins = []
        for _ in range(4):
            features = rng.standard_normal((10, 10)) * (rng.random((10, 10)) < 0.3)
            chance = shuffled(features, labels, rng, 1)
            margins.append(leave_one_out(features, labels, rng).accuracy - chance[0].accuracy)
        p.append(stats.ttest_1samp(margins, 0).pvalue)
    assert stats.kstest(p, "uniform").pvalue > 0.01
