"""Tests and power on values whose answer is known by another way."""

import warnings

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

from loop2p.analysis.statistics import (
    Test,
    adjusted,
    anova_rm,
    detectable,
    mixed_model,
    mouse_means,
    power,
    power_curve,
    t_one_sample,
    t_over_mice,
    t_paired,
    t_two_sample,
    tukey_rm,
    wilcoxon,
)

SESSION = {"what": "x", "level": "session"}


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_difference_comes_with_its_n_test_and_level():
    found = t_two_sample(numbers(300) + 0.5, np.append(numbers(200, seed=1), np.nan), what="z", level="neuron-session")
    assert (found.what, found.test, found.level, found.n) == ("z", "two-sample t", "neuron-session", (300, 200))
    assert found.estimate == pytest.approx(0.5, abs=0.2)
    assert found.p < 1e-4


def test_a_pair_with_a_nan_is_no_pair():
    a, b = numbers(20), numbers(20, seed=1)
    a[3] = b[5] = np.nan
    there = np.isfinite(a - b)
    for found in (t_paired(a, b, **SESSION), wilcoxon(a, b, **SESSION)):
        assert found.n == (18,)
    assert t_paired(a, b, **SESSION).p == pytest.approx(stats.ttest_rel(a[there], b[there]).pvalue)
    assert wilcoxon(a, b, **SESSION).p == pytest.approx(stats.wilcoxon(a[there], b[there]).pvalue)


def test_too_few_or_equal_values_are_no_test_and_say_how_many():
    one, same = np.ones(1), np.full(5, 0.3)
    for found in (
        t_one_sample(one, 0.0, **SESSION),
        t_one_sample(same, 0.0, **SESSION),
        t_paired(np.zeros(0), np.zeros(0), **SESSION),
        t_two_sample(one, numbers(9), **SESSION),
        wilcoxon(same, same, **SESSION),
        mixed_model(numbers(9), np.full(9, "m1"), what="x"),
    ):
        assert np.isnan(found.p)
        assert found.n[0] in (0, 1, 5)


def test_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match=r"speed: 4 and 5 values, expected pairs"):
        t_paired(numbers(4), numbers(5), what="speed", level="session")


def test_anova_of_two_levels_is_the_paired_t():
    values = numbers(9, 2) + np.array([0.0, 0.8])
    anova, t = anova_rm(values, ["epoch"], **SESSION)[0], t_paired(values[:, 0], values[:, 1], **SESSION)
    assert anova.p == pytest.approx(t.p)
    assert anova.estimate == pytest.approx(stats.ttest_rel(*values.T).statistic ** 2)
    assert (anova.what, anova.test) == ("x: epoch", "one-way repeated-measures ANOVA")


def test_two_way_anova_finds_the_factor_that_acts_and_the_interaction_alone():
    subjects = 3 * numbers(8, 1, 1, seed=1)
    noise = 0.5 * numbers(8, 3, 4, seed=2)
    factor = subjects + noise + np.array([0, 1, 0])[:, None]
    crossed = subjects + noise + np.outer([-1, 0, 1], [-1, 1, 1, -1])
    p_factor, p_crossed = (
        {t.what: t.p for t in anova_rm(v, ["identity", "day"], **SESSION)} for v in (factor, crossed)
    )
    assert list(p_factor) == ["x: identity", "x: day", "x: identity x day"]
    assert p_factor["x: identity"] < 1e-4
    assert min(p_factor["x: day"], p_factor["x: identity x day"]) > 0.05
    assert p_crossed["x: identity x day"] < 1e-4
    assert min(p_crossed["x: identity"], p_crossed["x: day"]) > 0.01


def test_anova_refuses_a_subject_without_a_level_and_other_shapes():
    values = numbers(5, 3)
    values[2, 1] = np.nan
    with pytest.raises(ValueError, match="x: 1 of 15 values are NaN"):
        anova_rm(values, ["day"], **SESSION)
    with pytest.raises(ValueError, match=r"shape \(5, 3\)"):
        anova_rm(numbers(5, 3), ["identity", "day"], **SESSION)


