"""What a perturbation does to dendrites and somas, against the day's own control block (docs/experiment.md 3.8, 4.5).

LED off against LED on (NDNF and LED-only mice), awake against anaesthetised: two passive blocks of one session, told
apart by their names in the task file.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.columns import joined
from loop2p.analysis.residuals import coincident_of, fit_lines, z_residuals
from loop2p.analysis.sessions import SessionData, SessionError
from loop2p.analysis.statistics import Floats, Level, Test, mouse_means, t_one_sample, t_two_sample

LED = ("led-off", "led-on")
"""Names of the blocks of an NDNF day, control first (deploy/tasks/ndnf.toml)."""
ANAESTHESIA = ("awake", "anaesthetised")
"""Names of the blocks of an anaesthesia session (deploy/tasks/anaesthesia.toml)."""


class Perturbed(Struct, frozen=True):
    """Each neuron of each session, all (n,) or (n, 2): control block, perturbed block."""

    mouse: NDArray[np.str_]
    day: NDArray[np.int64]
    roi: NDArray[np.int64]
    role: NDArray[np.str_]
    residual: Floats
    """(n,) mean distance of the perturbed block's events from the line of the control block, in units of its SD; NaN
    without such events, or without a line. The control block's own mean is 0."""
    rate_hz: Floats
    """(n, 2) somatic events a second, whether or not the dendrite had one."""
    n_events: NDArray[np.int64]
    """(n, 2) coincident events."""

    @property
    def rate_change_hz(self) -> Floats:
        """(n,) perturbed minus control."""
        return np.asarray(self.rate_hz[:, 1] - self.rate_hz[:, 0])

    def by(self, level: Level, values: Floats) -> Floats:
        """Means of (n,) values at a level: as they are, of each session, or of each mouse, over its neuron-sessions."""
        if level == "neuron-session":
            return values
        if level == "session":
            return mouse_means(values, np.array([f"{m} {d}" for m, d in zip(self.mouse, self.day, strict=True)]))
        if level == "mouse":
            return mouse_means(values, self.mouse)
        raise ValueError(f"level {level}, expected neuron-session, session or mouse")


_NONE = Perturbed(
    mouse=np.zeros(0, np.str_),
    day=np.zeros(0, np.int64),
    roi=np.zeros(0, np.int64),
    role=np.zeros(0, np.str_),
    residual=np.zeros(0),
    rate_hz=np.zeros((0, 2)),
    n_events=np.zeros((0, 2), np.int64),
)


def perturbed(sessions: Sequence[SessionData], blocks: tuple[str, str] = LED) -> Perturbed:
    """Distance of perturbed events from the control line, and event rates, of every neuron.

    blocks: names of the control and the perturbed passive block. `roi` of an event must mean the same neuron in both
    planes. Raises SessionError for a session without events or without one of the blocks.
    """
    return joined([_NONE, *(_of_session(session, blocks) for session in sessions)])


def _of_session(session: SessionData, blocks: tuple[str, str]) -> Perturbed:
    events, n_rois, soma = coincident_of(session), len(session.role), session.events[0]
    times = [_block(session, name) for name in blocks]
    rates = [
        np.bincount(soma.roi[_within(soma.t_s, block)], minlength=n_rois) / sum(stop - start for start, stop in block)
        for block in times
    ]
    control, lit = (_within(events.t_s, block) for block in times)
    z = z_residuals(events, fit_lines(events, n_rois, control))
    counts = [np.bincount(events.roi[chosen], minlength=n_rois) for chosen in (control, lit)]
    sums = np.bincount(events.roi[lit], z[lit], n_rois)  # NaN where there is no line
    return Perturbed(
        mouse=np.full(n_rois, session.mouse),
        day=np.full(n_rois, session.day),
        roi=np.arange(n_rois),
        role=session.role,
        residual=np.where(counts[1] > 0, sums / np.maximum(counts[1], 1), np.nan),
        rate_hz=np.column_stack(rates),
        n_events=np.column_stack(counts),
    )


def _block(session: SessionData, name: str) -> list[tuple[float, float]]:
    """Start and stop of a passive block, in pieces where it was paused."""
    found = [(start, stop) for phase, detail, start, stop in session.phases if (phase, detail) == ("baseline", name)]
    if not found:
        there = ", ".join(detail for phase, detail, *_ in session.phases if phase == "baseline") or "none"
        raise SessionError(f"{session.path}: passive blocks are {there}, expected one called {name}")
    return found


def _within(t_s: Floats, block: list[tuple[float, float]]) -> NDArray[np.bool_]:
    return np.asarray(np.any([(t_s >= start) & (t_s < stop) for start, stop in block], axis=0))


LEVELS: tuple[Level, ...] = ("neuron-session", "session", "mouse")


def shift_tests(found: Perturbed, what: str) -> list[Test]:
    """Residual and change of rate against 0, at each level (A17, A20). With `what` it was: NDNF, LED only, ..."""
    values = {"residual, SD of control": found.residual, "somatic event rate, Hz": found.rate_change_hz}
    return [
        t_one_sample(found.by(level, v), 0.0, what=f"{what}: {name}", level=level)
        for name, v in values.items()
        for level in LEVELS
    ]


def group_tests(first: Perturbed, second: Perturbed, what: str) -> list[Test]:
    """Residual and change of rate of one group of mice against another's, as NDNF against LED only, at each level."""
    values = {
        "residual, SD of control": (first.residual, second.residual),
        "somatic event rate, Hz": (first.rate_change_hz, second.rate_change_hz),
    }
    return [
        t_two_sample(first.by(level, a), second.by(level, b), what=f"{what}: {name}", level=level)
        for name, (a, b) in values.items()
        for level in LEVELS
    ]
