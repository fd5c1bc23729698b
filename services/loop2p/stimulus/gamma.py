"""From the luminance that a monitor was measured to give to the drive levels that make it linear."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
"""Entries of a table: drive levels (0 to 1) for luminance 0/255 to 255/255. Between them is interpolated."""


def exponent_table(gamma: float) -> NDArray[np.float64]:
    """(256,) for a monitor whose luminance is drive ** gamma. Raises ValueError: found, expected."""
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"found gamma {gamma}, expected an exponent above 0, such as 2.2")
    return np.linspace(0, 1, LEVELS) ** (1 / gamma)


def given_table(table: Sequence[float]) -> NDArray[np.float64]:
    """(256,) a table that was made elsewhere. Raises ValueError: found, expected."""
    levels = np.asarray(table, np.float64)
    if levels.shape != (LEVELS,):
        raise ValueError(f"found a gamma table of {levels.size} values, expected 256, one for each luminance i/255")
    if not (np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 1 and (np.diff(levels) >= 0).all()):
        raise ValueError(
            "found a gamma table that leaves 0 to 1 or falls, expected 256 rising drive levels from 0 to 1"
        )
    return levels


def measured_table(points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """(256,) from measured points (drive level 0 to 255, luminance in any unit), in any order.

    0 stands for the luminance at level 0 and 1 for that at 255. Between points the luminance is taken to follow the
    power law that fits them all: drawn as luminance ** (1 / exponent) it is nearly straight, so few points do.
    Raises ValueError: found, expected.
    """
    drive, luminance = np.array(sorted(points), np.float64).reshape(-1, 2).T
    if len(drive) < 3 or drive[0] != 0 or drive[-1] != 255 or (np.diff(drive) == 0).any():
        found = ", ".join(f"{level:g}" for level in drive)
        raise ValueError(f"found luminance at levels {found}, expected at least 3, each once, 0 and 255 among them")
    if not (np.isfinite(luminance).all() and (np.diff(luminance) > 0).all()):
        raise ValueError(f"found luminances {luminance.tolist()} at rising levels, expected them to rise as well")
    seen = (luminance - luminance[0]) / (luminance[-1] - luminance[0])
    drive = drive / 255
    inside = slice(1, -1)
    x, y = np.log(drive[inside]), np.log(seen[inside])
    exponent = float((x * y).sum() / (x * x).sum())  # least squares through (1, 1)
    wanted = np.linspace(0, 1, LEVELS) ** (1 / exponent)
    return np.interp(wanted, seen ** (1 / exponent), drive)
