"""Do dendrites tell reward from none, and success from failure before it comes? (docs/experiment.md 3.10, 4.3; A9-A11)

A trial is a sample, the z residual of each neuron in 2 s its features, hit or miss its class. "after" begins with the
hit (the drop falls 1 s later), or with the end of a miss; "before" ends there. The Methods exchange the two names;
the Results have them as here. Where a trial is short, "before" reaches into its grey screen and the trial before: the
paper names no exception.

A silent neuron's feature is 0 (3.10), so a decoder also hears *who was active*, which shuffled labels do not protect
against: before a hit other neurons are active, and more of them, than before a miss. Therefore `exchanged`: the same
decoder after each neuron's residuals have changed places among its own events, whose times stay.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.classify import leave_one_out, shuffled
from loop2p.analysis.columns import joined
from loop2p.analysis.epochs import TOLERANCE_S, error_epochs
from loop2p.analysis.learning import GROUPS
from loop2p.analysis.levels import pairs_at_levels
from loop2p.analysis.residuals import Coincident, loop_residuals
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, Test, mouse_means

EPOCH_S = 2.0
EPOCHS = {"after": 0.0, "before": -EPOCH_S}
"""Begin from the trial's end, s; order of the tables below."""
OUTCOMES = ("hit", "miss")
N_EXCHANGES = 5


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
    exchanged: NDArray[np.float64]
    """(n_sessions, 2) after, before: what is told by who was active, and not by how amplified; mean of N_EXCHANGES."""
    balanced: NDArray[np.float64]
    balanced_shuffled: NDArray[np.float64]
    balanced_exchanged: NDArray[np.float64]
    """The same of balanced accuracy."""
    residual: NDArray[np.float64]
    """(n_sessions, 2, 2, 3) mean z residual of the events: after, before; hit, miss; P+, P-, P0."""

    def margins(self, epoch: str) -> Floats:
        """(n_sessions,) accuracy less that of the shuffles; NaN where there is none."""
        return np.asarray((self.accuracy - self.shuffled)[:, list(EPOCHS).index(epoch)])

    def tests(self, epoch: str) -> list[Test]:
        """Accuracy against shuffles: paired over sessions, as the paper has it, over mice, mixed model (A9, A10)."""
        column = list(EPOCHS).index(epoch)
        what = f"outcome decoder, accuracy - shuffled, 2 s {epoch}"
        return pairs_at_levels(
            self.accuracy[:, column], self.shuffled[:, column], self.mouse, what=what, level="session"
        )

    def size_tests(self, epoch: str) -> list[Test]:
        """Accuracy against that with exchanged residuals, at the levels of `tests`."""
        column = list(EPOCHS).index(epoch)
        what = f"outcome decoder, accuracy - residuals exchanged, 2 s {epoch}"
        return pairs_at_levels(
            self.accuracy[:, column], self.exchanged[:, column], self.mouse, what=what, level="session"
        )

    def residuals(self, epoch: str, outcome: str) -> Floats:
        """(n_sessions, 3) mean z residual of P+, P-, P0."""
        return self.residual[:, list(EPOCHS).index(epoch), OUTCOMES.index(outcome)]

    def residuals_by_mouse(self, epoch: str, outcome: str) -> Floats:
        """(n_mice, 3), mice in order of their names; NaN without an event."""
        return np.column_stack([mouse_means(column, self.mouse) for column in self.residuals(epoch, outcome).T])

    def role_tests(self, epoch: str, outcome: str) -> list[Test]:
        """P+ against P-: paired over sessions, as the paper has it, over mice, mixed model (A11)."""
        plus, minus, _ = self.residuals(epoch, outcome).T
        what = f"z residual, P+ - P-, 2 s {epoch} {outcome}"
        return pairs_at_levels(plus, minus, self.mouse, what=what, level="session")


def outcomes(sessions: Sequence[SessionData], seed: int | Sequence[int], n_shuffles: int = 10) -> Outcomes:
    """Decode each session's trials by every neuron that has a line: P+, P- and P0, as the paper does.

    Raises SessionError for a session without events, ValueError for no session.
    """
    rngs = np.random.default_rng(seed).spawn(len(sessions))
    return joined([_of_session(session, rng, n_shuffles) for session, rng in zip(sessions, rngs, strict=True)])


def _of_session(session: SessionData, rng: np.random.Generator, n_shuffles: int) -> Outcomes:
    events, z = loop_residuals(session)
    trials, role = ended_trials(session), session.role[np.unique(events.roi)]
    residual = np.full((len(EPOCHS), len(OUTCOMES), len(GROUPS)), np.nan)
    told, chance, active = np.full((3, 2, len(EPOCHS)), np.nan)  # accuracy, balanced accuracy
    (own_rng,) = rng.spawn(1)
    others = [exchanged(events, z, own_rng) for _ in range(N_EXCHANGES)]
    for column, from_s in enumerate(EPOCHS.values()):
        mean_z, n_events = trial_residuals(events, z, trials.end_s + from_s)
        for row, chosen in enumerate((trials.hit, ~trials.hit)):
            for group, name in enumerate(GROUPS):
                cells = np.ix_(chosen, role == name)
                if n_events[cells].any():
                    residual[column, row, group] = np.average(mean_z[cells], weights=n_events[cells])
        data = leave_one_out(mean_z, trials.hit, rng)
        if np.isfinite(data.accuracy):
            told[:, column] = data.accuracy, data.balanced
            runs = shuffled(mean_z, trials.hit, rng, n_shuffles)
            chance[:, column] = np.mean([(run.accuracy, run.balanced) for run in runs], axis=0)
            features = (trial_residuals(events, other, trials.end_s + from_s)[0] for other in others)
            runs = [leave_one_out(of, trials.hit, own_rng) for of in features]
            active[:, column] = np.mean([(run.accuracy, run.balanced) for run in runs], axis=0)
    return Outcomes(
        mouse=np.array([session.mouse]), day=np.array([session.day], np.int64),
        n=np.array([[trials.hit.sum(), (~trials.hit).sum()]], np.int64),
        accuracy=told[:1], shuffled=chance[:1], exchanged=active[:1],
        balanced=told[1:], balanced_shuffled=chance[1:], balanced_exchanged=active[1:],
        residual=residual[None],
    )  # fmt: skip


def exchanged(events: Coincident, z: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """`z` (n_events,) after each neuron's values have changed places at random among its own events."""
    by_roi = np.lexsort((events.t_s, events.roi))
    at_random = np.lexsort((rng.random(len(z)), events.roi))
    found = np.empty_like(z)
    found[by_roi] = z[at_random]
    return found


def ended_trials(session: SessionData) -> Trials:
    """Hits and misses of a session; those that are void, unfinished or showed no grating are left out.

    None of a yoked loop: the trials that its pictures tell are another mouse's.
    """
    if not len(session.start_s):
        return Trials(np.zeros(0), np.zeros(0, bool))
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
