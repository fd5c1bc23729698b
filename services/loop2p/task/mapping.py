"""Control value -> what the animal sees. The only place where a value becomes an angle.

Methods 2.5: 0 deg = the smallest D of the baseline, 90 deg (horizontal, the target) = the threshold, in 7 bins:
z < min: 0; [min, min+s): 15; ... [min+4s, thr): 75; >= thr: 90, with s = (thr - min) / 5.
"""

import math
from bisect import bisect_right

from loop2p.protocol import Calibration

ANGLE_STEP_DEG = 15.0
TARGET_DEG = 90.0
HIT_FROM_DEG = 89.5
"""The hit test rounds 90 (z - min) / (thr - min) to whole degrees, so half a degree short is a hit."""


class Mapping:
    """A calibration, made ready to be looked up. Raises ValueError unless minimum < threshold, both finite."""

    def __init__(self, calibration: Calibration) -> None:
        low, high = calibration.minimum, calibration.threshold
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"calibration: minimum {low}, threshold {high}; expected finite, minimum < threshold")
        self.minimum, self.threshold = low, high
        step = (high - low) / 5
        self.edges = [low + k * step for k in range(5)] + [high]

    def angle_deg(self, value: float) -> float:
        """The angle of a control value: one of 0, 15, ... 90. Raises ArithmeticError if it is not finite."""
        return ANGLE_STEP_DEG * bisect_right(self.edges, self._checked(value))

    def is_hit(self, value: float) -> bool:
        """Has the target been reached? Raises ArithmeticError if the value is not finite."""
        return TARGET_DEG * (self._checked(value) - self.minimum) / (self.threshold - self.minimum) >= HIT_FROM_DEG

    @staticmethod
    def _checked(value: float) -> float:
        if not math.isfinite(value):
            raise ArithmeticError(f"control value {value}, expected a finite number")
        return value
