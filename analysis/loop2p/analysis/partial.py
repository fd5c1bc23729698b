"""Is it how the error changes that the residual follows, or how large the error is? (docs/experiment.md 4.4, A15)

In closed loop the two go together: where the error is large it has just grown. The paper's way, residuals of P+ and P-
at small and at large error, can therefore show a "level" where only the change acts. So there is a second way: both at
once in a regression, each given the other.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import statsmodels.api as sm
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis.columns import joined, where
from loop2p.analysis.epochs import BIN_S, Epochs, angle_deg, error_epochs, mean_angle_deg
from loop2p.analysis.residuals import loop_residuals
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, Test, t_one_sample, t_over_mice, t_two_sample

TARGET_DEG = 90.0
EDGE_DEG = 45.0
"""Between small and large error (ED13c, d). Angles come in steps of 15; an error of 45 itself is large here, as the
paper does not say."""
VELOCITY_S = 0.5
"""Time constant of the low-passed velocity. Ours; the paper knows the bins alone."""
SIGNS = {"plus": 1.0, "minus": -1.0}
Derivative = Literal["rotation_deg_s", "velocity_deg_s"]
ErrorLevel = Literal["error_deg", "bin_error_deg"]
LEVEL_NAMES: dict[ErrorLevel, str] = {"error_deg": "error at the event", "bin_error_deg": "mean error of the bin"}
TERMS = ("role x derivative", "role x level")


class ErrorEvents(Struct, frozen=True):
    """Coincident events of a closed loop with the error around them, all (n_events,).

    Derivatives are those of the angle: above 0 the error falls.
    """

    mouse: NDArray[np.str_]
    day: NDArray[np.int64]
    roi: NDArray[np.int64]
    role: NDArray[np.str_]
    z: Floats
    """Residual about the neuron's line of this closed loop, in units of its SD."""
    rotation_deg_s: Floats
    """Net rotation of the 2 s bin that holds the event, over 2 s: what the error epochs take the sign of."""
    velocity_deg_s: Floats
    """Of the angle up to the event, low-passed."""
    error_deg: Floats
    """90 minus the angle displayed at the event."""
    bin_error_deg: Floats
    """90 minus the mean displayed angle of the bin."""

    def where(self, chosen: NDArray[np.bool_]) -> "ErrorEvents":
        return where(self, chosen)


def error_events(sessions: Sequence[SessionData]) -> ErrorEvents:
    """All events in whole bins of the closed loops, of neurons that have a line.

    `roi` of an event must mean the same neuron in both planes. Raises SessionError for a session without events,
    ValueError for no session.
    """
    return joined([_of_session(session) for session in sessions])


def _of_session(session: SessionData) -> ErrorEvents:
    events, z = loop_residuals(session)
    epochs = error_epochs(session)
    bins = epochs.bins(events.t_s)
    kept = bins >= 0
    t_s, roi, bins = events.t_s[kept], events.roi[kept], bins[kept]
    return ErrorEvents(
        mouse=np.full(len(t_s), session.mouse),
        day=np.full(len(t_s), session.day),
        roi=roi,
        role=session.role[roi],
        z=z[kept],
        rotation_deg_s=epochs.rotation_deg[bins] / BIN_S,
        velocity_deg_s=velocity_deg_s(session, epochs, t_s),
        error_deg=TARGET_DEG - angle_deg(session, t_s),
        bin_error_deg=TARGET_DEG - mean_angle_deg(session, epochs)[bins],
    )


def velocity_deg_s(session: SessionData, epochs: Epochs, t_s: Floats, tau_s: float = VELOCITY_S) -> Floats:
    """(n,) turns of the trial before each time, low-passed by an exponential of `tau_s`; 0 outside the stretches."""
    grating = np.isfinite(session.shown_deg)
    at, angle = session.shown_s[grating], session.shown_deg[grating]
    found = np.zeros(len(t_s))
    for start, stop in zip(epochs.start_s, epochs.stop_s, strict=True):
        own = (t_s >= start) & (t_s < stop)
        pictures = (at >= start) & (at < stop)
        since = t_s[own][:, None] - at[pictures][1:]
        kernel = np.where(since >= 0, np.exp(-since.clip(min=0) / tau_s), 0.0) / tau_s
        found[own] = kernel @ np.diff(angle[pictures])
    return found


