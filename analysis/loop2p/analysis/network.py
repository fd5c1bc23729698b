"""Does the network around a neuron tell whether its next event will be amplified? (docs/experiment.md 3.9, 4.2; A7)

For each neuron: its coincident events are samples, the activity of all other somas in the 2 s before is the features,
the sign of the residual is the class. The decoder never sees how large a residual is; if its confidence goes with it,
the residual is information.

Two traps. Confidence and residual are correlated over events, but the confidences were learned from these residuals:
so the ordinary p-value of their r is too small (tests/science). `p` is by rank among shuffles instead, which
is exact; the ordinary one is kept as the paper's, next to how often shuffles pass it. And to choose neurons by r and
then quote their accuracy is circular: it is quoted next to that of all, and of shuffles chosen in the same way.
Shuffles take events for exchangeable; a drift common to activity and residuals is told by both tests.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy import stats

from loop2p.analysis.classify import with_shuffles
from loop2p.analysis.residuals import loop_residuals
from loop2p.analysis.sessions import PlaneEvents, SessionData

BEFORE_S = 2.0
"""How long before an event the network is looked at (Methods; 3.9)."""
LEAST_EVENTS = 20
"""A neuron with fewer coincident events is left out. The paper gives no number."""
ALPHA = 0.05
"""Level at which a neuron counts (4.2)."""


class Signs(Struct, frozen=True):
    """One neuron's decoded events; all NaN where a class is too small."""

    accuracy: float
    r: float
    """Pearson, confidence with z residual."""
    p: float
    """Share of r and its shuffles that are at least r; one-sided."""
    accuracy_shuffled: NDArray[np.float64]
    r_shuffled: NDArray[np.float64]
    """(n_shuffles,)"""


class Group(Struct, frozen=True):
    """Means over some neuron-sessions; NaN of none."""

    n: int
    accuracy: float
    accuracy_shuffled: float
    r: float


class Summary(Struct, frozen=True):
    """What neuron-sessions say together."""

    everyone: Group
    significant: Group
    """p <= ALPHA, so ALPHA of them by chance. Their accuracy is circular: see `everyone`."""
    p_share: float
    """Of so many significant ones or more by chance: binomial test, neuron-sessions taken as independent. NaN with too
    few shuffles."""
    as_paper: Group
    """Ordinary p of r < ALPHA, and r > 0."""
    as_paper_by_chance: Group
    """The shuffled runs of everyone that pass the same; `n` is a mean over the shuffles, to compare with `as_paper`.
    More than the 2.5 % of an honest p: 4 % on noise with 16 events (measured), 10 % with either sign."""


class Network(Struct, frozen=True):
    """Decoded neurons of sessions; all (n,) or (n, n_shuffles)."""

    mouse: NDArray[np.str_]
    day: NDArray[np.int64]
    roi: NDArray[np.int64]
    role: NDArray[np.str_]
    n_events: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    r: NDArray[np.float64]
    p: NDArray[np.float64]
    accuracy_shuffled: NDArray[np.float64]
    r_shuffled: NDArray[np.float64]

    def summary(self, roles: Sequence[str] = ("plus", "minus")) -> Summary:
        """Of the neurons of these roles that have a result."""
        use = np.isin(self.role, roles) & np.isfinite(self.r)
        accuracy, r, p = self.accuracy[use], self.r[use], self.p[use]
        by_chance, r_by_chance = self.accuracy_shuffled[use], self.r_shuffled[use]
        n_shuffles = self.r_shuffled.shape[1]

        def group(chosen: NDArray[np.bool_]) -> Group:
            return Group(int(chosen.sum()), _mean(accuracy[chosen]), _mean(by_chance[chosen]), _mean(r[chosen]))

        def passes(r: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.bool_]:
            return (r > 0) & (pearson_p(r, n) < ALPHA)

        n_events = self.n_events[use]
        significant = group(p <= ALPHA)
        level = np.floor(ALPHA * (n_shuffles + 1) + 1e-9) / (n_shuffles + 1)
        testable = len(r) > 0 and level > 0
        p_share = float(stats.binomtest(significant.n, len(r), level, "greater").pvalue) if testable else np.nan
        chance = passes(r_by_chance, n_events[:, None])
        return Summary(
            everyone=group(np.ones(len(r), bool)),
            significant=significant,
            p_share=p_share,
            as_paper=group(passes(r, n_events)),
            as_paper_by_chance=Group(
                round(chance.sum() / n_shuffles), _mean(by_chance[chance]), _mean(by_chance), _mean(r_by_chance[chance])
            ),
        )


