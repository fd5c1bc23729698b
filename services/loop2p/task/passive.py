"""What the animal sees in a passive block: static gratings in random order, on frame time, from a seed."""

from collections.abc import Sequence

import numpy as np

from loop2p.protocol import Show


class Passive:
    """All orientations in random order, again and again; each for shown_s + U(-jitter_s, jitter_s) (Methods 2.2).

    Without orientations the screen stays as it is.
    """

    def __init__(self, orientations_deg: Sequence[float], shown_s: float, jitter_s: float, seed: int) -> None:
        self.orientations_deg, self.shown_s, self.jitter_s = list(orientations_deg), shown_s, jitter_s
        self._rng = np.random.default_rng(seed)
        self._order: list[float] = []
        self._until_s: float | None = None

    def step(self, t_s: float) -> list[Show]:
        """The next grating, at the first frame whose time reaches its turn."""
        if not self.orientations_deg or (self._until_s is not None and t_s < self._until_s):
            return []
        if not self._order:
            self._order = self._rng.permutation(self.orientations_deg).tolist()
        self._until_s = t_s + self.shown_s + self._rng.uniform(-self.jitter_s, self.jitter_s)
        return [Show(what="grating", angle_deg=self._order.pop())]

    def halt(self) -> None:
        """The screen went grey: the next step shows a new grating."""
        self._until_s = None
