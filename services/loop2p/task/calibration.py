"""The threshold: from a baseline of D to the control value that a mouse reaches by chance in half of its trials.

Methods 2.4:
1. draw 200 windows of 435 frames at random places, the record wrapped end to start;
2. from min(D) upwards in steps of 0.005 dF/F, the threshold is the smallest one which at most half of the windows
   exceed with their 3-frame moving mean;
3. the samples of D (all windows pooled) at or below the median, mirrored at it, fitted by a Gaussian: mu, sigma;
   z* = (thr - mu) / sigma of day 1;
4. on a later day thr = mu + z* sigma with that day's mu and sigma and the z* of day 1.

The maximum-likelihood Gaussian of a record mirrored at its median m has mu = m and sigma = the RMS distance from it.
0 deg is min(D) of the baseline as Methods 2.5 and 2.4 say, D itself and not its 3-frame mean. Where the authors' code
differs, the Methods are followed (2.10): it mirrors at 0, and its threshold of a later day is never above that day's
chance. The latter can be asked for: variant = "min".
"""

from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from loop2p.protocol import Calibration

SMOOTH_FRAMES = 3
"""The control value is the mean of D over the last 3 frames (Methods 2.3)."""


class CalibrationError(ValueError):
    """A baseline from which no threshold can be had: found, expected, what to do."""


class CalibrationParams(Struct, frozen=True, forbid_unknown_fields=True):
    """How the threshold is found. Defaults: Methods 2.4."""

    windows: Annotated[int, Meta(gt=0)] = 200
    window_s: Annotated[float, Meta(gt=0)] = 28.14
    """435 frames at 15.46 Hz."""
    step: Annotated[float, Meta(gt=0)] = 0.005
    """dF/F."""
    chance: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    """Largest fraction of windows that succeed by chance."""
    seed: Annotated[int, Meta(ge=0)] = 0
    variant: Literal["methods", "min"] = "methods"
    """On later days: mu + z* sigma (Methods), or, as in the authors' code, with min(z*, today's z of chance)."""


def calibrate(
    d: ArrayLike,
    plane_rate_hz: float,
    params: CalibrationParams,
    z_star: float | None = None,
    first_frame: int = 0,
    last_frame: int = 0,
    baseline: str = "passive",
) -> Calibration:
    """Baseline D (n_frames,), one value a proximal frame -> calibration. `z_star` is day 1's, None on day 1.

    Raises CalibrationError for a baseline that is too short, constant or not finite, and where the threshold
    would not lie above the minimum.
    """
    values = np.asarray(d, dtype=np.float64)
    n = round(params.window_s * plane_rate_hz)
    if values.ndim != 1 or len(values) < max(n, SMOOTH_FRAMES) or n < SMOOTH_FRAMES:
        raise CalibrationError(
            f"baseline: {values.size} values of D, windows of {n} ({params.window_s:g} s at {plane_rate_hz:g} Hz); "
            f"expected at least one window of {SMOOTH_FRAMES} values or more: record a longer baseline"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise CalibrationError(
            f"baseline: {bad.size} of {len(values)} values of D are not finite, the first is number {bad[0]}; "
            "expected numbers: look at the traces in decoding's and imaging's alarms"
        )
    pooled = windows_of(values, n, params.windows, np.random.default_rng(params.seed))
    mu, sigma = mirrored_gaussian(pooled)
    minimum = float(values.min())
    if not sigma > 0:
        raise CalibrationError(
            f"baseline: the lower half of D is constant (median {mu:g}, minimum {minimum:g}); expected a signal "
            "with noise: are the ROIs where the cells are, and is the laser on?"
        )
    by_chance = chance_threshold(pooled, minimum, params.step, params.chance)
    threshold = by_chance if z_star is None else mu + z_star * sigma
    if params.variant == "min":
        threshold = min(threshold, by_chance)  # the same as min(z*, today's z), for sigma > 0
    if not threshold > minimum:
        raise CalibrationError(
            f"baseline: threshold {threshold:g} does not lie above the minimum {minimum:g} "
            f"(mu {mu:g}, sigma {sigma:g}); expected room for the angles: record the baseline again"
        )
    return Calibration(
        minimum=minimum,
        threshold=threshold,
        mu=mu,
        sigma=sigma,
        z_star=(threshold - mu) / sigma if z_star is None else z_star,
        seed=params.seed,
        first_frame=first_frame,
        last_frame=last_frame,
        n_values=len(values),
        baseline=baseline,
    )


def windows_of(values: NDArray[np.float64], n: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, n): windows at random places of the record, which is wrapped end to start."""
    starts = rng.integers(0, len(values), count)
    windows: NDArray[np.float64] = values[(starts[:, None] + np.arange(n)) % len(values)]
    return windows


def window_maxima(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(count,): the highest 3-frame mean in each window, of those means that lie whole within it."""
    smooth = sliding_window_view(windows, SMOOTH_FRAMES, axis=1).mean(axis=2)
    return np.asarray(smooth.max(axis=1))


def chance_threshold(windows: NDArray[np.float64], minimum: float, step: float, chance: float) -> float:
    """The smallest minimum + k step which at most `chance` of the windows exceed."""
    maxima = np.sort(window_maxima(windows))
    candidates = minimum + step * np.arange(int((maxima[-1] - minimum) / step) + 2)
    succeeding = 1 - np.searchsorted(maxima, candidates, side="right") / len(maxima)
    return float(candidates[np.argmax(succeeding <= chance)])


def mirrored_gaussian(samples: NDArray[np.float64]) -> tuple[float, float]:
    """mu and sigma of the samples at or below the median, mirrored at it."""
    ordered = np.sort(samples, axis=None)  # np.median loads a part of numpy when first called: 100 ms amid a session
    middle = len(ordered) // 2
    median = float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)
    lower = ordered[ordered <= median]
    return median, float(np.sqrt(np.mean((lower - median) ** 2)))
