"""What the paper tests beside its signatures: licking, running, rates by role and day, the decoder's gain."""

from collections.abc import Mapping

import numpy as np

from loop2p.analysis.arm import Arm
from loop2p.analysis.behaviour import licking, licking_tests, running_by_epoch, running_trend
from loop2p.analysis.learning import GROUPS, RATE_LATE, by_mouse, rates_hz, same_roles
from loop2p.analysis.neurons import rate_matched
from loop2p.analysis.statistics import Floats, Test, adjusted, anova_rm, tukey_rm, wilcoxon

RATE_DAYS = (1, *RATE_LATE)
"""Days of the analysis of variance of event rates (ED4d, e)."""


def further_tests(arms: Mapping[str, Arm], seed: int) -> list[Test]:
    """Of the main arm; none without it. Each family is adjusted by itself."""
    arm = arms.get("main")
    if arm is None:
        return []
    sessions = [s for s in arm.sessions if len(s.start_s)]
    tests = [running_trend(sessions)]
    if sessions:
        tests += licking_tests(licking(sessions, seed))
        tests += running_by_epoch(sessions)
    tests += rate_tests(arm)
    if arm.network is not None:
        found = arm.network
        tests.append(
            wilcoxon(
                found.accuracy, found.accuracy_shuffled.mean(axis=1),
                what="network decoder: accuracy - shuffled, all neurons", level="neuron-session",
            )
        )  # fmt: skip
    return tests


def rate_tests(arm: Arm) -> list[Test]:
    """Role x day of event rates relative to day 1, mice as subjects, and pairs of roles on days 10-14 (ED4d, e)."""
    rates = relative_rates(arm)
    if len(rates) < 2:
        return []
    what = "event rate over day 1's"
    late = tukey_rm(rates[:, :, 1:].mean(axis=2), GROUPS, what=f"{what}, days 10-14", level="mouse")
    return [*anova_rm(rates, ["role", "day"], what=what, level="mouse"), *adjusted(late)]


def relative_rates(arm: Arm) -> Floats:
    """(n_mice, 3, 6): event rate of P+, P- and rate-matched P0 on RATE_DAYS over that of day 1.

    P0 are matched on day 1's odd minutes and compared with its even ones, as all groups are. Mice that miss a day, have
    no event in a group on day 1, or whose roles were exchanged, are left out.
    """
    found = []
    for days in by_mouse(arm.sessions).values():
        by_day = {s.day: s for s in days if s.events}
        first = by_day.get(1)
        if first is None or not all(day in by_day for day in RATE_DAYS) or not (first.role == "other").any():
            continue
        if not all(same_roles(first, by_day[day]) for day in RATE_LATE):
            continue
        try:
            other = rate_matched(rates_hz(first, 1), first.role)
        except ValueError:  # too few P0 to match
            continue
        rows = {"plus": first.role == "plus", "minus": first.role == "minus", "other": other}
        first_hz = [rates_hz(first, 0)[rows[group]].sum() for group in GROUPS]
        later_hz = [[rates_hz(by_day[day])[rows[group]].sum() for day in RATE_LATE] for group in GROUPS]
        if min(first_hz) > 0:
            found.append([[1.0, *(np.array(late) / before)] for before, late in zip(first_hz, later_hz, strict=True)])
    return np.array(found).reshape(-1, len(GROUPS), len(RATE_DAYS))
