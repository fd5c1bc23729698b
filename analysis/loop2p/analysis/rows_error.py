"""A12-A16: the error signal of the dendrites is a vector, and follows the change of the error.

Levels: A12, A14 and A15 are judged over neuron-sessions, as the paper has them; A13 over mice; A16 by its size. Beside
each: t over the means of mice, and a mixed model.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import structs

from loop2p.analysis.columns import where
from loop2p.analysis.contrast import EPOCHS, Contrast, contrast
from loop2p.analysis.neighbours import residuals_less_neighbours
from loop2p.analysis.neurons import soma_matched, soma_sizes
from loop2p.analysis.partial import ErrorEvents, ErrorLevel, Partial, by_level, error_events, partial_regression
from loop2p.analysis.row import (
    Arms,
    Found,
    MissingError,
    arm_of,
    loops_of,
    mean_of,
    n_text,
    p_of,
    p_text,
    row,
    told,
    with_events,
)
from loop2p.analysis.statistics import Test, adjusted


@row(
    "A12",
    "the sign flips: while the error falls P+ > P-, while it grows P+ < P-",
    paper="falls P+ +.004, P- -.13; grows P+ -.10, P- +.05",
    rule="both p < .01; each difference .08-.30",
)
def a12(arms: Arms) -> Found:
    found = contrast(loops_of(arm_of(arms, "main")))
    tests = {epoch: found.tests(epoch) for epoch in EPOCHS}
    sizes = [abs(test.estimate) for test, *_ in tests.values()]
    return Found(
        _means(found),
        bool(flips(found) and min(sizes) >= 0.08 and max(sizes) <= 0.30),
        f"P+ - P-: {_differences(tests)}",
        _tests(found),
    )


def flips(found: Contrast) -> bool:
    """P+ above P- while the error falls, below while it grows, both p < .01 over neuron-sessions.

    Raises MissingError where there are too few.
    """
    tests = [(found.tests(epoch)[0], sign) for epoch, sign in EPOCHS.items()]
    return all(p_of(test) < 0.01 and test.estimate * sign > 0 for test, sign in tests)


@row(
    "A13",
    "in each mouse: reduction - increase, of P+ less that of P-",
    paper="P+ +.08, P- -.15, P+ less P- +.23 (p = .005); 6 of 6 mice",
    rule="P+ less P- > 0 in 5 of 6 mice",
)
def a13(arms: Arms) -> Found:
    found = contrast(loops_of(arm_of(arms, "main")))
    plus, minus, difference = tests = found.mouse_tests()
    p_of(difference)
    n, above = len(found.mice), int(np.sum(np.array(list(found.dd.values())) > 0))
    return Found(
        f"P+ {plus.estimate:+.3f}, P- {minus.estimate:+.3f}; P+ less P- {difference.estimate:+.3f}, {above} of {n}",
        bool(above >= np.ceil(5 / 6 * n)),
        f"{difference.test}, {n_text(difference)}: P+ {p_text(plus.p)}, P- {p_text(minus.p)}, P+ less P- "
        f"{p_text(difference.p)}",
        tests,
        f"in every mouse: {'reached' if above == n else 'not reached'}",
    )


@row(
    "A14",
    "it is none of somatic size, nor of how size is measured",
    paper="soma-matched p = 3.5e-6, 4.6e-6; on dF/F 1e-5, 3e-6",
    rule="A12's signs and p < .01 with P+ and P- matched in somatic size, and with sizes measured on dF/F",
)
def a14(arms: Arms) -> Found:
    arm = arm_of(arms, "main")
    sessions = loops_of(arm)
    whole = contrast(sessions)
    variants = {"soma-matched": where(whole, soma_matched(soma_sizes(sessions), whole.role, whole.mouse))}
    if arm.dff:
        variants["dF/F"] = contrast(with_events([s for s in arm.dff if s.loop_s]))
    survived = all(flips(found) for found in variants.values())
    variants["less events nearby"] = contrast(sessions, residuals_less_neighbours)
    lines = [
        f"{name}: " + "; ".join(f"{epoch} {told(found.tests(epoch))}" for epoch in EPOCHS)
        for name, found in variants.items()
    ]
    if not arm.dff:
        lines.append("dF/F: needs sessions with fluorescence")
    tests = [test for name, found in variants.items() for test in _tests(found, name)]
    return Found(
        "; ".join(f"{name} {_means(found)}" for name, found in variants.items()),
        survived if arm.dff else None if survived else False,
        ". ".join(lines),
        tests,
    )


@row(
    "A15",
    "it is the change of the error, not how large it is",
    paper="P+ against P-: error < 45 p = .16, >= 45 p = .47",
    rule="P+ against P- p > .05 where the 2 s bin's mean error is small, and where it is large; adjusted for the two",
)
def a15(arms: Arms) -> Found:
    """The paper cuts bins, so the bin's mean error is the row's; the error at the event's own moment is beside it."""
    events = error_events(loops_of(arm_of(arms, "main")))
    bins, moments = _by_error(events, "bin_error_deg"), _by_error(events, "error_deg")
    try:
        by_bins = partial_regression(events, "rotation_deg_s", "bin_error_deg")
        by_moments = partial_regression(events, "velocity_deg_s", "error_deg")
    except ValueError as error:
        raise MissingError(f"more events: {error}") from None
    judged = [test for test in bins if test.level == "neuron-session"]
    for test in judged:
        p_of(test)
    return Found(
        f"P+ - P-: {_sizes(bins)}; both in one regression: {_coefficients(by_bins)}",
        all(test.p_adjusted > 0.05 for test in judged),
        f"< 45: {told(bins[:2])}; >= 45: {told(bins[2:])}. By the error at the event's own moment, P+ - P-: "
        f"{_sizes(moments)}, {told(moments[::2])}; regression on that and on velocity: {_coefficients(by_moments)}. "
        "Change and level go together in closed loop; a regression has both: SD of residual for an SD of each, times "
        "the role, t over mice",
        [*bins, *moments, *(test for found in (by_bins, by_moments) for test in (*found.over_mice, *found.clustered))],
    )