def test_tukey_of_two_levels_is_the_paired_t_and_of_three_finds_the_odd_one():
    two = numbers(9, 2) + np.array([0.0, 0.8])
    assert tukey_rm(two, ["a", "b"], **SESSION)[0].p == pytest.approx(t_paired(*two.T, **SESSION).p, rel=1e-4)
    three = 5 * numbers(12, 1, seed=1) + 0.5 * numbers(12, 3, seed=2) + [0, 0, 1.5]
    found = {t.what: t for t in tukey_rm(three, ["a", "b", "c"], **SESSION)}
    assert list(found) == ["x: a - b", "x: a - c", "x: b - c"]
    assert found["x: a - b"].p > 0.05
    assert max(found["x: a - c"].p, found["x: b - c"].p) < 1e-3
    assert found["x: a - c"].estimate == pytest.approx(-1.5, abs=0.6)


def cells(mice: int, difference_sd: float, difference: float = 0.0, each: int = 30, seed: int = 0):
    """Values, mouse, group: mice differ in their mean by 1 and in their difference of groups by `difference_sd`."""
    rng = np.random.default_rng(seed)
    mouse = np.repeat([f"m{k}" for k in range(mice)], each)
    group = np.tile(np.arange(each) % 2 == 0, mice)
    mean, own = rng.standard_normal(mice), difference + difference_sd * rng.standard_normal(mice)
    of_mouse = np.repeat(np.arange(mice), each)
    values = mean[of_mouse] + own[of_mouse] * (group - 0.5) + rng.standard_normal(len(mouse))
    return values, mouse, group


def test_mouse_means_leave_nan_out():
    values = np.array([1.0, 3.0, np.nan, 5.0])
    mouse, group = np.array(["a", "a", "a", "b"]), np.array([True, False, True, True])
    assert np.array_equal(mouse_means(values, mouse, group), [[1, 3], [5, np.nan]], equal_nan=True)
    assert mouse_means(values, mouse).tolist() == [2, 5]
    assert t_over_mice(values, mouse, group, what="x").n == (1,)


def test_the_mixed_model_of_balanced_mice_that_differ_is_the_paired_t_over_mice():
    data = cells(6, difference_sd=2.0, difference=2.0)
    model, t = mixed_model(*data, what="x"), t_over_mice(*data, what="x")
    assert model.estimate == pytest.approx(t.estimate, rel=1e-6)
    assert model.p == pytest.approx(t.p, rel=0.01)
    assert (model.note, model.n, model.level) == ("", (6,), "mouse")


def test_the_mixed_model_is_that_of_statsmodels_where_mice_differ():
    values, mouse, group = cells(8, difference_sd=1.5, difference=1.0, seed=3)
    kept = np.random.default_rng(1).random(len(values)) < 0.7
    values, mouse, group = values[kept], mouse[kept], group[kept]
    x = np.column_stack([np.ones(len(values)), group - 0.5])
    free = MixedLMParams.from_components(np.ones(2), np.eye(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may call the end of its search a failure
        theirs = MixedLM(values, x, mouse, exog_re=x).fit(free=free)
    found = mixed_model(values, mouse, group, what="x")
    assert found.estimate == pytest.approx(theirs.fe_params[1], rel=0.01)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(theirs.tvalues[1]), 7), rel=0.05)


def test_a_fit_on_the_boundary_is_the_pooled_one_and_says_so():
    """Mice whose differences are nearer to each other than their neurons allow."""
    values, mouse, group = cells(6, difference_sd=0.0, difference=1.0)
    means = mouse_means(values, mouse, group)
    own = means[:, 0] - means[:, 1]
    values = values - np.repeat(0.9 * (own - own.mean()), 30) * (group - 0.5)
    found = mixed_model(values, mouse, group, what="x")
    assert found.note == "no variance of it between mice"
    assert found.test == "mixed model, t with 168 df"
    assert found.estimate == pytest.approx(own.mean())
    assert found.p < 1e-6


def test_the_mixed_model_does_not_ask_for_balance_and_does_not_see_units():
    values, mouse, group = cells(6, difference_sd=0.5, difference=1.5)
    kept = np.random.default_rng(1).random(len(values)) < 0.6
    values[~kept] = np.nan
    found = mixed_model(values, mouse, group, what="x")
    assert found.estimate == pytest.approx(1.5, abs=0.6)
    assert found.p < 0.01
    small = mixed_model(values * 1e-4, mouse, group, what="x")
    assert small.estimate == pytest.approx(found.estimate * 1e-4, rel=1e-3)
    assert small.p == pytest.approx(found.p, rel=1e-2)


