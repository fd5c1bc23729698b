"""Where nothing is, p is uniform: each test at its own level, however much mice differ; and where one test is not.

200 data sets each, compared with the uniform distribution by Kolmogorov and Smirnov.
"""

import numpy as np
import pytest
from scipy import stats

from loop2p.analysis.partial import ErrorEvents, partial_regression
from loop2p.analysis.statistics import (
    anova_rm,
    mixed_model,
    t_one_sample,
    t_over_mice,
    t_paired,
    t_two_sample,
    tukey_rm,
    wilcoxon,
)

SETS, MICE, EACH = 200, 6, 40
BETWEEN = (0.0, 0.5, 2.0)
"""SD between mice, where values of a mouse differ by 1."""
X = {"what": "x", "level": "neuron-session"}


def uniform(p: list[float]) -> float:
    assert len(p) == SETS
    return float(stats.kstest(p, "uniform").pvalue)


def cells(rng: np.random.Generator, sd_mean: float, sd_difference: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of six mice, their mouse and group. Mice differ in their mean and in the difference of the groups."""
    mouse = np.repeat(np.arange(MICE), EACH)
    group = np.arange(len(mouse)) % 2 == 0
    mean, difference = sd_mean * rng.standard_normal(MICE), sd_difference * rng.standard_normal(MICE)
    return mean[mouse] + difference[mouse] * (group - 0.5) + rng.standard_normal(len(mouse)), mouse, group


@pytest.mark.parametrize(
    "test",
    [
        lambda rng: t_one_sample(rng.standard_normal(30), 0.0, **X),
        lambda rng: t_two_sample(rng.standard_normal(30), rng.standard_normal(50), **X),
        lambda rng: t_paired(rng.standard_normal(30), rng.standard_normal(30), **X),
        lambda rng: wilcoxon(rng.standard_normal(40), rng.standard_normal(40), **X),
    ],
    ids=["one-sample t", "two-sample t", "paired t", "Wilcoxon"],
)
def test_tests_of_independent_values(test):
    rng = np.random.default_rng(1)
    assert uniform([test(rng).p for _ in range(SETS)]) > 0.01


def subjects(rng: np.random.Generator, k: int, *shape: int) -> np.ndarray:
    """Subjects x levels: data sets take turns in how much subjects differ."""
    own = BETWEEN[k % len(BETWEEN)] * rng.standard_normal(shape[0])
    return own.reshape(-1, *[1] * (len(shape) - 1)) + rng.standard_normal(shape)


def test_pairs_and_repeated_measures_whatever_subjects_differ_by():
    rng = np.random.default_rng(2)
    assert uniform([t_paired(*subjects(rng, k, 8, 2).T, **X).p for k in range(SETS)]) > 0.01
    assert uniform([anova_rm(subjects(rng, k, 8, 3), ["day"], **X)[0].p for k in range(SETS)]) > 0.01


@pytest.mark.long
def test_tukey_and_two_factors_whatever_subjects_differ_by():
    rng = np.random.default_rng(7)
    three = [subjects(rng, k, 8, 3) for k in range(SETS)]
    assert uniform([min(t.p for t in tukey_rm(values, list("abc"), **X)) for values in three]) > 0.01
    two_way = np.array([[t.p for t in anova_rm(subjects(rng, k, 6, 2, 3), ["role", "day"], **X)] for k in range(SETS)])
    assert min(uniform(list(p)) for p in two_way.T) > 0.01


@pytest.mark.parametrize("between", BETWEEN)
def test_both_tests_over_mice_whatever_mice_differ_by(between):
    rng = np.random.default_rng(3)
    sets = [cells(rng, between, between) for _ in range(SETS)]
    assert uniform([t_over_mice(*data, what="x").p for data in sets]) > 0.01
    assert uniform([t_over_mice(*data[:2], what="x").p for data in sets]) > 0.01
    assert uniform([mixed_model(*data, what="x").p for data in sets]) > 0.01


def test_neuron_sessions_are_independent_only_where_mice_do_not_differ():
    """Why there is a mouse level: mice that differ in the effect make the paper's test find it in nothing."""
    rng = np.random.default_rng(4)

    def p_of(sd_difference: float) -> list[float]:
        sets = [cells(rng, 0.0, sd_difference) for _ in range(SETS)]
        return [t_two_sample(values[group], values[~group], **X).p for values, _, group in sets]

    assert uniform(p_of(0.0)) > 0.01
    differing = p_of(0.5)
    assert uniform(differing) < 1e-6
    assert np.mean(np.array(differing) < 0.05) > 0.15


def test_where_mice_differ_in_their_mean_alone_the_paper_s_test_is_too_strict():
    rng = np.random.default_rng(5)
    sets = [cells(rng, 2.0, 0.0) for _ in range(SETS)]
    p = [t_two_sample(values[group], values[~group], **X).p for values, _, group in sets]
    assert uniform(p) < 1e-6
    assert np.mean(np.array(p) < 0.05) < 0.03


def test_regressions_of_each_mouse_and_with_errors_clustered_by_mouse():
    rng = np.random.default_rng(6)
    n = MICE * 60
    mouse = np.array([f"m{k % MICE}" for k in range(n)])
    of_mouse = np.arange(n) % MICE
    role = np.where(rng.random(n) < 0.5, "plus", "minus")
    over_mice, clustered = [], []
    for _ in range(SETS):
        derivative = rng.standard_normal(n)
        error = 0.6 * rng.standard_normal(n) - 0.8 * derivative
        own = 0.3 * rng.standard_normal((2, MICE))[:, of_mouse]  # mice differ in both, in neither together
        z = np.where(role == "plus", 1, -1) * (own[0] * derivative + own[1] * error) + rng.standard_normal(n)
        none = np.zeros(n, int)
        found = partial_regression(ErrorEvents(mouse, none, none, role, z, derivative, derivative, error, error))
        over_mice.append([test.p for test in found.over_mice])
        clustered.append([test.p for test in found.clustered])
    assert min(uniform(list(p)) for p in np.transpose(over_mice)) > 0.01
    assert min(uniform(list(p)) for p in np.transpose(clustered)) > 0.01