def network(
    sessions: Sequence[SessionData],
    seed: int | Sequence[int],
    n_other: int,
    n_shuffles: int = 19,
) -> Network:
    """Decode every P+ and P- neuron of each session, and `n_other` of P0 drawn from those with enough events.

    With fewer than 19 shuffles no p reaches ALPHA: enough for `Summary.as_paper`, which needs none, and what it is by
    chance. Raises SessionError for a session without events.
    """
    who: list[tuple[str, int, int, str, int]] = []
    found: list[Signs] = []
    for session, rng in zip(sessions, np.random.default_rng(seed).spawn(len(sessions)), strict=True):
        events, z = loop_residuals(session)
        activity = rate_before(session.events[0], len(session.role), events.t_s)
        n_events = np.bincount(events.roi, minlength=len(session.role))
        enough = np.flatnonzero(n_events >= LEAST_EVENTS)
        other = enough[session.role[enough] == "other"]
        drawn = rng.choice(other, min(n_other, len(other)), replace=False)
        for roi in np.sort(np.append(enough[session.role[enough] != "other"], drawn)).tolist():
            own = events.roi == roi
            found.append(decode_signs(np.delete(activity[own], roi, axis=1), z[own], rng, n_shuffles))
            who.append((session.mouse, session.day, roi, str(session.role[roi]), int(n_events[roi])))
    mouse, day, roi_, role, n = zip(*who, strict=True) if who else [()] * 5
    return Network(
        mouse=np.array(mouse, np.str_), day=np.array(day, np.int64), roi=np.array(roi_, np.int64),
        role=np.array(role, np.str_), n_events=np.array(n, np.int64),
        accuracy=np.array([f.accuracy for f in found], float),
        r=np.array([f.r for f in found], float), p=np.array([f.p for f in found], float),
        accuracy_shuffled=np.array([f.accuracy_shuffled for f in found], float).reshape(-1, n_shuffles),
        r_shuffled=np.array([f.r_shuffled for f in found], float).reshape(-1, n_shuffles),
    )  # fmt: skip


def decode_signs(
    features: NDArray[np.float64], z: NDArray[np.float64], seed: int | np.random.Generator, n_shuffles: int
) -> Signs:
    """One neuron: sign of `z` (n_events,) from `features` (n_events, n_features), and confidence against z."""
    data, chance = with_shuffles(features, z > 0, seed, n_shuffles)
    if np.isnan(data.accuracy):
        none = np.full(n_shuffles, np.nan)
        return Signs(np.nan, np.nan, np.nan, none, none)
    r, *rest = (float(np.corrcoef(run.confidence, z)[0, 1]) for run in (data, *chance))
    r_shuffled = np.array(rest)
    p = (1 + np.sum(r_shuffled >= r)) / (1 + n_shuffles)
    return Signs(data.accuracy, r, float(p), np.array([run.accuracy for run in chance]), r_shuffled)


def rate_before(
    soma: PlaneEvents, n_rois: int, at_s: NDArray[np.float64], window_s: float = BEFORE_S
) -> NDArray[np.float64]:
    """(n_times, n_rois) mean inferred rate of each soma over the `window_s` before each time, dF/F a second.

    Only what stands out as events counts: their sizes, summed. The paper averages CASCADE's rates, which are next to 0
    between events; a deconvolution's are not, and with 300 neurons what is left of the noise hides the rest. Measured
    on a tuning seed (2 mice, 3 days, 66 neuron-sessions of P+ and P-, 72 of P0), significant by rank: 3 and 5 % by
    the mean of all rates, 30 and 28 % by that of events, 39 and 17 % by their numbers.
    """
    first, last = (np.searchsorted(soma.t_s, at_s - ago) for ago in (window_s, 0.0))
    rows = [np.bincount(soma.roi[a:b], soma.magnitude[a:b], n_rois) for a, b in zip(first, last, strict=True)]
    return np.array(rows, float).reshape(len(at_s), n_rois) / window_s


def pearson_p(r: NDArray[np.float64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ordinary two-sided p of Pearson's r from n independent pairs, which confidences and residuals are not."""
    t = r * np.sqrt((n - 2) / np.maximum(1 - r**2, 1e-15))
    return np.asarray(2 * stats.t.sf(np.abs(t), n - 2))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else np.nan
