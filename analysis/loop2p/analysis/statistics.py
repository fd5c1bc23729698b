"""Every p with its n, its test and its level (docs/experiment.md 3.12).

The paper takes each neuron of each session as independent ("neuron-session"). A neuron comes 14 times and mice differ,
so that p is too small wherever mice differ in the effect itself (tests/science/test_statistics_on_nulls.py); the tests
over mice are the honest ones, and both are offered. All tests are two-sided. Values that are NaN are left out; where
too few are left, or none differs from another, p is NaN and n says why.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from msgspec import Struct, structs
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

Level = Literal["event", "neuron-session", "session", "mouse"]
Floats = NDArray[np.float64]
SIMULATIONS = 4000
"""Of a design, for its power: the standard error of a power is then below .008."""
BOUNDARY = 1e-6
"""A variance between mice below this part of the variance within is 0."""


class Test(Struct, frozen=True):
    """A p with all that is needed to judge it."""

    __test__: ClassVar[bool] = False  # no test case: pytest looks for classes of this name

    what: str
    test: str
    level: Level
    n: tuple[int, ...]
    """Of each group, in the order compared; one number where values are paired."""
    estimate: float
    """Difference of means, first minus second; of Wilcoxon the median difference, of ANOVA F."""
    p: float
    p_adjusted: float = np.nan
    """In its family (`adjusted`)."""
    note: str = ""
    """What a reader of p must know: a fit on the boundary."""


def t_one_sample(values: Floats, chance: float, *, what: str, level: Level) -> Test:
    """Mean of (n,) against a number."""
    found = _finite(values)
    estimate = float(found.mean() - chance) if len(found) else np.nan
    return Test(what, "one-sample t", level, (len(found),), estimate, _p(stats.ttest_1samp, found, chance))


def t_two_sample(first: Floats, second: Floats, *, what: str, level: Level) -> Test:
    """Means of (n,) and (m,), Student's with equal variances: the paper says t-test and no more."""
    a, b = _finite(first), _finite(second)
    estimate = float(a.mean() - b.mean()) if len(a) and len(b) else np.nan
    return Test(what, "two-sample t", level, (len(a), len(b)), estimate, _p(stats.ttest_ind, a, b))


def t_paired(first: Floats, second: Floats, *, what: str, level: Level) -> Test:
    """Mean difference of pairs, (n,) each. Raises ValueError on unequal lengths."""
    found = t_one_sample(_differences(first, second, what), 0.0, what=what, level=level)
    return structs.replace(found, test="paired t")


def wilcoxon(first: Floats, second: Floats, *, what: str, level: Level) -> Test:
    """Signed rank of pairs, (n,) each; ties of 0 are left out. Raises ValueError on unequal lengths."""
    found = _finite(_differences(first, second, what))
    found = found[found != 0]
    estimate = float(np.median(found)) if len(found) else np.nan
    p = float(stats.wilcoxon(found).pvalue) if len(found) else np.nan
    return Test(what, "Wilcoxon signed rank", level, (len(found),), estimate, p)


def anova_rm(values: Floats, factors: Sequence[str], *, what: str, level: Level) -> list[Test]:
    """Repeated measures: (n_subjects, n_levels) of one factor, or (n_subjects, n_first, n_second) of two.

    A Test for each factor, and for their interaction. Sphericity is assumed, as the paper says nothing of a correction.
    Raises ValueError for other shapes, or a NaN: each subject needs all levels.
    """
    _check_complete(values, 1 + len(factors), what)
    index = pd.MultiIndex.from_tuples(list(product(*map(range, values.shape))), names=["subject", *factors])
    table = pd.DataFrame({"value": values.ravel()}, index=index).reset_index()
    found = AnovaRM(table, "value", "subject", within=list(factors)).fit().anova_table
    name = f"{('one', 'two')[len(factors) - 1]}-way repeated-measures ANOVA"
    rows = zip(found.index, found["F Value"], found["Pr > F"], strict=True)
    return [
        Test(f"{what}: {effect.replace(':', ' x ')}", name, level, (len(values),), float(f), float(p))
        for effect, f, p in rows
    ]


