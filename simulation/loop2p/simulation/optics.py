"""From cells to pixels: what the simulated microscope would detect. No clock, no socket.

A frame costs about 2 ms: the still part of the picture is a table look-up (expected light and a fresh random byte give
a Poisson count), only the cells' pixels draw true Poisson numbers. No noise is ever used twice.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from loop2p.simulation.mouse import Mouse
from loop2p.simulation.scene import PAD_PX, REACH_PX, Scene
from loop2p.simulation.wander import Wander

STEPS_PER_PX = 4
"""The image moves in quarters of a pixel."""
LIMIT_PX = 4.0
"""It never moves further than this."""
COUNTS_PER_PHOTON = 100
DARK_COUNTS = 20


class Motion:
    """How far the brain has moved in each frame: slow drift (30 s) and jitter (0.2 s), in quarters of a pixel."""

    def __init__(self, seed: int, rate_hz: float, drift_px: float = 1.2, jitter_px: float = 0.4) -> None:
        self._rng = np.random.default_rng([seed, 2])
        self._drift_px, self._jitter_px = drift_px, jitter_px
        self._drift = [Wander(30.0, 1 / rate_hz) for _ in "yx"]
        self._jitter = [Wander(0.2, 1 / rate_hz) for _ in "yx"]

    def step(self) -> tuple[float, float]:
        """The next frame's displacement (y, x), px; positive is down and right. Within +-LIMIT_PX."""
        normal = self._rng.standard_normal((2, 2))
        moved = [
            self._drift_px * drift.step(n[0]) + self._jitter_px * jitter.step(n[1])
            for drift, jitter, n in zip(self._drift, self._jitter, normal, strict=True)
        ]
        y, x = (round(max(-LIMIT_PX, min(LIMIT_PX, m)) * STEPS_PER_PX) / STEPS_PER_PX for m in moved)
        return y, x


class MicroscopeModel:
    """Activity and motion in, frames out, with shot noise: variance = COUNTS_PER_PHOTON x (mean - DARK_COUNTS)."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene = scene
        self._bits = np.random.PCG64([seed, 0])
        self._rng = np.random.Generator(np.random.PCG64([seed, 1]))
        phases = [k / STEPS_PER_PX for k in range(STEPS_PER_PX)]
        self._top = float(scene.still.max())
        self._counts = _poisson_table(self._top)
        self._still = {
            (plane, y, x): self._levels(scene.still[plane], y, x)
            for plane in range(scene.planes)
            for y in phases
            for x in phases
        }
        self._cells = [_Stamps(scene, plane, phases) for plane in range(scene.planes)]
        self._index = np.empty((scene.width, scene.height), np.uint16)

    def frame(
        self, plane: int, activity: NDArray[np.float32], moved_px: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.uint16]:
        """One frame, (height, width) uint16, column-major in memory; a new array each time.

        `activity`: (n_cells,) fluorescence, 1 = at rest. `moved_px`: (y, x) in quarters of a pixel, within +-LIMIT_PX.
        Raises ValueError on anything else.
        """
        width, height = self._index.shape
        if len(activity) != self.scene.n_cells:
            raise ValueError(f"activity of {len(activity)} cells, expected {self.scene.n_cells}")
        (y, part_y), (x, part_x) = _split(moved_px[0]), _split(moved_px[1])

        # (column, row) everywhere below: the memory order of a column-major frame.
        n = width * height
        noise = self._bits.random_raw(-(-n // 8)).view(np.uint8)[:n].reshape(width, height)
        still = self._still[plane, part_y, part_x][PAD_PX - x :, PAD_PX - y :][:width, :height]
        np.left_shift(still, 8, out=self._index, dtype=np.uint16)
        np.bitwise_or(self._index, noise, out=self._index)
        picture = np.take(self._counts, self._index)

        cells = self._cells[plane]
        photons = self._rng.poisson(cells.light[part_y, part_x] * np.maximum(activity, 0)[cells.owner])
        where = cells.where + (x * height + y)
        flat = picture.reshape(-1)
        flat[where] = np.minimum(flat[where] + COUNTS_PER_PHOTON * photons, 65535)
        return picture.T

    def _levels(self, still: NDArray[np.float32], y: float, x: float) -> NDArray[np.uint8]:
        """The still picture moved by (y, x) < 1 px, as row numbers of the Poisson table; (column, row)."""
        moved = ndimage.shift(still, (y, x), order=3, mode="nearest") if (y, x) != (0, 0) else still
        level = 255 * np.sqrt(np.clip(moved, 0, self._top) / self._top)
        return np.ascontiguousarray(np.round(level).astype(np.uint8).T)


class Scan:
    """Mouse, motion and optics together: frame after frame, planes in turn. Live and in-process runs share it."""

    def __init__(self, mouse: Mouse, scene: Scene, seed: int, rate_hz: float) -> None:
        self.mouse = mouse
        self._planes = scene.planes
        self._motion = Motion(seed, rate_hz)
        self._model = MicroscopeModel(scene, seed)

    def frame(self, frame: int) -> NDArray[np.uint16]:
        """The next frame, from 0; see MicroscopeModel.frame. Raises ValueError on a frame out of order."""
        plane = frame % self._planes
        return self._model.frame(plane, self.mouse.step(frame, plane), self._motion.step())


class _Stamps:
    """The living cells' pixels in one plane, one cell after another: place in the frame, light, whose it is."""

    def __init__(self, scene: Scene, plane: int, phases: list[float]) -> None:
        side = np.arange(-REACH_PX, REACH_PX + 1)
        middle = np.round(scene.centres[plane]).astype(np.int64)
        rows = middle[:, 0, None, None] + side[:, None]
        columns = middle[:, 1, None, None] + side
        light = {
            (y, x): np.array([scene.bright[k] * scene.light(plane, k, (y, x)) for k in range(scene.n_cells)]).reshape(
                scene.n_cells, side.size, side.size
            )
            for y in phases
            for x in phases
        }
        lit = np.max(list(light.values()), axis=0) > 0.05
        self.where = (columns * scene.height + rows)[lit]
        self.owner = np.broadcast_to(np.arange(scene.n_cells)[:, None, None], lit.shape)[lit]
        self.light = {phase: values[lit] for phase, values in light.items()}


def _split(moved_px: float) -> tuple[int, float]:
    """Whole pixels and the quarters left."""
    if not abs(moved_px) <= LIMIT_PX or moved_px * STEPS_PER_PX % 1:
        raise ValueError(f"moved by {moved_px} px, expected quarters of a pixel within +-{LIMIT_PX:g}")
    whole = math.floor(moved_px)
    return whole, moved_px - whole


def _poisson_table(top: float) -> NDArray[np.uint16]:
    """Counts by expected light (row k: top x (k / 255)^2 photons) and random byte, flat (256 x 256).

    A byte cuts off the last 1/512 of each tail: the mean is right within 1.5 %, the variance within 5 % (the dimmest
    rows are the worst), which no still pixel's noise needs to be better than.
    """
    light = top * (np.arange(256) / 255) ** 2
    most = int(top + 12 * math.sqrt(top) + 12)
    at_most = special.pdtr(np.arange(most)[None, :], light[:, None])  # (256, most): P(count <= m)
    byte = (np.arange(256) + 0.5) / 256
    photons = np.array([np.searchsorted(row, byte) for row in at_most])
    return (DARK_COUNTS + COUNTS_PER_PHOTON * photons).astype(np.uint16).ravel()