def _by_error(events: ErrorEvents, level: ErrorLevel) -> list[Test]:
    """`by_level`, adjusted for the two classes at each level."""
    tests = by_level(events, level)
    small, large = (adjusted(family) for family in (tests[::2], tests[1::2]))
    return [test for pair in zip(small, large, strict=True) for test in pair]


def _sizes(tests: Sequence[Test]) -> str:
    return f"error < 45 {tests[0].estimate:+.3f}, >= 45 {tests[2].estimate:+.3f}"


def _coefficients(found: Partial) -> str:
    change, level = found.over_mice
    return f"change {change.estimate:+.3f} ({p_text(change.p)}), level {level.estimate:+.3f} ({p_text(level.p)})"


@row(
    "A16",
    "P0 that go with P+ or with P- follow, less",
    paper="falls +.04, -.02 (p = .025); grows -.05, +.01 (p = .010)",
    rule="A12's signs; each difference < 60 % of A12's",
)
def a16(arms: Arms) -> Found:
    arm = arm_of(arms, "main")
    own = contrast(loops_of(arm))
    if not arm.alike:
        raise MissingError("which P0 are like P+ and P-, which was not measured")
    found = contrast(with_events([s for s in arm.alike if s.loop_s]))
    tests = {epoch: found.tests(epoch) for epoch in EPOCHS}
    for of in tests.values():
        p_of(of[0])
    shares = [of[0].estimate / own.tests(epoch)[0].estimate for epoch, of in tests.items()]
    signs = all(of[0].estimate * EPOCHS[epoch] > 0 for epoch, of in tests.items())
    return Found(
        f"{_means(found)}; {' and '.join(f'{share:.0%}' for share in shares)} of A12's",
        bool(signs and max(map(abs, shares)) < 0.6),
        f"like P+ - like P-: {_differences(tests)}",
        _tests(found, "P0 like P+ and P-"),
    )


ROWS = (a12, a13, a14, a15, a16)


def _means(found: Contrast) -> str:
    """Of P+ and P- over neuron-sessions."""
    plus, minus = (found.values(role).T for role in ("plus", "minus"))
    falls, grows = (f"P+ {mean_of(p):+.3f}, P- {mean_of(m):+.3f}" for p, m in zip(plus, minus, strict=True))
    return f"falls {falls}; grows {grows}"


def _differences(tests: dict[str, list[Test]]) -> str:
    """Of `Contrast.tests` by epoch."""
    return "; ".join(f"{epoch} {of[0].estimate:+.3f}, {told(of)}" for epoch, of in tests.items())


def _tests(found: Contrast, of: str = "") -> list[Test]:
    """P+ against P- in both kinds of epoch; of: which neurons, where they are not all."""
    tests = [test for epoch in EPOCHS for test in found.tests(epoch)]
    return [structs.replace(test, what=f"{test.what}, {of}") for test in tests] if of else tests
