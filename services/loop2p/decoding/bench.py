"""How fast F0 is against np.percentile, both measured in turns in one run."""

import json
import time
from typing import Any

import numpy as np

from loop2p.decoding.f0 import RollingF0

WINDOW = 464
"""30 s at 15.46 Hz (docs/experiment.md 2.3)."""


def bench_f0(seed: int = 0, n_rois: int = 500, repeats: int = 300) -> dict[str, Any]:
    """Time both on the same frames with a full window: microseconds a frame (min, p50, p99), ratio of the minima.

    numpy gets its window in the layout that is faster for it, (n_rois, window).
    """
    rng = np.random.default_rng(seed)
    frames = rng.gamma(4.0, 20.0, (WINDOW + repeats, n_rois)).astype(np.float32)
    f0 = RollingF0(n_rois, WINDOW)
    for f in frames[:WINDOW]:
        f0.update(f)
    by_roi = np.ascontiguousarray(frames.T)
    ours_ns, numpy_ns, worst = [], [], 0.0
    for k in range(WINDOW, WINDOW + repeats):
        window = np.ascontiguousarray(by_roi[:, k - WINDOW + 1 : k + 1])
        t0 = time.perf_counter_ns()
        a = f0.update(frames[k])
        t1 = time.perf_counter_ns()
        b = np.percentile(window, 10, axis=1)
        t2 = time.perf_counter_ns()
        ours_ns.append(t1 - t0)
        numpy_ns.append(t2 - t1)
        worst = max(worst, float(np.abs(a - b).max()))
    return {
        "ours": _quantiles_us(ours_ns),
        "numpy": _quantiles_us(numpy_ns),
        "ratio_min": min(numpy_ns) / min(ours_ns),
        "max_abs_diff": worst,
        "n": repeats,
        "n_rois": n_rois,
    }


def _quantiles_us(ns: list[int]) -> dict[str, float]:
    p50, p99 = np.percentile(ns, [50, 99]) / 1000
    return {"min": min(ns) / 1000, "p50": float(p50), "p99": float(p99)}


if __name__ == "__main__":
    print(json.dumps(bench_f0(), indent=2))
