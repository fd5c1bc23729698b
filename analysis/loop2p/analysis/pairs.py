"""Which distal ROI is the trunk of which proximal ROI, and which ROIs of a plane are one cell twice (3.1, 3.5)."""

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray
from scipy import ndimage, stats

from loop2p.analysis.percentiles import percentile
from loop2p.analysis.sessions import PlaneEvents

LEAST_R = 0.6
"""Of a pair, and of a duplicate within 20 um (3.5, 3.1)."""
SMOOTH_S = 0.04
"""Sigma of the Gaussian that both traces go through before they are correlated: noise of single frames lowers r of
true pairs. The paper has the limit 0.6 and not how noisy its traces are; but it had 93 pairs a session of some 315
neurons (7845 neuron-sessions in 84 sessions, 268 of P+ and 198 of P-). So this is set for as many: on a tuning seed of
the simulated mouse, noise 0.044 dF/F a frame, 85 pairs of 300, 6.7 of them P+ or P-. On
its first day (seed 0, mouse 0), pairs that pass 0.6, their mean r, and the largest r of two cells that are none:

    sigma, s      0     0.04   0.05   0.1    0.15   0.2    0.3    0.5    1
    true pairs    31    113    136    224    261    277    285    292    295
    mean r        .40   .51    .55    .65    .70    .74    .79    .84    .87
    largest else  .15   .17    .18    .20    .22    .24    .26    .31    .39
"""
NEAR_UM = 20.0
"""Centres of duplicates are closer than this (3.1)."""
ALONE_R = 0.9
"""Where centres are unknown, correlation alone must say that two ROIs are one cell; neighbours that share neuropil or
fire together pass 0.6 too. A choice: the paper knows its centres."""
FLAT = 1e-6
"""A trace with a smaller SD, dF/F, is a constant with rounding errors."""


class Pairs(Struct, frozen=True):
    """Compartments of one neuron, one to one, in order of the proximal ROI; all (n_pairs,)."""

    proximal: NDArray[np.int64]
    distal: NDArray[np.int64]
    """Rows of the planes' ROI tables."""
    r: NDArray[np.float64]
    """Pearson, of the smoothed traces."""
    snr: NDArray[np.float64]
    """Geometric mean of the two compartments'."""