def tukey_rm(values: Floats, names: Sequence[str], *, what: str, level: Level) -> list[Test]:
    """All pairs of levels of one repeated factor, (n_subjects, n_levels), by Tukey's honest difference.

    The error is that of the repeated-measures ANOVA, so subjects may differ (statsmodels' Tukey takes groups as
    unrelated). The smallest p of the family is what holds the level. Raises ValueError as `anova_rm`.
    """
    _check_complete(values, 2, what)
    n, k = values.shape
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    df = (n - 1) * (k - 1)
    error = np.sqrt(float((rest**2).sum()) / df / n)
    tests = []
    for one, other in combinations(range(k), 2):
        difference = float(values[:, one].mean() - values[:, other].mean())
        p = float(stats.studentized_range.sf(abs(difference) / error, k, df)) if error > 0 else np.nan
        tests.append(
            Test(f"{what}: {names[one]} - {names[other]}", "Tukey, repeated measures", level, (n,), difference, p)
        )
    return tests


def mouse_means(values: Floats, mouse: NDArray[Any], group: NDArray[np.bool_] | None = None) -> Floats:
    """(n_mice, 2) mean of each mouse in and out of the group, or (n_mice,) without groups; by name, NaN if none.

    values, mouse, group: (n,), an entry for each neuron-session, session or event.
    """
    names = np.unique(mouse)
    there = np.isfinite(values)
    groups = [there] if group is None else [there & group, there & ~group]
    means = np.array(
        [[values[g & (mouse == m)].mean() if (g & (mouse == m)).any() else np.nan for g in groups] for m in names]
    ).reshape(len(names), len(groups))
    return means[:, 0] if group is None else means


def t_over_mice(values: Floats, mouse: NDArray[Any], group: NDArray[np.bool_] | None = None, *, what: str) -> Test:
    """Paired t over mouse means, group against the rest; without a group, means against 0. All (n,).

    A mouse that misses a group is left out.
    """
    means = mouse_means(values, mouse, group)
    found = (
        t_one_sample(means, 0.0, what=what, level="mouse")
        if group is None
        else t_paired(means[:, 0], means[:, 1], what=what, level="mouse")
    )
    return structs.replace(found, test=f"{found.test} of mouse means")


def mixed_model(values: Floats, mouse: NDArray[Any], group: NDArray[np.bool_] | None = None, *, what: str) -> Test:
    """Linear mixed model, mouse as random effect: value ~ group, each mouse with its own mean and its own difference.

    All (n,); without a group the mean against 0. REML; the two random effects are independent, with the groups coded
    +-1/2. The estimate over its standard error is judged by t with n_mice - 1 degrees of freedom: the normal
    distribution is too kind with six mice. Where the variance of the tested effect between mice is 0, on the boundary,
    mice differ no more than their neurons do, so the neurons' degrees of freedom count; `note` says so.
    """
    there = np.isfinite(values)
    y, (names, number) = values[there], np.unique(mouse[there], return_inverse=True)
    x = np.ones((len(y), 1)) if group is None else np.column_stack([np.ones(len(y)), group[there] - 0.5])
    n, df_neurons = (len(names),), len(y) - len(names) * x.shape[1]
    if len(names) < 2 or df_neurons < 1 or np.linalg.matrix_rank(x) < x.shape[1] or not np.ptp(y):
        return Test(what, "mixed model", "mouse", n, np.nan, np.nan)
    unit = float(y.std())
    fit = _fit_mixed(y / unit, x, number, len(names))
    on_boundary = fit.ratios[-1] < BOUNDARY
    notes = ["no variance of it between mice"] if on_boundary else []
    notes += [] if fit.converged else ["the fit did not converge"]
    df = df_neurons if on_boundary else len(names) - 1
    p = float(2 * stats.t.sf(abs(fit.beta[-1] / fit.error[-1]), df))
    return Test(what, f"mixed model, t with {df} df", "mouse", n, float(fit.beta[-1]) * unit, p, note="; ".join(notes))


class _Mixed(Struct, frozen=True):
    beta: Floats
    error: Floats
    ratios: Floats
    """(n_effects,) variance of each random effect over that within."""
    converged: bool


