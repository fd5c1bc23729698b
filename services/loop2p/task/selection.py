"""Which ROIs drive the decoder, and with which sign."""

import re
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike

Index = Annotated[int, Meta(ge=0)]
_TABLE = re.compile(r"^\[selection\][^\n]*(?:\n(?!\[)[^\n]*)*\n?", re.MULTILINE)
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
    """A ROI as its passive baseline shows it."""

    roi: int
    rate_hz: float
    """Upward crossings of median + 4 robust SD, a second. Crude, but the same for every ROI."""
    snr: float = 0.0
    """Largest value above the median, in robust SD: the largest event against the band of noise."""
    drift: float = 0.0
    """How far the median of a minute wanders (of a quarter, where there are not four), in robust SD: SD over them."""


def candidates(dff: ArrayLike, plane_rate_hz: float, sd: float = EVENT_SD) -> list[Candidate]:
    """Baseline dF/F (n_frames, n_rois) -> every ROI with the numbers that Methods 2.1 names, in their order.

    The robust SD is 1.4826 x the median absolute deviation of the ROI's own trace. A trace that is constant or not
    finite has no events, no signal and infinite drift. The shape of transients is left to the experimenter's eye.
    Raises ValueError if `dff` is not a table with at least two frames.
    """
    table = np.asarray(dff, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise ValueError(f"dff has shape {table.shape}, expected (n_frames, n_rois) with at least 2 frames")
    n_frames, n_rois = table.shape
    traces = np.ascontiguousarray(table.T)  # medians run along memory: twice as fast
    median = np.median(traces, axis=1)
    traces -= median[:, None]
    spread = 1.4826 * np.median(np.abs(traces), axis=1)
    above = traces > sd * spread[:, None]
    events = np.sum(above[:, 1:] & ~above[:, :-1], axis=1)
    usable = np.isfinite(traces).all(axis=1) & (spread > 0)
    scale = np.where(usable, spread, 1.0)
    n_parts = min(n_frames, max(4, round(n_frames / (60 * plane_rate_hz))))
    slow = np.array([np.median(part, axis=1) for part in np.array_split(traces, n_parts, axis=1)])
    rates = np.where(usable, events, 0) * plane_rate_hz / n_frames
    snr = np.where(usable, traces.max(axis=1) / scale, 0.0)
    drift = np.where(usable, slow.std(axis=0) / scale, np.inf)
    return [Candidate(k, float(rates[k]), float(snr[k]), float(drift[k])) for k in range(n_rois)]


def ranked(found: Sequence[Candidate]) -> list[Candidate]:
    """The best first: by the mean of the ranks in event rate, signal-to-noise and steadiness; event rate breaks ties.

    The paper states no numbers (Methods 2.1); equal weights are ours. The experimenter chooses.
    """
    columns = ([-c.rate_hz for c in found], [-c.snr for c in found], [c.drift for c in found])
    ranks = np.sum([np.searchsorted(np.sort(column), column) for column in columns], axis=0)
    order = sorted(range(len(found)), key=lambda k: (ranks[k], -found[k].rate_hz, found[k].roi))
    return [found[k] for k in order]


def rank_by_event_rate(dff: ArrayLike, plane_rate_hz: float) -> list[Candidate]:
    """Baseline dF/F (n_frames, n_rois) -> ROIs, the most active first. Raises ValueError as `candidates` does."""
    return sorted(candidates(dff, plane_rate_hz), key=lambda c: (-c.rate_hz, c.roi))


def with_selection(task: str, rois: Sequence[int], seed: int, confirmed_by: str) -> str:
    """A task file's text with these ROIs and this seed of the draw in place of its table [selection].

    Raises ValueError for a choice that makes no sense (see `SelectionParams`).
    """
    SelectionParams(rois=tuple(rois), seed=seed)
    rest = _TABLE.sub("", task).rstrip("\n")
    who = confirmed_by.replace("\n", " ")
    table = f"[selection]          # confirmed by {who}\nrois = {list(rois)}\nseed = {seed}\n"
    return f"{rest}\n\n{table}" if rest else table
