"""The simulated field of view: cells, neuropil, vessels and silent cells in two planes, and the true ROI sets.

Everything follows from (seed, geometry). `python -m loop2p.simulation.scene` writes the ROI files of the simulated rig.
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PAD_PX = 8
"""Light known beyond the image's edge, so that it can move."""
EDGE_PX = 24
"""No cell lies closer to the edge: it stays in the image however far that moves."""
REACH_PX = 12
"""No cell's light reaches further than this from its centre."""

Box = NDArray[np.float64]
"""One cell's light around its centre: (2 REACH + 1, 2 REACH + 1), 0 to 1."""


class Scene:
    """What the microscope looks at; the same neurons in every plane.

    `n_cells` cells are alive, of which the first `n_rois` have an ROI. `still[plane]`: (height + 2 PAD, width + 2 PAD)
    expected photons per pixel and frame of all that does not change; `centres[plane]`: (n_cells, 2) row, column;
    `bright`: (n_cells,) photons per pixel and frame a resting cell adds at its middle.
    Photon counts are set so that an ROI's shot noise is about 0.04 dF/F (measured in a prototype).
    Raises ValueError where the cells do not fit into the image.
    """

    def __init__(
        self, seed: int = 1, height: int = 512, width: int = 796, n_cells: int = 40, n_rois: int = 16, planes: int = 2
    ) -> None:
        if not 0 <= n_rois <= n_cells:
            raise ValueError(f"n_rois {n_rois}: expected 0 to n_cells, which is {n_cells}")
        self.seed, self.height, self.width = seed, height, width
        self.n_cells, self.n_rois, self.planes = n_cells, n_rois, planes
        rng = np.random.default_rng(seed)
        self.centres = self._place(rng)
        self.bright = rng.uniform(3.5, 5.0, n_cells)
        # Near the soma the apical trunk is cut across (a disc); below the tuft it is thinner and cut aslant.
        self._axes = rng.uniform(6.2, 7.4, (planes, n_cells, 1)) * np.ones(2)
        self._axes[1:] *= np.array([0.95, 0.7])
        self._turn = rng.uniform(0, np.pi, (planes, n_cells))
        vessels = rng.random((4, 4))
        self.still = np.stack([self._still(plane, vessels, rng) for plane in range(planes)])

    def light(self, plane: int, cell: int, shift_px: tuple[float, float] = (0.0, 0.0)) -> Box:
        """A cell's light on the pixels around its rounded centre, its image moved by (y, x)."""
        y, x = self.centres[plane][cell] - np.round(self.centres[plane][cell]) + shift_px
        return _disc(REACH_PX, y, x, self._axes[plane, cell], self._turn[plane, cell])

    def rois(self, plane: int) -> list[NDArray[np.int64]]:
        """The true ROIs of a plane: for each, (n_pixels, 2) row, column of the pixels with over half its peak light."""
        found = []
        for cell in range(self.n_rois):
            inside = np.argwhere(self.light(plane, cell) > 0.5) - REACH_PX
            found.append(inside + np.round(self.centres[plane][cell]).astype(np.int64))
        return found

    def rois_json(self, plane: int) -> str:
        """The plane's ROI set as neurofinder JSON, an ROI a line."""
        lines = [
            json.dumps({"id": k, "coordinates": roi.tolist()}, separators=(",", ":"))
            for k, roi in enumerate(self.rois(plane))
        ]
        return "[\n" + ",\n".join(lines) + "\n]\n"

    def write_rois(self, folder: Path) -> list[Path]:
        """Write the ROI sets, simulated_rois_plane<k>.json; returns the files."""
        files = [folder / f"simulated_rois_plane{plane}.json" for plane in range(self.planes)]
        for plane, file in enumerate(files):
            file.write_text(self.rois_json(plane), encoding="utf-8", newline="\n")
        return files

    def _place(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Centres of the living cells, (planes, n_cells, 2); between planes the trunks lean by up to 10 px."""
        low, high = np.array([EDGE_PX, EDGE_PX]), np.array([self.height, self.width]) - EDGE_PX - 1
        placed: list[NDArray[np.float64]] = []
        for _ in range(200 * self.n_cells):
            if len(placed) == self.n_cells:
                break
            middle = low + rng.random(2) * (high - low)
            lean = np.concatenate([np.zeros((1, 2)), rng.uniform(-10, 10, (self.planes - 1, 2))])
            new = middle + lean
            fits = bool(np.all((new >= low) & (new <= high)))
            # Twice the reach apart along one axis in every plane: no two cells share a pixel.
            if fits and all(np.all(np.abs(new - old).max(axis=1) > 2 * REACH_PX + 2) for old in placed):
                placed.append(new)
        if len(placed) < self.n_cells:
            raise ValueError(
                f"only {len(placed)} of {self.n_cells} cells fit into {self.height} x {self.width} px; ask for fewer"
            )
        return np.stack(placed, axis=1) if placed else np.zeros((self.planes, 0, 2))

    def _still(self, plane: int, vessels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
        """Neuropil with its texture, silent cells, dark vessels: photons per pixel and frame."""
        shape = (self.height + 2 * PAD_PX, self.width + 2 * PAD_PX)
        light = 0.5 * np.maximum(0.3, 1 + 0.35 * _texture(rng, shape, 2.0) + 0.25 * _texture(rng, shape, 12.0))
        for _ in range(shape[0] * shape[1] // 3000):
            at = np.array([rng.uniform(16, n - 17) for n in shape])
            axes, turn, bright = rng.uniform(3.5, 7.0, 2), rng.uniform(0, np.pi), rng.uniform(0.3, 2.0)
            if np.all(np.abs(self.centres[plane] + PAD_PX - at).max(axis=1) > 24):
                row, column = np.round(at).astype(int)
                box = np.s_[row - REACH_PX : row + REACH_PX + 1, column - REACH_PX : column + REACH_PX + 1]
                y, x = at - np.round(at)
                light[box] += bright * _disc(REACH_PX, y, x, axes, turn)
        rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
        for where, phase, swing, width in vessels:
            way = (where + 0.04 * plane) * shape[1] + (10 + 30 * swing) * np.sin(rows / 60 + 2 * np.pi * phase)
            light *= 1 - 0.8 * np.exp(-(((columns - way) / (3 + 6 * width)) ** 2))
        return light.astype(np.float32)


def _disc(reach: int, y: float, x: float, axes: NDArray[np.float64], turn: float) -> Box:
    """A soft-edged ellipse around (y, x) on a square of pixels; 1 inside, 0.5 on its rim (the axes, px)."""
    rows = np.arange(-reach, reach + 1)[:, None] - y
    columns = np.arange(-reach, reach + 1)[None, :] - x
    along, across = rows * np.cos(turn) + columns * np.sin(turn), columns * np.cos(turn) - rows * np.sin(turn)
    beyond = (np.hypot(along / axes[0], across / axes[1]) - 1) * axes.mean()
    return np.asarray(1 / (1 + np.exp(beyond / 0.7)))


def _texture(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> NDArray[np.float64]:
    """Smooth noise of zero mean and unit variance."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), sigma_px)
    return np.asarray((smooth - smooth.mean()) / smooth.std())


if __name__ == "__main__":
    for written in Scene().write_rois(Path(sys.argv[1] if len(sys.argv) > 1 else "deploy/rigs")):
        print(written)
