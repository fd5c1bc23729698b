"""Do dendrites tell reward from none, and success from failure before it comes? (docs/experiment.md 3.10, 4.3; A9-A11)

A trial is a sample, the z residual of each neuron in 2 s its features, hit or miss its class. "after" begins with the
hit (the drop falls 1 s later), or with the end of a miss; "before" ends there. The Methods exchange the two names;
the Results have them as here. Where a trial is short, "before" reaches into its grey screen and the trial before: the
paper names no exception.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy import stats

from loop2p.analysis.classify import leave_one_out, shuffled
from loop2p.analysis.epochs import TOLERANCE_S, error_epochs
from loop2p.analysis.learning import GROUPS
from loop2p.analysis.residuals import Coincident, loop_residuals
from loop2p.analysis.sessions import SessionData

EPOCH_S = 2.0
EPOCHS = {"after": 0.0, "before": -EPOCH_S}
"""Begin from the trial's end, s; order of the tables below."""
OUTCOMES = ("hit", "miss")


class Trials(Struct, frozen=True):
    """Trials that came to an outcome; all (n_trials,)."""

    end_s: NDArray[np.float64]
    """The target reached, or the begin of the timeout."""
    hit: NDArray[np.bool_]


class Outcomes(Struct, frozen=True):
    """What each session's dendrites tell; NaN where it has too few hits or misses."""

    mouse: NDArray[np.str_]
    day: NDArray[np.int64]
    n: NDArray[np.int64]
    """(n_sessions, 2) hits, misses."""
    accuracy: NDArray[np.float64]
    shuffled: NDArray[np.float64]
    """(n_sessions, 2) after, before; of the shuffles the mean."""
    balanced: NDArray[np.float64]
    balanced_shuffled: NDArray[np.float64]
    """The same of balanced accuracy."""
    residual: NDArray[np.float64]
    """(n_sessions, 2, 2, 3) mean z residual of the events: after, before; hit, miss; P+, P-, P0."""

    def margin(self, epoch: str) -> NDArray[np.float64]:
        """(n,) accuracy less that of the shuffles, of the sessions that have them."""
        return self._sessions(self.accuracy - self.shuffled, epoch)[1]

    def p_sessions(self, epoch: str) -> float:
        """Accuracy against shuffles, paired t-test over sessions, as the paper has it."""
        return _p(self.margin(epoch))

    def p_mice(self, epoch: str) -> float:
        """The same over the means of mice."""
        mice = self._mice(*self._sessions(self.accuracy - self.shuffled, epoch))
        return _p(mice[np.isfinite(mice)])

    def residuals(self, epoch: str, outcome: str) -> NDArray[np.float64]:
        """(n_sessions, 3) mean z residual of P+, P-, P0."""
        return self.residual[:, list(EPOCHS).index(epoch), OUTCOMES.index(outcome)]

    def residuals_by_mouse(self, epoch: str, outcome: str) -> NDArray[np.float64]:
        """(n_mice, 3), mice in order of their names; NaN without an event."""
        of = self.residuals(epoch, outcome)
        columns = ((self.mouse[np.isfinite(c)], c[np.isfinite(c)]) for c in of.T)
        return np.array([self._mice(*column) for column in columns]).T

    def p_roles(self, epoch: str, outcome: str) -> tuple[float, float]:
        """P+ against P-, paired t-tests over sessions and over mice."""
        mice, of = self.residuals_by_mouse(epoch, outcome), self.residuals(epoch, outcome)
        over_sessions, over_mice = (x[:, 0] - x[:, 1] for x in (of, mice))
        return _p(over_sessions[np.isfinite(over_sessions)]), _p(over_mice[np.isfinite(over_mice)])

    def _sessions(self, values: NDArray[np.float64], epoch: str) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
        column = values[:, list(EPOCHS).index(epoch)]
        return self.mouse[np.isfinite(column)], column[np.isfinite(column)]

    def _mice(self, mouse: NDArray[np.str_], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_mice,) means; NaN of nothing."""
        of = [values[mouse == m] for m in sorted(set(self.mouse.tolist()))]
        return np.array([v.mean() if len(v) else np.nan for v in of])


def outcomes(sessions: Sequence[SessionData], seed: int, n_shuffles: int = 10) -> Outcomes:
    """Decode each session's trials by every neuron that has a line: P+, P- and P0, as the paper does.

    Raises SessionError for a session without events.
    """
    n = len(sessions)
    counts, residual = np.zeros((n, 2), np.int64), np.full((n, len(EPOCHS), 2, len(GROUPS)), np.nan)
    told, chance = np.full((2, n, len(EPOCHS)), np.nan), np.full((2, n, len(EPOCHS)), np.nan)  # accuracy, balanced
    for k, (session, rng) in enumerate(zip(sessions, np.random.default_rng(seed).spawn(n), strict=True)):
        events, z = loop_residuals(session)
        trials = ended_trials(session)
        counts[k] = trials.hit.sum(), (~trials.hit).sum()
        for column, from_s in enumerate(EPOCHS.values()):
            mean_z, n_events = trial_residuals(events, z, trials.end_s + from_s)
            role = session.role[np.unique(events.roi)]
            for row, chosen in enumerate((trials.hit, ~trials.hit)):
                for group, name in enumerate(GROUPS):
                    cells = np.ix_(chosen, role == name)
                    if n_events[cells].any():
                        residual[k, column, row, group] = np.average(mean_z[cells], weights=n_events[cells])
            data = leave_one_out(mean_z, trials.hit, rng)
            if np.isfinite(data.accuracy):
                told[:, k, column] = data.accuracy, data.balanced
                runs = shuffled(mean_z, trials.hit, rng, n_shuffles)
                chance[:, k, column] = np.mean([(run.accuracy, run.balanced) for run in runs], axis=0)
    return Outcomes(
        mouse=np.array([s.mouse for s in sessions], np.str_), day=np.array([s.day for s in sessions], np.int64),
        n=counts, accuracy=told[0], shuffled=chance[0], balanced=told[1], balanced_shuffled=chance[1],
        residual=residual,
    )  # fmt: skip


def ended_trials(session: SessionData) -> Trials:
    """Hits and misses of a session; those that are void, unfinished or showed no grating are left out."""
    loop = error_epochs(session)
    trial = np.searchsorted(session.start_s, loop.start_s + TOLERANCE_S, "right") - 1
    hit = session.outcome[trial] == "hit"
    return Trials(np.where(hit, session.hit_s[trial], loop.stop_s), hit)


def trial_residuals(
    events: Coincident, z: NDArray[np.float64], start_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean z residual of each neuron in the EPOCH_S from each start, 0 where it is silent (3.10), and number of events.

    Both (n_trials, n_neurons), neurons by rising `roi`.
    """
    order = np.argsort(events.t_s, kind="stable")
    t_s, z = events.t_s[order], z[order]
    rois, neuron = np.unique(events.roi[order], return_inverse=True)
    edges = zip(*(np.searchsorted(t_s, start_s + s) for s in (0.0, EPOCH_S)), strict=True)
    pieces = [slice(a, b) for a, b in edges]
    shape = (len(pieces), len(rois))
    n = np.array([np.bincount(neuron[p], minlength=len(rois)) for p in pieces], np.int64).reshape(shape)
    total = np.array([np.bincount(neuron[p], z[p], len(rois)) for p in pieces], float).reshape(shape)
    return total / np.maximum(n, 1), n


def _p(differences: NDArray[np.float64]) -> float:
    """Paired t-test; NaN for fewer than two."""
    return float(stats.ttest_1samp(differences, 0.0).pvalue) if len(differences) > 1 else np.nan
