"""From F to D to the control value (docs/experiment.md 2.3). Pure: frames in, numbers out."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from loop2p.decoding.f0 import RollingF0
from loop2p.protocol import PROXIMAL, Cause, Output, Traces, f32, from_f32

F0_S = 30.0
"""F0 is the 10th percentile of the previous 30 s (docs/experiment.md 2.3)."""
SMOOTH_FRAMES = 3
"""The control value is the mean of D over the last 3 frames (docs/experiment.md 2.3)."""
SETTLE_S = 10.0
"""So much must have been decoded before a value is called valid: F0 of fewer frames jumps about."""
HOLE_S = 1.0
"""Frames missing or not valid for longer than this are a hole: values before and after are not averaged."""


class Decoder(Protocol):
    """What a decoder must offer. It inherits nothing of ours; `DecoderContract` in the tests says when it is sound.

    A decoder that has dF/F may keep it as `dff`, (n_rois,) float32, for the record; None or no such name: it has none.
    """

    def update(self, f: NDArray[np.float32]) -> float:
        """Take raw F of the proximal plane, (n_rois,) in ROI-set order; return the unsmoothed value, finite."""
        ...

    def reset(self) -> None:
        """Forget every frame."""
        ...


class DifferenceDecoder:
    """D = mean dF/F of P+ minus mean dF/F of P- (docs/experiment.md 2.3).

    dF/F = (F - F0) / F0. Where F0 is not above zero the ROI is dark and dF/F has no meaning: for an ROI of P+ or P-
    `update` raises ArithmeticError, because any number in its place would steer the screen; for an ROI that does
    not drive the decoder `dff` holds NaN.
    """

    def __init__(
        self,
        plus: list[int],
        minus: list[int],
        rate_hz: float,
        f0_s: float = F0_S,
        percentile: float = 10.0,
        record_dff: bool = True,
    ) -> None:
        """`record_dff` False: dF/F of P+ and P- alone is computed and none is recorded, which is all that D needs."""
        for name, rois in (("plus", plus), ("minus", minus)):
            if not rois or min(rois) < 0:
                raise ValueError(f"{name} is {rois}, expected at least one ROI, counted from 0")
        self._chosen = None if record_dff else np.array([*plus, *minus], np.intp)
        self.plus, self.minus = np.array(plus, np.intp), np.array(minus, np.intp)
        if self._chosen is not None:
            self._up, self._down = np.arange(len(plus)), np.arange(len(plus), len(plus) + len(minus))
        else:
            self._up, self._down = self.plus, self.minus
        self.window, self.percentile = round(f0_s * rate_hz), percentile
        self.reset()

    def reset(self) -> None:
        """Forget every frame, and how many ROIs there were."""
        self._n_rois = 1 + int(max(self.plus.max(), self.minus.max()))
        self._start(self._n_rois)

    def _start(self, n_rois: int) -> None:
        self._n_rois = n_rois
        n_used = n_rois if self._chosen is None else len(self._chosen)
        self._f0 = RollingF0(n_used, self.window, self.percentile)
        self._f, self._dff = np.zeros(n_used, np.float32), np.zeros(n_used, np.float32)
        self.dff = self._dff if self._chosen is None else None
        self._fresh = True

    def update(self, f: NDArray[np.float32]) -> float:
        """Take a frame's F, (n_rois,); return D.

        Raises ArithmeticError for a dark or non-finite ROI, ValueError for another number of ROIs than before.
        """
        if self._fresh and len(f) > self._n_rois:
            self._start(len(f))
        if len(f) != self._n_rois:
            raise ValueError(f"{len(f)} cells, expected {self._n_rois}{' or more' if self._fresh else ''}")
        self._fresh = False
        if self._chosen is None:
            self._f[:] = f
        else:
            f.take(self._chosen, out=self._f, mode="clip")  # they were checked; "raise" makes a copy first
        f0 = self._f0.update(self._f)
        d, dark = _difference(self._f, f0, self._up, self._down, self._dff)
        if dark >= 0:
            roi = dark if self._chosen is None else self._chosen[dark]
            raise ArithmeticError(
                f"ROI {roi} is dark: F0 is {f0[dark]:g}, expected above 0; check shutter, detector gain and ROI set"
            )
        return float(d)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _difference(
    f: NDArray[np.float32],
    f0: NDArray[np.float32],
    plus: NDArray[np.intp],
    minus: NDArray[np.intp],
    dff: NDArray[np.float32],
) -> tuple[float, int]:
    """Write dF/F; return D and the first dark ROI of plus and minus, -1 if none is."""
    for roi in range(f.size):
        dff[roi] = (f[roi] - f0[roi]) / f0[roi] if f0[roi] > 0 else np.nan
    up = down = 0.0
    for roi in plus:
        if not f0[roi] > 0:
            return 0.0, roi
        up += dff[roi]
    for roi in minus:
        if not f0[roi] > 0:
            return 0.0, roi
        down += dff[roi]
    return up / plus.size - down / minus.size, -1


class Smoother:
    """Mean of the last 3 values (of what there is at the start)."""

    def __init__(self, frames: int = SMOOTH_FRAMES) -> None:
        self._last: deque[float] = deque(maxlen=frames)

    def reset(self) -> None:
        self._last.clear()

    def update(self, value: float) -> float:
        self._last.append(value)
        return sum(self._last) / len(self._last)


class ControlSignal:
    """Turns the traces of the proximal plane into one Output a frame.

    A frame whose traces are not valid is never fed to the decoder, so that it can't spoil F0; its Output is not valid
    and repeats the last value. A frame that is not newer than the last one is dropped. After a hole (more than
    `HOLE_S` of frame time without a frame that could be fed) the decoder is filled again with what is left of the
    previous 30 s, and smoothing begins anew; where time jumps back by more than `HOLE_S`, everything does. Outputs
    are valid once the decoder holds `SETTLE_S` of frames.
    """

    def __init__(self, rate_hz: float) -> None:
        """`rate_hz`: frames a second of the proximal plane."""
        self.settle = round(SETTLE_S * rate_hz)
        self.decoder: Decoder | None = None
        self.rois: list[int] = []
        self.frames_decoded = self.frames_invalid = self.frames_late = self.holes = self.resets = 0
        # What a decoder is filled with: F0's window for each of the values that are averaged.
        self._recent: deque[Traces] = deque(maxlen=round(F0_S * rate_hz) + SMOOTH_FRAMES - 1)
        self._smoother = Smoother()
        self._n_bytes = 0
        self._seen_s = -math.inf
        self._forget()

    def _forget(self) -> None:
        self._recent.clear()
        self._smoother.reset()
        self._fed = 0
        self._d = self._value = 0.0
        if self.decoder is not None:
            self.decoder.reset()

    def reset(self) -> None:
        """Forget every frame, and how many cells there were; the decoder stays."""
        self._forget()
        self._n_bytes = 0
        self._seen_s = -math.inf
        self.resets += 1

    def use(self, decoder: Decoder, rois: list[int]) -> None:
        """Decode with this from now on; `rois` are the indices that it will read. It gets the last 30 s first.

        Raises ValueError for an ROI that imaging does not send.
        """
        if self._n_bytes:
            _check_rois(rois, self._n_bytes // 4, "selection")
        self.decoder, self.rois = decoder, rois
        self._refill()

    def _refill(self) -> None:
        """Give the decoder the recent frames; none of them if it can't take them (a dark ROI)."""
        if self.decoder is None:
            return
        self.decoder.reset()
        self._smoother.reset()
        self._fed = 0
        try:
            for traces in self._recent:
                self._feed(traces)
        except ArithmeticError:
            self._forget()

    def step(self, traces: Traces) -> Output | None:
        """Take a frame; None where there is nothing to say (other plane, late frame, no decoder yet).

        Raises ArithmeticError and ValueError, each naming the frame: a value that is not finite, a decoder that
        raised, another number of cells than before.
        """
        if traces.plane != PROXIMAL:
            return None
        cause = traces.cause
        if cause is None:
            raise ValueError("traces without a cause, expected the frame in the header")
        if not math.isfinite(cause.time_s):
            raise ArithmeticError(f"frame {cause.frame}: frame time {cause.time_s}, expected a finite number")
        if self._seen_s - HOLE_S <= cause.time_s <= self._seen_s:
            self.frames_late += 1
            return None
        if cause.time_s < self._seen_s:
            self._forget()
            self.resets += 1
        self._seen_s = cause.time_s
        if not traces.valid:
            self.frames_invalid += 1
            return self._output(cause, valid=False) if self.decoder else None
        if self._recent and cause.time_s - _time_s(self._recent[-1]) > HOLE_S:
            while self._recent and _time_s(self._recent[0]) < cause.time_s - F0_S:
                self._recent.popleft()
            self._refill()
            self._smoother.reset()
            self.holes += 1
        if len(traces.f) != self._n_bytes:
            self._resize(cause.frame, traces.f)
        self._recent.append(traces)
        if self.decoder is None:
            return None
        valid = self._fed >= self.settle
        self._feed(traces)
        self.frames_decoded += 1
        return self._output(cause, valid, self._dff(cause.frame))

    def _resize(self, frame: int, f: bytes) -> None:
        """A frame of another number of cells: only good where nothing was decoded before."""
        n_cells, expected = len(f) // 4, self._n_bytes // 4
        if self.decoder is not None:
            if expected:
                raise ValueError(f"frame {frame}: {n_cells} cells, expected {expected}")
            _check_rois(self.rois, n_cells, f"frame {frame}")
        self._recent.clear()
        self._n_bytes = len(f)

    def _feed(self, traces: Traces) -> None:
        assert self.decoder is not None
        assert traces.cause is not None
        f, frame = from_f32(traces.f), traces.cause.frame
        try:
            d = float(self.decoder.update(f))
        except Exception as error:  # raised again at once: it only gains the frame's number
            raise ArithmeticError(f"frame {frame}: decoder raised {type(error).__name__}: {error}") from error
        if not math.isfinite(d):
            raise ArithmeticError(f"frame {frame}: decoder returned {d}")
        self._d, self._value = d, self._smoother.update(d)
        self._fed += 1

    def _dff(self, frame: int) -> bytes:
        """The decoder's dF/F as the message holds it; empty if it has none."""
        dff = getattr(self.decoder, "dff", None)
        if dff is None:
            return b""
        if 4 * len(dff) != self._n_bytes:
            raise ValueError(f"frame {frame}: decoder holds dff of {len(dff)} cells, expected {self._n_bytes // 4}")
        return f32(dff)

    def _output(self, cause: Cause, valid: bool, dff: bytes = b"") -> Output:
        return Output(cause=cause, d=self._d, value=self._value, dff=dff, valid=valid)


def _time_s(traces: Traces) -> float:
    return traces.cause.time_s if traces.cause else -math.inf


def check_selection(plus: list[int], minus: list[int]) -> None:
    """Raises ValueError for an ROI that is negative or stands twice: the difference would mean something else."""
    seen: dict[int, str] = {}
    for name, rois in (("plus", plus), ("minus", minus)):
        for roi in rois:
            if roi < 0:
                raise ValueError(f"selection: {name} holds ROI {roi}, expected 0 or more")
            if roi in seen:
                raise ValueError(f"selection: ROI {roi} is in {name} and in {seen[roi]}, expected once")
            seen[roi] = name


def _check_rois(rois: Iterable[int], n_rois: int, place: str) -> None:
    for roi in rois:
        if roi >= n_rois:
            raise ValueError(f"{place}: ROI {roi} is selected, expected 0 to {n_rois - 1}: imaging sends {n_rois} ROIs")
