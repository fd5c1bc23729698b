"""Is the size of a dendritic event a linear, an exponential or a logarithmic function of its somatic event's? (3.8)

    linear       d = a + b s
    exponential  d = a exp(b s)
    logarithmic  d = a + b log(s)

The paper names the three and no formulas. These keep their shape whatever the unit of s and d, which
a + b exp(s) does not; and each has two coefficients. Least squares, so Gaussian noise whose variance is a third
parameter of each: as all have as many, differences of AIC and AICc are the same and are those of n log(sum of squares).
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray
from scipy import optimize

from loop2p.analysis.levels import at_levels
from loop2p.analysis.residuals import Coincident, fit_lines, z_residuals
from loop2p.analysis.statistics import Test

MODELS = ("linear", "exponential", "logarithmic")
N_PARAMETERS = 3
"""a, b and the variance."""
STEEPEST = 5.0
"""Bound of b times the SD of s: e^5 over one SD is no relation of two sizes any more."""


class Shapes(Struct, frozen=True):
    """Each neuron's three fits to the same events; NaN where there is no line."""

    aic: NDArray[np.float64]
    """(n_rois, 3) in the order of MODELS; smaller is better."""
    n_events: NDArray[np.int64]
    """(n_rois,)"""
    r: NDArray[np.float64]
    """(n_rois,) Pearson of somatic size with the residual of the line: 0, as least squares makes it. No evidence."""
    r_ahead: NDArray[np.float64]
    """(n_rois,) the same where the line is that of the first half of the neuron's events and the residuals are those of
    the second half: 0 if the line holds."""


class Comparison(Struct, frozen=True):
    """Over neuron-sessions."""

    n_neurons: int
    daic: dict[str, float]
    """Mean AIC of each other model less the line's: above 0 the line is better. Paper: exponential 13.8, logarithmic
    12.1 (ED5)."""
    best: dict[str, float]
    """Share of neuron-sessions in which each model has the lowest AIC."""
    r: float
    r_ahead: float
    """Means of what `Shapes` has of each neuron-session; NaN of none."""
    tests: list[Test]
    """Difference of AIC against 0 for each other model, and r_ahead against 0: over neuron-sessions, over mice, mixed
    model."""


def fit_shapes(events: Coincident, n_rois: int) -> Shapes:
    """Fit all three to each neuron's events (events in order of time within a neuron, as `coincident` gives them).

    Raises ValueError for a size that is not above 0: it has no logarithm.
    """
    wrong = np.flatnonzero(~(events.soma > 0))
    if len(wrong):
        k = wrong[0]
        raise ValueError(
            f"event {k}, ROI {events.roi[k]}: somatic size {events.soma[k]}, expected above 0: leave it out"
        )
    n = np.bincount(events.roi, minlength=n_rois)
    lines = fit_lines(events, n_rois)
    squares = np.full((n_rois, len(MODELS)), np.nan)
    squares[:, 0] = lines.sd**2 * (n - 1)
    squares[:, 2] = fit_lines(structs.replace(events, soma=np.log(events.soma)), n_rois).sd ** 2 * (n - 1)
    z = z_residuals(events, lines)
    r, r_ahead = np.full(n_rois, np.nan), np.full(n_rois, np.nan)
    first = _first_half(events.roi, n)
    ahead = z_residuals(events, fit_lines(events, n_rois, first))
    for roi in np.flatnonzero(np.isfinite(lines.sd)):
        own = np.flatnonzero(events.roi == roi)
        squares[roi, 1] = _exponential(events.soma[own], events.dendrite[own])
        r[roi] = np.corrcoef(events.soma[own], z[own])[0, 1]
        later = own[~first[own]]
        if np.isfinite(ahead[later]).all() and np.ptp(events.soma[later]) > 0:
            r_ahead[roi] = np.corrcoef(events.soma[later], ahead[later])[0, 1]
    with np.errstate(divide="ignore"):
        aic = n[:, None] * (np.log(2 * np.pi * squares / n[:, None].clip(1)) + 1) + 2 * N_PARAMETERS
    return Shapes(aic, n, r, r_ahead)


def compare(shapes: Sequence[Shapes], mice: Sequence[str]) -> Comparison:
    """Over sessions, each with the mouse it is of. Raises ValueError where no neuron has a line."""
    aic = np.concatenate([s.aic for s in shapes])
    mouse = np.repeat(np.array(mice, np.str_), [len(s.aic) for s in shapes])
    there = np.isfinite(aic).all(axis=1)
    if not there.any():
        raise ValueError("no neuron has a line, expected at least one with enough coincident events")
    aic, mouse = aic[there], mouse[there]
    r, r_ahead = (np.concatenate([getattr(s, name) for s in shapes])[there] for name in ("r", "r_ahead"))
    others = {model: aic[:, k] - aic[:, 0] for k, model in enumerate(MODELS) if k}
    compared = {f"AIC, {model} - linear": daic for model, daic in others.items()}
    compared["r of somatic size and later residual"] = r_ahead
    tests = [at_levels(values, mouse, what=what, level="neuron-session") for what, values in compared.items()]
    return Comparison(
        n_neurons=len(aic),
        daic={model: float(daic.mean()) for model, daic in others.items()},
        best={model: float(np.mean(aic.argmin(axis=1) == k)) for k, model in enumerate(MODELS)},
        r=float(r.mean()),
        r_ahead=float(np.nanmean(r_ahead)) if np.isfinite(r_ahead).any() else np.nan,
        tests=[test for each in tests for test in each],
    )


def _exponential(s: NDArray[np.float64], d: NDArray[np.float64]) -> float:
    """Least sum of squares of d = a exp(b s): for each b the best a is known, so one number is sought."""
    steps = (s - s.mean()) / s.std()  # the rest of exp(b s) is part of a

    def squares(b: float) -> float:
        e = np.exp(b * steps)
        return float(np.sum((d - e * (d @ e) / (e @ e)) ** 2))

    return float(optimize.minimize_scalar(squares, bounds=(-STEEPEST, STEEPEST), method="bounded").fun)


def _first_half(roi: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n_events,) whether an event is one of its neuron's first n // 2."""
    order = np.argsort(roi, kind="stable")
    place = np.empty(len(roi), np.int64)
    place[order] = np.arange(len(roi)) - np.repeat(np.cumsum(n) - n, n)
    return np.asarray(place < n[roi] // 2)
