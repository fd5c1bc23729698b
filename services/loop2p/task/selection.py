"""Which ROIs drive the decoder, and with which sign."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike

Index = Annotated[int, Meta(ge=0)]
EVENT_SD = 4.0
"""An event rises above this many robust standard deviations."""


class SelectionParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Either `rois`, split at random, or `plus` and `minus` as they are. Indexes into the proximal plane's ROI set."""

    rois: tuple[Index, ...] = ()
    plus: tuple[Index, ...] = ()
    minus: tuple[Index, ...] = ()
    seed: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.rois and (self.plus or self.minus):
            raise ValueError("both rois and plus/minus are given, expected one of them")
        if bool(self.plus) != bool(self.minus):
            raise ValueError("one of plus and minus is empty, expected ROIs in both")
        chosen = [*self.rois, *self.plus, *self.minus]
        twice = sorted({roi for roi in chosen if chosen.count(roi) > 1})
        if twice:
            raise ValueError(f"ROI {twice[0]} is named twice, expected each once")
        if len(self.rois) % 2:
            raise ValueError(f"{len(self.rois)} rois, expected an even number (Methods 2.1: 8 or 10)")


def split(rois: Sequence[int], seed: int) -> tuple[list[int], list[int]]:
    """Split ROIs at random into equal P+ and P-, each in rising order (Methods 2.1: by a random number generator)."""
    drawn = np.random.default_rng(seed).permutation(list(rois)).tolist()
    half = len(drawn) // 2
    return sorted(drawn[:half]), sorted(drawn[half:])


class Candidate(Struct, frozen=True):
    """A ROI and how often it was active."""

    roi: int
    rate_hz: float


def rank_by_event_rate(dff: ArrayLike, plane_rate_hz: float, sd: float = EVENT_SD) -> list[Candidate]:
    """Baseline dF/F (n_frames, n_rois) -> ROIs, the most active first (Methods 2.1 ranks by event frequency first).

    An event is an upward crossing of median + 4 robust SD (1.4826 x the median absolute deviation) of the ROI's own
    trace: crude, but the same for every ROI. A trace that is constant or not finite has no events. The experimenter
    looks at signal-to-noise ratio, baseline stability and shape of transients before choosing.
    Raises ValueError if `dff` is not a table with at least two frames.
    """
    table = np.asarray(dff, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise ValueError(f"dff has shape {table.shape}, expected (n_frames, n_rois) with at least 2 frames")
    median = np.median(table, axis=0)
    spread = 1.4826 * np.median(np.abs(table - median), axis=0)
    above = table > median + sd * spread
    events = np.sum(above[1:] & ~above[:-1], axis=0)
    usable = np.isfinite(table).all(axis=0) & (spread > 0)
    rates = np.where(usable, events, 0) * plane_rate_hz / len(table)
    order = np.lexsort((np.arange(table.shape[1]), -rates))
    return [Candidate(int(roi), float(rates[roi])) for roi in order]
