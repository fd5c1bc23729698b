"""From dF/F to the rate of what drives it: one interface, two ways behind it (docs/experiment.md 3.3)."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from msgspec import Struct
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.stats import norm

from loop2p.analysis.fluorescence import Traces
from loop2p.analysis.percentiles import percentile, rolling_percentile

SCORE_HZ, SCORE_SD_S = 15.46, 0.2
"""A score compares at the rate of a plane's frames, smoothed as the paper's CASCADE model smooths (3.3)."""

DECAY_SD = 4.0
"""A trace of n frames of white noise has an autocovariance of 0 +- its variance / root of n."""


class Inference(Protocol):
    """What turns dF/F into a rate."""

    def infer(self, dff: ArrayLike, rate_hz: float) -> Traces:
        """(n_frames, n_rois) of dF/F at `rate_hz` -> (n_frames, n_rois) of what drives it, a second; never below 0.

        May look ahead in time. A ROI with a value that is not finite is NaN throughout.
        """
        ...


class Oasis(Struct, frozen=True, kw_only=True):
    """Non-negative deconvolution: calcium that jumps, decays exponentially (AR(1)) and is seen through white noise.

    Friedrich, Zhou & Paninski 2017 (PLoS Comput Biol 13:e1005423), pool-adjacent-violators with a least jump;
    re-implemented from the paper. The rate is in dF/F a second, so height x width of an event is dF/F. What it must
    know of a ROI (rest, noise, decay) it takes from that ROI's trace.
    """

    least_sd: float = 2.0
    """Least jump, in SD of the noise. Set on a simulated mouse: of 1 / 1.5 / 2 / 2.5, 2 has the best balance of events
    found and false ones in the distal plane; the score on real recordings does not change by 0.01 between 0 and 3."""
    smooth_s: float = 0.2
    """SD of a Gaussian over the jumps, as in the paper's CASCADE model (3.3); 0: none."""
    rest_s: float = 30.0
    """Window in which rest is looked for: drift slower than that is taken off."""
    rest_percentile: float = 20.0
    """Of the window; where noise alone would put it is added back."""
    decay_limits_s: tuple[float, float] = (0.2, 3.0)
    """Between them a decay constant is believed."""

    def infer(self, dff: ArrayLike, rate_hz: float) -> Traces:
        """(n_frames, n_rois) float32, dF/F a second. Raises ValueError for what is no table of frames."""
        traces, sd = self._at_rest(dff, rate_hz)
        keeps = np.exp(-1 / (self._decays_s(traces, rate_hz) * rate_hz))
        jumps = np.zeros_like(traces)
        for trace, keep, noise, out in zip(traces, keeps, sd, jumps, strict=True):
            _deconvolve(trace, keep, self.least_sd * noise, out)
        jumps[~np.isfinite(traces).all(axis=1)] = np.nan
        if self.smooth_s:
            jumps = gaussian_filter1d(jumps, self.smooth_s * rate_hz, axis=1)
        return np.ascontiguousarray(jumps.T) * np.float32(rate_hz)

    def decays_s(self, dff: ArrayLike, rate_hz: float) -> NDArray[np.float64]:
        """(n_rois,) decay constant of each ROI: how long its autocovariance takes from lag 1 to 1/e of that.

        Of an AR(1) process that is the decay constant, and white noise is in lag 0 alone. The ratio of the first lags
        says the same of an ideal trace; of real ones it said 1.3 to 24 s where 1 to 2 s infer best (measured,
        spikefinder), since calcium rises slowly and recordings are smoothed. Where calcium enters over a while, what
        is found is longer than its decay: 0.63 s for 0.35 s after a plateau of 0.78 s (measured). A ROI that is noise
        alone (autocovariance at lag 1 within DECAY_SD of 0) is given the median of the others, or else the upper limit:
        a short decay would make events of noise.
        """
        return self._decays_s(self._at_rest(dff, rate_hz)[0], rate_hz)

    def _at_rest(self, dff: ArrayLike, rate_hz: float) -> tuple[Traces, NDArray[np.float32]]:
        """(n_rois, n_frames) dF/F, 0 at rest, and (n_rois,) SD of its noise."""
        table = np.asarray(dff, np.float32)
        rest = rolling_percentile(table, rate_hz, self.rest_s, self.rest_percentile)
        sd = noise_sd(table)
        rest -= np.float32(norm.ppf(self.rest_percentile / 100)) * sd
        return np.ascontiguousarray(np.subtract(table, rest, out=rest).T), sd

    def _decays_s(self, traces: Traces, rate_hz: float) -> NDArray[np.float64]:
        low_s, high_s = self.decay_limits_s
        n = traces.shape[1]
        away = traces - traces.mean(axis=1, keepdims=True)

        def covariance(lag: int) -> NDArray[np.float64]:
            return np.asarray(np.einsum("ij,ij->i", away[:, lag:], away[:, : n - lag]), float)

        before = covariance(1)
        known = before > DECAY_SD * covariance(0) / np.sqrt(n)
        goal = before / np.e
        frames = np.full(len(traces), np.inf)
        for lag in range(1, min(n - 1, 1 + int(high_s * rate_hz))):
            after = covariance(lag + 1)
            reached = (frames == np.inf) & (after <= goal)
            frames[reached] = lag - 1 + ((before - goal) / (before - after))[reached]
            before = after
            if np.isfinite(frames).all():
                break
        decays_s = np.clip(frames / rate_hz, low_s, high_s)
        decays_s[~known] = np.median(decays_s[known]) if known.any() else high_s
        return np.asarray(decays_s)


