"""What drifts about a mean: arousal, running speed, the image under the objective."""

import math


class Wander:
    """Ornstein-Uhlenbeck process of unit variance, one step a frame."""

    def __init__(self, tau_s: float, dt_s: float, start: float = 0.0) -> None:
        self.keep = math.exp(-dt_s / tau_s)
        self.kick = math.sqrt(1 - self.keep**2)
        self.value = start

    def step(self, normal: float) -> float:
        self.value = self.keep * self.value + self.kick * normal
        return self.value