def _fit_mixed(y: Floats, x: Floats, number: NDArray[np.int64], n_mice: int) -> _Mixed:
    """REML of y = x (beta + b of the mouse) + noise, b independent with variances of their own, 0 allowed.

    Laird & Ware (1982), with the likelihood of `statsmodels.MixedLM`; not by it, since on the boundary it takes the
    inverse of a variance of 0 for 0, and stops far off: measured, at a log-likelihood 14 below the maximum's.
    """
    own = [(x[number == m], y[number == m]) for m in range(n_mice)]
    xx, xy = np.array([a.T @ a for a, _ in own]), np.array([a.T @ b for a, b in own])
    df, one = len(y) - x.shape[1], np.eye(x.shape[1])

    def solve(ratios: Floats) -> tuple[float, Floats, Floats]:
        """-2 log-likelihood, beta, covariance of beta. By Woodbury: (1 + x R x')^-1 = 1 - x R (1 + x'x R)^-1 x'."""
        spread = one + xx * ratios
        inner = np.linalg.inv(spread)
        weight, pull = (inner @ xx).sum(axis=0), np.einsum("mij,mj->i", inner, xy)
        beta = np.linalg.solve(weight, pull)
        rest = y @ y - np.einsum("mi,i,mij,mj->", xy, ratios, inner, xy) - pull @ beta
        deviance = df * np.log(rest) + np.linalg.slogdet(spread)[1].sum() + np.linalg.slogdet(weight)[1]
        return float(deviance), beta, np.linalg.inv(weight) * rest / df

    start = np.full(x.shape[1], 0.1)
    found = optimize.minimize(lambda r: solve(r)[0], start, method="L-BFGS-B", bounds=[(0.0, None)] * len(start))
    _, beta, covariance = solve(found.x)
    return _Mixed(beta, np.sqrt(np.diag(covariance)), found.x, bool(found.success))


def adjusted(family: Sequence[Test], alpha: float = 0.05) -> list[Test]:
    """The tests with `p_adjusted` after Benjamini, Krieger & Yekutieli (2006), two stages.

    Adjusted p <= alpha: a discovery at this rate of false ones. Tests without a p are no members of the family.
    """
    p = np.array([test.p for test in family])
    there = np.isfinite(p)
    if there.any():
        p[there] = np.minimum(multipletests(p[there], alpha, method="fdr_tsbky")[1], 1.0)
    return [structs.replace(test, p_adjusted=float(value)) for test, value in zip(family, p, strict=True)]


def combined(tests: Sequence[Test]) -> Test:
    """One question put to independent sets of mice, one test each: Stouffer's z, weighted by the root of n, two-sided.

    Effects of opposite sign pull against each other; so it is for signed estimates (no F). The estimate is the mean
    weighted by n. Raises ValueError for no test, another question among them, or a p that is NaN.
    """
    if len({test.what for test in tests}) != 1 or any(np.isnan(test.p) for test in tests):
        asked = [(test.what, test.p) for test in tests]
        raise ValueError(f"tests to combine: {asked}, expected one question, and a p of each")
    n = np.array([sum(test.n) for test in tests])
    estimates = np.array([test.estimate for test in tests])
    p = np.maximum([test.p for test in tests], np.finfo(float).tiny)
    z = np.sign(estimates) * stats.norm.isf(p / 2)
    total = float((np.sqrt(n) * z).sum() / np.sqrt(n.sum()))
    groups = tuple(sum(group) for group in zip(*(test.n for test in tests), strict=True))
    method, estimate = f"Stouffer of {len(tests)}", float(np.average(estimates, weights=n))
    return Test(tests[0].what, method, tests[0].level, groups, estimate, float(2 * stats.norm.sf(abs(total))))


class Power(Struct, frozen=True):
    """How often a design sees its effect, all (n_designs,)."""

    n_mice: NDArray[np.int64]
    simulated: Floats
    noncentral: Floats
    """The same by the non-central t distribution."""


