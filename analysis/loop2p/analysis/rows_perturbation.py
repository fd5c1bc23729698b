"""A17, A18, A20: what the LED on NDNF neurons, the LED alone, and anaesthesia do.

Levels: A17 and A20 are means over all neuron-sessions; A18 has the levels of A9 and A10 (sessions) and of A12
(neuron-sessions). Beside each: over mice. Two groups that are ns and significant need not differ, so A18 has the test
of one against the other too.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import structs

from loop2p.analysis.arm import Arm
from loop2p.analysis.contrast import EPOCHS, contrast
from loop2p.analysis.neighbours import residuals_less_neighbours
from loop2p.analysis.outcome import Outcomes
from loop2p.analysis.perturbation import ANAESTHESIA, LED, Perturbed, group_tests, perturbed, shift_tests
from loop2p.analysis.row import Arms, Found, MissingError, arm_of, loops_of, p_of, p_text, row, told, with_events
from loop2p.analysis.sessions import SessionError
from loop2p.analysis.statistics import Test, mouse_means, t_two_sample

PUT_IN = "what it does to residuals and rates was put in"
SIGNS = {"A9": 1, "A10": 1, **{f"A12 {epoch}": sign for epoch, sign in EPOCHS.items()}}
"""What a main arm shows."""


@row(
    "A17",
    "NDNF lowers residuals and somatic rates, the LED alone hardly",
    paper="residual -.9 against -.1 SD; rate -.02 against -.003 Hz",
    rule="NDNF residual < -.4, rate < 0; LED |residual| < .2",
    imposed=PUT_IN,
)
def a17(arms: Arms) -> Found:
    ndnf, led = (_perturbed(arm_of(arms, name), LED) for name in ("ndnf", "led"))
    tests = [shift_tests(ndnf, "NDNF"), shift_tests(led, "LED only"), group_tests(ndnf, led, "NDNF - LED only")]
    (shift, rate), (led_shift, led_rate) = _means(ndnf), _means(led)
    return Found(
        f"residual {shift:+.2f} against {led_shift:+.2f} SD; rate {rate:+.4f} against {led_rate:+.4f} Hz",
        bool(shift < -0.4 and rate < 0 and abs(led_shift) < 0.2),
        "; ".join(f"{name}: {_told(of)}" for name, of in zip(("NDNF", "LED only", "between"), tests, strict=True)),
        [test for family in tests for test in family],
    )


@row(
    "A18",
    "NDNF abolishes what A9, A10 and A12 show, the LED alone does not",
    paper="NDNF: A9, A10 ns, A12 p = .58, .7; LED: .62 (shuffled .57), .58 (.52), A12 p < 1e-3",
    rule="NDNF: all p > .05; LED: A9's, A10's and A12's signs, all p < .01",
    unmet="it asks LED mice for A10, see there; and 0 stands for a silent neuron (Methods), so the decoders of A9 and "
    "A10 also hear who was active, which no lost residual takes away: what they tell beyond that is beside it",
)
def a18(arms: Arms) -> Found:
    ndnf_arm, led_arm = arm_of(arms, "ndnf"), arm_of(arms, "led")
    ndnf, led, between = _shown(ndnf_arm), _shown(led_arm), _between(ndnf_arm, led_arm)
    ndnf_beyond, led_beyond = _beyond(ndnf_arm), _beyond(led_arm)
    families = {
        "NDNF": [*ndnf.values(), *ndnf_beyond.values()],
        "LED only": [*led.values(), *led_beyond.values()],
        "NDNF - LED only": [between],
    }
    gone = all(p_of(of[0]) > 0.05 for of in ndnf.values())
    kept = all(p_of(of[0]) < 0.01 and of[0].estimate * SIGNS[name] > 0 for name, of in led.items())
    return Found(
        f"NDNF {_estimates(ndnf)}; LED {_estimates(led)}",
        gone and kept,
        "; ".join(f"{name}: NDNF {told(ndnf[name])}, LED {told(led[name])}" for name in SIGNS)
        + f". One against the other, mice: {', '.join(f'{of.what} {p_text(of.p)}' for of in between)}"
        + f". A9 and A10 beyond what is told by who was active: NDNF {_sizes(ndnf_beyond)}; LED {_sizes(led_beyond)}"
        + f". A12 less events nearby: NDNF {_less_neighbours(ndnf_arm)}; LED {_less_neighbours(led_arm)}",
        [structs.replace(t, what=f"{name}: {t.what}") for name, of in families.items() for tests in of for t in tests],
    )


def _shown(arm: Arm) -> dict[str, list[Test]]:
    """The tests of A9, A10 and A12 in an arm."""
    outcomes, found = _outcomes(arm), contrast(loops_of(arm))
    tests = [outcomes.tests("after"), outcomes.tests("before"), *(found.tests(epoch) for epoch in EPOCHS)]
    return dict(zip(SIGNS, tests, strict=True))


def _beyond(arm: Arm) -> dict[str, list[Test]]:
    """A9 and A10 against decoders whose residuals changed places among a neuron's own events."""
    return {name: _outcomes(arm).size_tests(epoch) for name, epoch in (("A9", "after"), ("A10", "before"))}