def test_without_groups_the_mixed_model_tests_the_mean():
    values, mouse, _ = cells(8, difference_sd=0.0)
    found, t = mixed_model(values + 2, mouse, what="x"), t_over_mice(values + 2, mouse, what="x")
    assert (found.estimate, found.p) == pytest.approx((t.estimate, t.p), rel=1e-3)


def family(*p: float) -> list[Test]:
    return [Test("x", "t", "mouse", (6,), 0.0, value) for value in p]


def test_adjusted_p_are_those_of_two_stages_by_hand():
    """Stage 1 at .05/1.05 finds three of four, so one null is left: Benjamini-Hochberg's p times 1/4 times 1.05."""
    found = [t.p_adjusted for t in adjusted(family(0.01, 0.9, 0.02, 0.005))]
    assert found == pytest.approx([0.00525, 0.23625, 0.007, 0.00525])


def test_a_test_without_p_is_no_member_of_its_family_and_raw_p_stay():
    found = adjusted(family(0.01, np.nan, 0.9, 0.02, 0.005))
    assert [t.p_adjusted for t in found if np.isfinite(t.p)] == pytest.approx([0.00525, 0.23625, 0.007, 0.00525])
    assert np.isnan(found[1].p_adjusted)
    assert [t.p for t in found] == pytest.approx([0.01, np.nan, 0.9, 0.02, 0.005], nan_ok=True)
    assert adjusted([]) == []
    assert max(t.p_adjusted for t in adjusted(family(0.99, 0.98))) <= 1


def test_adjusting_a_family_of_nulls_makes_few_discoveries_and_of_effects_finds_them():
    rng = np.random.default_rng(0)
    nulls = [min(t.p_adjusted for t in adjusted(family(*rng.random(20)))) < 0.05 for _ in range(400)]
    assert np.mean(nulls) == pytest.approx(0.05, abs=0.03)
    mixed = adjusted(family(*rng.random(10), *(1e-4 * rng.random(10))))
    assert all(t.p_adjusted < 0.05 for t in mixed[10:])


def test_power_is_the_textbook_value_both_ways():
    """Ten values with a mean of one SD: .803 (Cohen's tables: .80)."""
    simulated, noncentral = power(1.0, 1.0, 0.0, n_mice=10, n_sessions=1, seed=0)
    assert noncentral == pytest.approx(0.803, abs=0.001)
    assert simulated == pytest.approx(noncentral, abs=0.02)


def test_sessions_help_against_the_variance_within_alone():
    _, few = power(1.0, 1.0, 3.0, n_mice=6, n_sessions=2, seed=0)
    _, many = power(1.0, 1.0, 3.0, n_mice=6, n_sessions=50, seed=0)
    assert many > few + 0.2
    _, one = power(1.0, 1.0, 0.0, n_mice=6, n_sessions=1, seed=0)
    _, fifty = power(1.0, 1.0, 0.0, n_mice=6, n_sessions=50, seed=0)
    assert one == pytest.approx(fifty)


def test_without_an_effect_the_power_is_alpha():
    assert power(0.0, 1.0, 1.0, 6, 14, alpha=0.1, seed=0) == pytest.approx((0.1, 0.1), abs=0.015)


def test_the_curve_rises_and_both_ways_agree_and_a_detectable_effect_is_detected():
    curve = power_curve(0.2, 0.2, 0.5, [3, 4, 6, 10, 20], 14, seed=1)
    assert (np.diff(curve.noncentral) > 0).all()
    assert np.allclose(curve.simulated, curve.noncentral, atol=0.025)
    effect = detectable(0.2, 0.5, n_mice=6, n_sessions=14)
    assert power(effect, 0.2, 0.5, 6, 14, seed=0) == pytest.approx((0.8, 0.8), abs=0.02)


def test_a_design_of_one_mouse_is_refused():
    with pytest.raises(ValueError, match="design of 1 mice x 14 sessions, expected at least 2 x 1"):
        power(0.2, 0.2, 0.5, n_mice=1, n_sessions=14, seed=0)