def power(
    effect: float,
    sd_between_mice: float,
    sd_within: float,
    n_mice: int,
    n_sessions: int,
    alpha: float = 0.05,
    *,
    seed: int,
) -> tuple[float, float]:
    """Part of experiments in which a t over mouse means sees an effect: simulated, and by the non-central t.

    Each mouse's true effect has the mean `effect` and the SD `sd_between_mice`, each session's value lies about it with
    `sd_within`; all in the same unit. Raises ValueError for fewer than two mice, or no session.
    """
    _check_design(n_mice, n_sessions)
    rng = np.random.default_rng(seed)
    mice = effect + sd_between_mice * rng.standard_normal((SIMULATIONS, n_mice))
    means = mice + sd_within * rng.standard_normal((SIMULATIONS, n_mice, n_sessions)).mean(axis=2)
    simulated = float(np.mean(stats.ttest_1samp(means, 0.0, axis=1).pvalue < alpha))
    return simulated, _noncentral(effect, _sem(sd_between_mice, sd_within, n_mice, n_sessions), n_mice, alpha)


def power_curve(
    effect: float,
    sd_between_mice: float,
    sd_within: float,
    n_mice: Sequence[int],
    n_sessions: int,
    alpha: float = 0.05,
    *,
    seed: int,
) -> Power:
    """`power` over numbers of mice."""
    found = [power(effect, sd_between_mice, sd_within, n, n_sessions, alpha, seed=seed) for n in n_mice]
    simulated, noncentral = np.array(found).reshape(-1, 2).T
    return Power(np.array(n_mice, np.int64), simulated, noncentral)


def detectable(
    sd_between_mice: float, sd_within: float, n_mice: int, n_sessions: int, alpha: float = 0.05, wanted: float = 0.8
) -> float:
    """The effect that a design sees with the power `wanted`, by the non-central t. Raises ValueError as `power`."""
    _check_design(n_mice, n_sessions)
    sem = _sem(sd_between_mice, sd_within, n_mice, n_sessions)
    high = 1.0
    while _noncentral(high, 1.0, n_mice, alpha) < wanted:
        high *= 2
    return sem * float(optimize.brentq(lambda effect: _noncentral(effect, 1.0, n_mice, alpha) - wanted, 0.0, high))


def _sem(sd_between_mice: float, sd_within: float, n_mice: int, n_sessions: int) -> float:
    return float(np.sqrt((sd_between_mice**2 + sd_within**2 / n_sessions) / n_mice))


def _noncentral(effect: float, sem: float, n_mice: int, alpha: float) -> float:
    """Both tails; scipy gives NaN for the far one where it is next to 0."""
    limit, shift = stats.t.isf(alpha / 2, n_mice - 1), abs(effect) / sem
    near, far = stats.nct.sf(limit, n_mice - 1, shift), stats.nct.cdf(-limit, n_mice - 1, shift)
    return float(near + np.nan_to_num(far))


def _check_design(n_mice: int, n_sessions: int) -> None:
    if n_mice < 2 or n_sessions < 1:
        raise ValueError(f"design of {n_mice} mice x {n_sessions} sessions, expected at least 2 x 1")


def _check_complete(values: Floats, ndim: int, what: str) -> None:
    if values.ndim != ndim or ndim not in (2, 3) or min(values.shape) < 2:
        raise ValueError(
            f"{what}: values of shape {values.shape}, expected subjects x levels of 1 or 2 factors, >= 2 each"
        )
    if not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        raise ValueError(f"{what}: {missing} of {values.size} values are NaN, expected none: leave those subjects out")


def _differences(first: Floats, second: Floats, what: str) -> Floats:
    if len(first) != len(second):
        raise ValueError(f"{what}: {len(first)} and {len(second)} values, expected pairs")
    return np.asarray(first - second)


def _finite(values: Floats) -> Floats:
    return np.asarray(values)[np.isfinite(values)]


def _p(test: Callable[..., Any], *samples: Any) -> float:
    """NaN where a sample is too small, or all values are the same: scipy would warn, and there is no test."""
    groups = [s for s in samples if np.ndim(s)]
    if any(len(g) < 2 for g in groups) or not any(np.ptp(g) > 1e-12 * np.abs(g).max() for g in groups):
        return np.nan
    return float(test(*samples).pvalue)