def _less_neighbours(arm: Arm) -> str:
    """A12 without what events that run into each other make of it, which looks like an error signal."""
    found = contrast(loops_of(arm), residuals_less_neighbours)
    return _sizes({epoch: found.tests(epoch) for epoch in EPOCHS})


def _sizes(tests: dict[str, list[Test]]) -> str:
    return ", ".join(f"{name} {of[0].estimate:+.3f} {told(of)}" for name, of in tests.items())


def _outcomes(arm: Arm) -> Outcomes:
    if arm.outcomes is None:
        raise MissingError(f"the outcome decoders of the arm {arm.name}, which were not run")
    return arm.outcomes


def _between(ndnf: Arm, led: Arm) -> list[Test]:
    """NDNF against LED over mice: margins of the decoders, and dd of the contrast."""
    values = []
    for arm in (ndnf, led):
        outcomes, found = _outcomes(arm), contrast(loops_of(arm))
        margins = (mouse_means(outcomes.margins(epoch), outcomes.mouse) for epoch in ("after", "before"))
        values.append([*margins, np.array(list(found.dd.values()))])
    names = ("A9 accuracy - shuffled", "A10 accuracy - shuffled", "A12 reduction - increase of P+ less P-")
    return [t_two_sample(a, b, what=name, level="mouse") for name, a, b in zip(names, *values, strict=True)]


def _estimates(shown: dict[str, list[Test]]) -> str:
    return ", ".join(f"{name} {of[0].estimate:+.3f}" for name, of in shown.items())


@row(
    "A20",
    "anaesthesia lowers event rates and residuals",
    paper="sign only",
    rule="both < 0, residuals about the line of awake events",
    imposed=PUT_IN,
)
def a20(arms: Arms) -> Found:
    found = _perturbed(arm_of(arms, "anaesthesia"), ANAESTHESIA)
    shift, rate = _means(found)
    tests = shift_tests(found, "anaesthesia")
    return Found(f"rate {rate:+.4f} Hz; residual {shift:+.2f} SD", bool(shift < 0 and rate < 0), _told(tests), tests)


ROWS = (a17, a18, a20)


def _perturbed(arm: Arm, blocks: tuple[str, str]) -> Perturbed:
    try:
        return perturbed(with_events(arm.sessions), blocks)
    except SessionError as error:
        raise MissingError(f"a control and a perturbed block: {error}") from None


def _means(found: Perturbed) -> tuple[float, float]:
    """Residual, SD of control, and change of rate, Hz, over neuron-sessions. Raises MissingError for no residual."""
    residual = found.residual[np.isfinite(found.residual)]
    if not len(residual):
        raise MissingError("coincident events in both blocks")
    return float(residual.mean()), float(found.rate_change_hz.mean())


def _told(tests: Sequence[Test]) -> str:
    """Of `shift_tests` or `group_tests`: over neuron-sessions and over mice."""
    residual, rate = ([t for t in half if t.level != "session"] for half in (tests[:3], tests[3:]))
    return f"residual {told(residual)}; rate {told(rate)}"
