"""Another laboratory's decoder, which knows nothing of this project; tests import it and copy its file elsewhere."""

import numpy as np
from numpy.typing import NDArray


class ExponentialDecoder:
    """P+ minus P- in units of the running mean; forgets with time constant `tau` frames."""

    def __init__(self, plus: list[int], minus: list[int], tau: float = 3.0) -> None:
        self.plus, self.minus, self.keep = plus, minus, 1 - 1 / tau
        self.reset()

    def reset(self) -> None:
        self.value = 0.0

    def update(self, f: NDArray[np.float32]) -> float:
        new = (f[self.plus].mean() - f[self.minus].mean()) / f.mean()
        self.value = self.keep * self.value + (1 - self.keep) * new
        return float(self.value)