class Cascade(Struct, frozen=True, kw_only=True):
    """The network that the paper used (Rupprecht et al. 2021), where its package and its weights are installed.

    Not tried here: neither was at hand, and only the call was checked, against a stand-in. Its licence is the GPL. The
    rate is in spikes a second, so magnitudes are in spikes. The traces' rate must be that of the model.
    """

    models: Path = Path("Pretrained_models")
    """Folder that holds the model's folder."""
    model: str = "Global_EXC_15Hz_smoothing200ms"
    """As in the paper (3.3)."""

    def __post_init__(self) -> None:
        """Raises ModuleNotFoundError without the package, FileNotFoundError without the weights."""
        if find_spec("cascade2p") is None:
            raise ModuleNotFoundError(
                "spike inference cascade: no package cascade2p, expected an installed CASCADE; "
                "install it (github.com/HelmchenLabSoftware/Cascade) or use oasis"
            )
        if not (self.models / self.model / "config.yaml").is_file():
            raise FileNotFoundError(
                f"spike inference cascade: no {self.models / self.model / 'config.yaml'}, expected the model's weights "
                "there; download them with cascade2p or use oasis"
            )

    def infer(self, dff: ArrayLike, rate_hz: float) -> Traces:
        """(n_frames, n_rois) float32, spikes a second; 0 at both ends, where the network has no prediction."""
        table = np.asarray(dff, np.float32)
        per_frame = import_module("cascade2p.cascade").predict(self.model, table.T, model_folder=str(self.models))
        rates = np.nan_to_num(np.asarray(per_frame, np.float32).T).clip(min=0) * np.float32(rate_hz)
        rates[:, ~np.isfinite(table).all(axis=0)] = np.nan
        return rates


def by_name(name: str, **options: Any) -> Inference:
    """oasis or cascade, with its options. Raises ValueError for another name, and what `Cascade` raises."""
    known: dict[str, Callable[..., Inference]] = {"oasis": Oasis, "cascade": Cascade}
    if name not in known:
        raise ValueError(f"spike inference {name!r}, expected one of {', '.join(known)}")
    return known[name](**options)