def by_level(events: ErrorEvents, level: ErrorLevel = "error_deg") -> list[Test]:
    """The paper's way: P+ against P- at small and at large error, over neuron-sessions and over mice (ED13c, d)."""
    error = getattr(events, level)
    tests = []
    for what, chosen in (
        (f"{LEVEL_NAMES[level]} < {EDGE_DEG:.0f}", error < EDGE_DEG),
        (f"{LEVEL_NAMES[level]} >= {EDGE_DEG:.0f}", error >= EDGE_DEG),
    ):
        role, mouse, z = _neuron_sessions(events.where(chosen))
        what = f"z residual, P+ - P-, {what} deg"
        tests.append(t_two_sample(z[role == "plus"], z[role == "minus"], what=what, level="neuron-session"))
        cells = role != "other"
        tests.append(t_over_mice(z[cells], mouse[cells], role[cells] == "plus", what=what))
    return tests


def _neuron_sessions(events: ErrorEvents) -> tuple[NDArray[np.str_], NDArray[np.str_], Floats]:
    """Role, mouse and mean z of each neuron in each session, as the paper averages before it tests."""
    names = np.array(
        [f"{m} {d} {r}" for m, d, r in zip(events.mouse, events.day, events.roi, strict=True)], dtype=np.str_
    )
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    return events.role[first], events.mouse[first], np.bincount(number, events.z) / np.bincount(number)


class Partial(Struct, frozen=True):
    """Role x derivative and role x level, each given the other: SD of residual for an SD of derivative or level."""

    over_mice: list[Test]
    """In the order of TERMS: one regression for each mouse, t of its coefficients over mice."""
    clustered: list[Test]
    """One regression of all events, errors clustered by mouse: a mouse with more events counts more."""
    by_mouse: Floats
    """(n_mice, 2) coefficients, mice by name."""
    r: float
    """Correlation of derivative and level over the events: how hard it is to tell them apart."""


def partial_regression(
    events: ErrorEvents, derivative: Derivative = "rotation_deg_s", level: ErrorLevel = "error_deg"
) -> Partial:
    """z = role + derivative + level + role x derivative + role x level, on events of P+ (role 1) and P- (-1).

    A vector of the derivative has a coefficient of role x derivative above 0, one of the level (amplified where the
    error is large, in P+) of role x level. Raises ValueError where a mouse has no more events than terms.
    """
    own = events.where(np.isin(events.role, list(SIGNS)))
    role = np.array([SIGNS[r] for r in own.role])
    d, e = (_standard(getattr(own, name), name) for name in (derivative, level))
    x = np.column_stack([np.ones(len(role)), role, d, e, role * d, role * e])
    names, number = np.unique(own.mouse, return_inverse=True)
    for k, name in enumerate(names):
        if (rank := np.linalg.matrix_rank(x[number == k])) < x.shape[1] or np.sum(number == k) <= x.shape[1]:
            raise ValueError(
                f"{name}: {np.sum(number == k)} events of P+ and P-, rank {rank}, expected more events than "
                f"{x.shape[1]} terms and all terms to vary: leave the mouse out"
            )
    by_mouse = np.array([sm.OLS(own.z[number == k], x[number == k]).fit().params[-2:] for k in range(len(names))])
    what = [f"z residual: {term} ({source})" for term, source in zip(TERMS, (derivative, level), strict=True)]
    over_mice = [t_one_sample(by_mouse[:, k], 0.0, what=what[k], level="mouse") for k in range(2)]
    clustered = []
    if len(names) > 1:
        fit = sm.OLS(own.z, x).fit(cov_type="cluster", cov_kwds={"groups": number}, use_t=True)
        clustered = [
            Test(what[k], f"OLS, errors clustered by mouse, t with {len(names) - 1} df", "mouse", (len(names),),
                 float(fit.params[4 + k]), float(fit.pvalues[4 + k]))
            for k in range(2)
        ]  # fmt: skip
    return Partial(over_mice, clustered, by_mouse, float(np.corrcoef(d, e)[0, 1]))


def _standard(values: Floats, name: str) -> Floats:
    if not len(values) or not np.ptp(values):
        raise ValueError(f"{name}: the same in all {len(values)} events of P+ and P-, expected it to vary")
    return np.asarray((values - values.mean()) / values.std())