def snr(dff: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n_rois,) how far events stand out of a trace (n_frames, n_rois): (99.5th percentile - median) / noise SD.

    The paper says "SNR" alone. The percentile and not the largest event, which one bad frame can make. Noise is what
    changes from frame to frame: median |successive difference| / (0.674 sqrt 2), its SD if it is Gaussian; slow drifts
    and rare events hardly count. NaN for a trace without noise or with a value that is not finite.
    """
    _check(dff, "dff")
    steps = np.diff(dff, axis=0)
    noise = percentile(np.abs(steps, out=steps), 50) / (stats.norm.ppf(0.75) * np.sqrt(2))
    middle, high = (percentile(dff, percent) for percent in (50, 99.5))
    return np.asarray((high - middle) / np.where(noise > 0, noise, np.nan), float)


def correlations(
    one: NDArray[np.floating], other: NDArray[np.floating], rate_hz: float, smooth_s: float = SMOOTH_S
) -> NDArray[np.float32]:
    """(n_one, n_other) Pearson r of every trace of `one` with every trace of `other`, both (n_frames, n_rois).

    Frame k of one is compared with frame k of the other. Planes that alternate are 32 ms apart (the figures at SMOOTH_S
    include that) and may differ in length by one. Raises ValueError where they differ by more. A trace that is flat, or
    has a value that is not finite, has r = 0.
    """
    _check(one, "one")
    _check(other, "other")
    n = min(len(one), len(other))
    if max(len(one), len(other)) > n + 1:
        raise ValueError(f"planes of {len(one)} and {len(other)} frames, expected equal numbers or one more: cut them")
    a, b = (_standardised(dff[:n], smooth_s * rate_hz) for dff in (one, other))
    return np.asarray(a @ b.T / np.float32(n))


def pair(
    proximal_dff: NDArray[np.floating],
    distal_dff: NDArray[np.floating],
    rate_hz: float,
    least_r: float = LEAST_R,
    smooth_s: float = SMOOTH_S,
) -> Pairs:
    """Pairs of dF/F traces, (n_frames, n_proximal) and (n_frames, n_distal), with r >= `least_r`, one to one (3.5).

    A ROI with several partners keeps the one of the best SNR; where that one is wanted by others too, the pair of the
    best SNR comes first. `smooth_s` 0 correlates traces as they are. Raises ValueError as `correlations` does.
    """
    r = correlations(proximal_dff, distal_dff, rate_hz, smooth_s)
    # Of two pairs that share a ROI the better product is the better partner.
    quality = np.sqrt(np.nan_to_num(snr(proximal_dff))[:, None] * np.nan_to_num(snr(distal_dff))[None])
    proximal, distal = np.nonzero(r >= least_r)
    free_p, free_d = np.ones(r.shape[0], bool), np.ones(r.shape[1], bool)
    taken = []
    for k in np.argsort(-quality[proximal, distal], kind="stable"):
        if free_p[proximal[k]] and free_d[distal[k]]:
            taken.append(k)
            free_p[proximal[k]] = free_d[distal[k]] = False
    kept = np.sort(np.array(taken, np.int64))  # np.nonzero goes by the proximal ROI
    p, d = proximal[kept].astype(np.int64), distal[kept].astype(np.int64)
    return Pairs(p, d, r[p, d].astype(float), quality[p, d])


def in_proximal_rows(distal: PlaneEvents, pairs: Pairs) -> PlaneEvents:
    """Distal events with the row of their neuron's proximal ROI, as `coincident` wants them; of pairs alone."""
    row = dict(zip(pairs.distal.tolist(), pairs.proximal.tolist(), strict=True))
    of = np.array([row.get(roi, -1) for roi in distal.roi.tolist()], np.int64)
    events = structs.replace(distal, roi=of)
    return PlaneEvents(*(getattr(events, field)[of >= 0] for field in PlaneEvents.__struct_fields__))


def single(
    dff: NDArray[np.floating],
    rate_hz: float,
    centre_um: NDArray[np.floating] | None = None,
    smooth_s: float = SMOOTH_S,
) -> NDArray[np.int64]:
    """Rows of a plane's ROIs, rising, without those that are another's duplicate (3.1).

    Duplicates: r > 0.6 and centres (n_rois, 2) less than 20 um apart; without centres r > 0.9. Of duplicates the one of
    the best SNR stays: which one, the paper doesn't say. Raises ValueError where centres and traces differ in number.
    """
    same = correlations(dff, dff, rate_hz, smooth_s) > (ALONE_R if centre_um is None else LEAST_R)
    if centre_um is not None:
        if np.shape(centre_um) != (dff.shape[1], 2):
            raise ValueError(f"centres of shape {np.shape(centre_um)}, expected ({dff.shape[1]}, 2): one a trace")
        apart_um = np.linalg.norm(centre_um[:, None] - centre_um[None], axis=-1)
        same &= apart_um < NEAR_UM
    kept: list[int] = []
    for roi in np.argsort(-np.nan_to_num(snr(dff)), kind="stable").tolist():
        if not same[roi, kept].any():
            kept.append(roi)
    return np.sort(np.array(kept, np.int64))


def _standardised(dff: NDArray[np.floating], sigma_frames: float) -> NDArray[np.float32]:
    """(n_rois, n_frames) smoothed, mean 0, SD 1; 0 throughout for a trace that is flat or not finite."""
    finite = np.isfinite(dff).all(axis=0)
    traces = np.ascontiguousarray(np.where(finite, dff, 0).T, np.float32)
    if sigma_frames:
        traces = ndimage.gaussian_filter1d(traces, sigma_frames, axis=1)
    traces -= traces.mean(axis=1, keepdims=True)
    sd = traces.std(axis=1, keepdims=True)
    return np.asarray(traces / np.where(sd > FLAT, sd, np.inf), np.float32)


def _check(dff: NDArray[np.floating], name: str) -> None:
    if np.ndim(dff) != 2 or len(dff) < 2:
        raise ValueError(f"{name} of shape {np.shape(dff)}, expected (n_frames, n_rois) with at least 2 frames")
