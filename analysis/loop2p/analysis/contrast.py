"""Is the dendritic error signal a vector? Residuals of P+ and P- while the error falls and while it grows (4.4).

Runs on whatever events a session holds: the true ones of a simulated cohort, or detected ones put in their place
(`msgspec.structs.replace(session, events=...)`). The same goes for roles that are permuted as a control.

Two things to know before a figure is quoted. An event belongs to the bin of its somatic time, and which moment that is
matters: a simulated main arm has dd 0.39 by the begin of the burst, 0.28 by a time 0.2 s later. And errors in somatic
sizes alone give a dd above 0 (tests/science), so an arm is judged against its twin without signal.
"""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.columns import joined
from loop2p.analysis.epochs import error_epochs
from loop2p.analysis.levels import at_levels
from loop2p.analysis.residuals import Coincident, loop_residuals
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, Test, mouse_means, t_one_sample

EPOCHS = {"reduction": 1, "increase": -1}
"""Sign of the rotation; columns of the tables below, in this order."""


class Contrast(Struct, frozen=True):
    """Mean z residual of each neuron in each session (n,) in the two kinds of epoch, and what follows from it."""

    mouse: NDArray[np.str_]
    day: NDArray[np.int64]
    roi: NDArray[np.int64]
    role: NDArray[np.str_]
    residual: Floats
    """(n, 2): error reduction, error increase; NaN without an event there."""
    n_events: NDArray[np.int64]
    """(n, 2)"""

    def values(self, role: str) -> Floats:
        """(n_neuron_sessions, 2) of a group."""
        return np.asarray(self.residual[self.role == role])

    @property
    def mice(self) -> list[str]:
        return sorted(set(self.mouse.tolist()))

    def by_mouse(self, role: str) -> Floats:
        """(n_mice, 2) of a group: means over a mouse's neuron-sessions, mice in order of their names; NaN if none."""
        return np.column_stack([mouse_means(column, self.mouse, self.role == role)[:, 0] for column in self.residual.T])

    def change_by_mouse(self, role: str) -> Floats:
        """(n_mice,) reduction minus increase of a group."""
        reduction, increase = self.by_mouse(role).T
        return np.asarray(reduction - increase)

    @property
    def dd(self) -> dict[str, float]:
        """Difference of differences of each mouse: reduction minus increase of P+, less that of P-.

        Positive: each group is amplified while the screen goes where it drives it. 0 where all dendrites get the same
        signal, or none (A13, A21).
        """
        dd = self.change_by_mouse("plus") - self.change_by_mouse("minus")
        return dict(zip(self.mice, dd.tolist(), strict=True))

    def precise_change_by_mouse(self, role: str) -> Floats:
        """(n_mice,) reduction minus increase of a group, each neuron-session counted by what its events can tell.

        The variance of a difference of two means goes with 1/n + 1/n', so its weight is n n' / (n + n'); a neuron with
        one event in an epoch weighs as little as it knows. Measured on a tuning seed of the simulated mouse: main minus
        its scalar twin, 6 mice, +.203 +- .022, by plain means +.202 +- .059. NaN without a neuron that has both.
        """
        n = self.n_events.astype(float)
        weight = np.where(self.role == role, n.prod(axis=1) / n.sum(axis=1).clip(1), 0.0)
        change = np.where(weight > 0, self.residual[:, 0] - self.residual[:, 1], 0.0)
        mice, mouse = np.unique(self.mouse, return_inverse=True)
        weights = np.bincount(mouse, weight, len(mice))
        return np.asarray(np.bincount(mouse, weight * change, len(mice)) / np.where(weights > 0, weights, np.nan))

    @property
    def precise_dd(self) -> Floats:
        """(n_mice,) `dd` of these changes, mice in order of their names (A21)."""
        return self.precise_change_by_mouse("plus") - self.precise_change_by_mouse("minus")

    def tests(self, epoch: str) -> list[Test]:
        """P+ against P-: over neuron-sessions, as the paper has it, and too kind, as neurons come 14 times; over mice,
        the honest one; mixed model (A12)."""
        own = np.isin(self.role, ("plus", "minus"))
        values = self.residual[own, list(EPOCHS).index(epoch)]
        what = f"z residual, P+ - P-, error {epoch}"
        return at_levels(values, self.mouse[own], self.role[own] == "plus", what=what, level="neuron-session")

    def mouse_tests(self) -> list[Test]:
        """Reduction minus increase of P+ and of P-, and dd, against 0 over mice (A13)."""
        changes = {f"P{sign}": self.change_by_mouse(role) for sign, role in (("+", "plus"), ("-", "minus"))}
        changes["P+ less P-"] = changes["P+"] - changes["P-"]
        what = "z residual, error reduction - increase"
        return [t_one_sample(v, 0.0, what=f"{what}, {name}", level="mouse") for name, v in changes.items()]

    def p_dd(self) -> float:
        """Of dd against 0 over mice."""
        return self.mouse_tests()[-1].p


_NONE = Contrast(
    mouse=np.zeros(0, np.str_),
    day=np.zeros(0, np.int64),
    roi=np.zeros(0, np.int64),
    role=np.zeros(0, np.str_),
    residual=np.zeros((0, 2)),
    n_events=np.zeros((0, 2), np.int64),
)


def contrast(
    sessions: Sequence[SessionData],
    residuals: Callable[[SessionData], tuple[Coincident, Floats]] = loop_residuals,
) -> Contrast:
    """Residuals in error-reduction and error-increase bins.

    A neuron's line and SD are those of its coincident events in the session's closed loop, whichever arm it is: so a
    shift that the LED gives all events is not taken for an error signal, and twins are measured alike. `residuals`: of
    a session; `residuals_less_neighbours` has them without what events nearby in time make of them. `roi` of an event
    must mean the same neuron in both planes. Raises SessionError for a session without events.
    """
    return joined([_NONE, *(_of_session(session, *residuals(session)) for session in sessions)])


def _of_session(session: SessionData, events: Coincident, z: Floats) -> Contrast:
    n_rois = len(session.role)
    sign = error_epochs(session).at(events.t_s)
    residual, counts = np.full((n_rois, 2), np.nan), np.zeros((n_rois, 2), np.int64)
    for column, wanted in enumerate(EPOCHS.values()):
        chosen = sign == wanted
        counts[:, column] = np.bincount(events.roi[chosen], minlength=n_rois)
        there = counts[:, column] > 0
        residual[there, column] = np.bincount(events.roi[chosen], z[chosen], n_rois)[there] / counts[there, column]
    return Contrast(
        mouse=np.full(n_rois, session.mouse),
        day=np.full(n_rois, session.day),
        roi=np.arange(n_rois),
        role=session.role,
        residual=residual,
        n_events=counts,
    )
