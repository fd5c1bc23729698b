"""Is the dendritic error signal a vector? Residuals of P+ and P- while the error falls and while it grows (4.4).

Runs on whatever events a session holds: the true ones of a simulated cohort, or detected ones put in their place
(`msgspec.structs.replace(session, events=...)`). The same goes for roles that are permuted as a control.

Two things to know before a figure is quoted. An event belongs to the bin of its somatic time, and which moment that is
matters: a simulated main arm has dd 0.39 by the begin of the burst, 0.28 by a time 0.2 s later. And errors in somatic
sizes alone give a dd above 0 (tests/science), so an arm is judged against its twin without signal.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from loop2p.analysis.epochs import error_epochs
from loop2p.analysis.learning import GROUPS
from loop2p.analysis.residuals import loop_residuals
from loop2p.analysis.sessions import SessionData

EPOCHS = {"reduction": 1, "increase": -1}
"""Sign of the rotation; columns of the tables below, in this order."""


class Contrast(Struct, frozen=True):
    """Mean z residual of each neuron in each session (n,) in the two kinds of epoch, and what follows from it."""

    mouse: NDArray[np.str_]
    day: NDArray[np.int64]
    roi: NDArray[np.int64]
    role: NDArray[np.str_]
    residual: NDArray[np.float64]
    """(n, 2): error reduction, error increase; NaN without an event there."""
    n_events: NDArray[np.int64]
    """(n, 2)"""

    def values(self, role: str) -> NDArray[np.float64]:
        """(n_neuron_sessions, 2) of a group."""
        return np.asarray(self.residual[self.role == role])

    def by_mouse(self, role: str) -> NDArray[np.float64]:
        """(n_mice, 2) of a group: means over a mouse's neuron-sessions, mice in order of their names."""
        return np.array([_mean(self.residual[(self.mouse == m) & (self.role == role)]) for m in self.mice])

    @property
    def mice(self) -> list[str]:
        return sorted(set(self.mouse.tolist()))

    @property
    def dd(self) -> dict[str, float]:
        """Difference of differences of each mouse: reduction minus increase of P+, less that of P-.

        Positive: each group is amplified while the screen goes where it drives it. 0 where all dendrites get the same
        signal, or none (A13, A21).
        """
        plus, minus = (self.by_mouse(role) for role in ("plus", "minus"))
        return dict(zip(self.mice, ((plus[:, 0] - plus[:, 1]) - (minus[:, 0] - minus[:, 1])).tolist(), strict=True))

    def p_neurons(self, epoch: str) -> float:
        """P+ against P- over neuron-sessions, t-test: as the paper has it, and too kind, as neurons come 14 times."""
        column = list(EPOCHS).index(epoch)
        return _p(stats.ttest_ind, *(_finite(self.values(role)[:, column]) for role in ("plus", "minus")))

    def p_mice(self, epoch: str) -> float:
        """P+ against P- over mice, paired t-test: the honest one."""
        column = list(EPOCHS).index(epoch)
        return _p(stats.ttest_1samp, _finite(self.by_mouse("plus")[:, column] - self.by_mouse("minus")[:, column]), 0.0)

    def p_dd(self) -> float:
        """dd against 0 over mice, t-test."""
        return _p(stats.ttest_1samp, _finite(np.array(list(self.dd.values()))), 0.0)


def contrast(sessions: Sequence[SessionData]) -> Contrast:
    """Residuals in error-reduction and error-increase bins.

    A neuron's line and SD are those of its coincident events in the session's closed loop, whichever arm it is: so a
    shift that the LED gives all events is not taken for an error signal, and twins are measured alike. `roi` of an
    event must mean the same neuron in both planes. Raises SessionError for a session without events.
    """
    parts = [_of_session(session) for session in sessions]
    return Contrast(
        mouse=np.concatenate([np.full(len(s.role), s.mouse) for s in sessions] or [np.zeros(0, np.str_)]),
        day=np.concatenate([np.full(len(s.role), s.day) for s in sessions] or [np.zeros(0, np.int64)]),
        roi=np.concatenate([np.arange(len(s.role)) for s in sessions] or [np.zeros(0, np.int64)]),
        role=np.concatenate([s.role for s in sessions] or [np.zeros(0, np.str_)]),
        residual=np.concatenate([residual for residual, _ in parts] or [np.zeros((0, 2))]),
        n_events=np.concatenate([n for _, n in parts] or [np.zeros((0, 2), np.int64)]),
    )


def _of_session(session: SessionData) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(n_rois, 2) mean z residual and number of events by kind of epoch."""
    n_rois = len(session.role)
    events, z = loop_residuals(session)
    sign = error_epochs(session).at(events.t_s)
    residual, counts = np.full((n_rois, 2), np.nan), np.zeros((n_rois, 2), np.int64)
    for column, wanted in enumerate(EPOCHS.values()):
        chosen = sign == wanted
        counts[:, column] = np.bincount(events.roi[chosen], minlength=n_rois)
        there = counts[:, column] > 0
        residual[there, column] = np.bincount(events.roi[chosen], z[chosen], n_rois)[there] / counts[there, column]
    return residual, counts


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) means of the columns without their NaN; NaN of nothing."""
    there = np.isfinite(rows)
    n = there.sum(axis=0)
    return np.where(n > 0, np.where(there, rows, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _p(test: Callable[..., Any], *samples: Any) -> float:
    """NaN where a sample is too small for a test."""
    return np.nan if any(np.size(s) < 2 and np.ndim(s) for s in samples) else float(test(*samples).pvalue)


def print_contrasts(contrasts: dict[str, Contrast], console: Console) -> None:
    """A line for each arm, for a person."""
    table = Table("", *(f"{epoch} {role}" for epoch in EPOCHS for role in GROUPS), "p neuron-sessions", "p mice", "dd")
    for name, found in contrasts.items():
        means = [f"{_mean(found.values(role))[column]:+.3f}" for column in range(2) for role in GROUPS]
        tests = (" / ".join(f"{test(epoch):.2g}" for epoch in EPOCHS) for test in (found.p_neurons, found.p_mice))
        dd = np.array(list(found.dd.values()))
        sem = dd.std(ddof=1) / np.sqrt(len(dd)) if len(dd) > 1 else np.nan
        above = f"{np.sum(dd > 0)}/{len(dd)} mice"
        table.add_row(name, *means, *tests, f"{dd.mean():+.3f} +- {sem:.3f}, {above}, p = {found.p_dd():.2g}")
    console.print(table)