def noise_sd(dff: ArrayLike) -> NDArray[np.float32]:
    """(n_rois,) SD of the white noise of traces (n_frames, n_rois), from their highest frequencies.

    Robust SD of successive differences over the root of 2, as Rupprecht et al. 2021 take their noise level from the
    median difference: events are too rare and too slow to matter.
    """
    steps = np.diff(np.asarray(dff, np.float32), axis=0)
    return np.asarray(1.4826 / np.sqrt(2) * percentile(np.abs(steps, out=steps), 50), np.float32)


def score(estimate: ArrayLike, spikes: ArrayLike, rate_hz: float) -> NDArray[np.float64]:
    """(n_cells,) Pearson r of estimated rate and true spikes, both (n_frames, n_cells) at `rate_hz`.

    Both are resampled to SCORE_HZ and smoothed with a Gaussian of SCORE_SD_S; frames in which one is not finite
    (padding at the end) are left out. NaN for a cell of which one is constant. Raises ValueError where shapes differ.
    """
    one, other = np.asarray(estimate, float), np.asarray(spikes, float)
    if one.shape != other.shape:
        raise ValueError(f"estimate {one.shape} and spikes {other.shape}, expected the same shape")
    pairs = zip(resample(one, rate_hz, SCORE_HZ).T, resample(other, rate_hz, SCORE_HZ).T, strict=True)
    return np.array([_r(a[both], b[both]) for a, b in pairs if (both := np.isfinite(a) & np.isfinite(b)) is not None])


def resample(traces: ArrayLike, rate_hz: float, to_hz: float) -> NDArray[np.float64]:
    """(n_frames, n_rois) at `rate_hz` -> the means over whole frames of `to_hz`, from the same start.

    From a cell's first value that is not finite on, NaN.
    """
    table = np.asarray(traces, float)
    total = np.concatenate([np.zeros((1, table.shape[1])), table.cumsum(axis=0)])
    edges = np.arange(int(len(table) * to_hz / rate_hz + 1e-9) + 1) * rate_hz / to_hz
    at_edges = np.stack([np.interp(edges, np.arange(len(total)), column) for column in total.T], axis=1)
    return np.diff(at_edges, axis=0) * to_hz / rate_hz


def _r(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    a, b = (gaussian_filter1d(x, SCORE_SD_S * SCORE_HZ) for x in (one, other))
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan


@njit(cache=True)  # type: ignore[untyped-decorator]
def _deconvolve(trace: NDArray[np.float32], keep: float, least: float, jumps: NDArray[np.float32]) -> float:
    """Write the jumps (n_frames,) of the calcium that fits a trace, 0 at rest; return the squared residual.

    Calcium decays by `keep` a frame, never below 0, and no jump is below `least` (0: the least-squares solution).
    A pool is a stretch of decay: its first value, weight and length, and `fall`, keep ** length. While a frame's jump
    is too small it joins the pool before it. The calcium that is there in the first frame counts as no jump.
    """
    n = trace.size
    value, weight, fall = np.empty(n), np.empty(n), np.empty(n)
    length = np.empty(n, np.int64)
    top = -1
    for t in range(n):
        top += 1
        value[top], weight[top], fall[top], length[top] = trace[t], 1.0, keep, 1
        while top > 0 and value[top] < fall[top - 1] * max(value[top - 1], 0.0) + least:
            both = weight[top - 1] + fall[top - 1] ** 2 * weight[top]
            value[top - 1] = (weight[top - 1] * value[top - 1] + fall[top - 1] * weight[top] * value[top]) / both
            weight[top - 1] = both
            fall[top - 1] *= fall[top]
            length[top - 1] += length[top]
            top -= 1
    left, t, before = 0.0, 0, 0.0
    for pool in range(top + 1):
        calcium = max(value[pool], 0.0)
        for k in range(length[pool]):
            jumps[t + k] = 0.0
        if pool > 0:
            jumps[t] = calcium - before
        for _ in range(length[pool]):
            left += (trace[t] - calcium) ** 2
            calcium *= keep
            t += 1
        before = calcium
    return left
