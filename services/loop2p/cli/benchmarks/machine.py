"""What a figure was measured on."""

import importlib.metadata
import os
import platform
import time
import timeit
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def machine() -> dict[str, Any]:
    """Processor, cores, system, versions, the interpreter's speed and the load at the start."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), cpu
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "pyzmq", "msgspec")}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "python_call_ns": round(python_call_ns(), 1),
        "load_1min_at_start": load,
        **packages,
    }


def python_call_ns() -> float:
    """Processor time of a call of a small Python function: builds of the same version differ in it."""
    define = "def step(x):\n    return x + 1"
    times_s = timeit.repeat("step(3)", define, timer=time.process_time, number=100_000, repeat=7)
    return 1e9 * min(times_s) / 100_000


def quantiles(values: ArrayLike) -> dict[str, Any]:
    """{n, p50, p99, p999, max} in the unit of the values; None where there are none."""
    x = np.asarray(values, dtype=float)
    if x.size == 0:
        return {"n": 0, "p50": None, "p99": None, "p999": None, "max": None}
    p50, p99, p999 = np.percentile(x, (50, 99, 99.9))
    return {"n": int(x.size), "p50": float(p50), "p99": float(p99), "p999": float(p999), "max": float(x.max())}
