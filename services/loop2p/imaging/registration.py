"""Rigid registration: how far has the image moved against the reference?

Methods (experiment.md 2.8): four central sub-areas are registered on their own by FFT, the image's shift is the mean
of theirs. What is ours, and measured with `bench.bench_registration`:

* The reference's areas are blanked over their outer 8 px and fade in over the next 8. Without that the circular
  correlation also compares the left edge with the right one, which pulls every shift towards zero (rmse over shifts of
  sd 2.2 px at 5 photons per pixel: 0.087 px without, 0.037 with; a shift of 8 px on a real movie: 0.42 px with the
  fading alone, 0.05 with both).
* A Gaussian filter of 1 px, and nothing above a quarter of a cycle per pixel: the filter leaves little but noise there.
* The correlation is computed at lags of +-16 px only, and refined by a parabola.
* Each area looks for its peak within 4 px of the peak of the four correlations' sum: one dim area can't run off.

Nothing here calls BLAS: it shares even small products out to threads, and on a busy machine a frame then waits for a
thread that is not running (median 53 ms instead of 1 ms, measured with two cores and load 4).
"""

from typing import Any

import numpy as np
import scipy.fft
from msgspec import Struct
from numpy.typing import NDArray

AREA_PX = (200, 128)
"""Rows and columns of one area. The public code has 199 x 128; 199 is prime and doubles the time of an FFT."""
GRID = (2, 2)
"""Areas down and across, side by side around the centre."""
LAG_PX = 16
"""The largest shift that is looked for."""
SIGMA_PX = 1.0
HIGHEST_CYCLES_PX = 0.25
FADE_PX = 8
APART_PX = 4
"""How far an area's shift may be from that of the areas together."""


class Match(Struct, frozen=True):
    """Where a frame lies on a reference."""

    shift_y_px: float
    """How far the image has moved, rows; positive is down."""
    shift_x_px: float
    """Columns; positive is right."""
    quality: float
    """0 (no match) to 1 (the reference itself): the correlation of the areas together at their best common shift.
    Noise lowers it: 0.8 at 1 photon per pixel, 0.4 at 0.1, 0.2 at 0.03 (measured on a simulated field)."""
    areas: tuple[tuple[float, float], ...] = ()
    """(y, x) of each area."""


NO_MATCH = Match(0.0, 0.0, 0.0)


class Spectra(Struct, frozen=True):
    """The filtered spectra of a frame's areas: all that registration needs of it."""

    values: NDArray[np.complex64]
    transposed: bool
    energy: float

    def copy(self) -> "Spectra":
        """A copy that outlives the next frame."""
        return Spectra(self.values.copy(), self.transposed, self.energy)


class Registrar:
    """Frames and references of one size -> spectra and templates, which are then matched.

    `shape`: (height, width) of the images. An area is smaller than `area` where the image is, and then of a size that
    is fast to transform. Raises ValueError if the image is too small.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        area: tuple[int, int] = AREA_PX,
        grid: tuple[int, int] = GRID,
        lag_px: int = LAG_PX,
    ) -> None:
        self.shape = shape
        rows, cols = (min(a, _fast_below(0.9 * n / g)) for a, n, g in zip(area, shape, grid, strict=True))
        if min(rows, cols) < 16:
            raise ValueError(
                f"an image of {shape[0]} x {shape[1]} px gives areas of {rows} x {cols} px, expected at least 16 x 16; "
                "set registration = false"
            )
        self.area_px = (rows, cols)
        self.lag_px = (min(lag_px, rows // 4), min(lag_px, cols // 4))
        y0, x0 = (shape[0] - grid[0] * rows) // 2, (shape[1] - grid[1] * cols) // 2
        self.slices = [
            (slice(y, y + rows), slice(x, x + cols))
            for y in range(y0, y0 + grid[0] * rows, rows)
            for x in range(x0, x0 + grid[1] * cols, cols)
        ]
        swapped = [(x, y) for y, x in self.slices]
        self._row_major = _Transform(self.slices, self.area_px, self.lag_px)
        self._column_major = _Transform(swapped, self.area_px[::-1], self.lag_px[::-1])

    def spectra(self, pixels: NDArray[Any], inverted: bool = False) -> Spectra:
        """Transform a frame's areas, in the order in which the frame lies in memory. Valid until the next call."""
        transposed = is_column_major(pixels)
        transform = self._column_major if transposed else self._row_major
        with np.errstate(invalid="ignore", over="ignore"):  # an image that is not finite has an energy that is not
            values = transform.forward(pixels.T if transposed else pixels, inverted)
            return Spectra(values, transposed, _energy(values))

    def template(self, image: NDArray[Any]) -> "Template":
        """Prepare a reference, (height, width)."""
        return Template(self, image)


class Template:
    """A reference, ready to be matched with."""

    def __init__(self, registrar: Registrar, image: NDArray[Any]) -> None:
        if image.shape != registrar.shape:
            raise ValueError(f"a reference of shape {image.shape}, expected {registrar.shape}")
        image = np.ascontiguousarray(image, np.float32)
        self._row_major = (registrar._row_major, registrar._row_major.conjugate(image))
        self._column_major = (registrar._column_major, registrar._column_major.conjugate(image.T))
        self._norm = _energy(self._row_major[1]) ** 0.5
        self._scale = 1.0
        self._zero = [(0.0, 0.0)] * len(registrar.slices)
        own = self.match(registrar.spectra(image))
        # 1 and 0 shall mean the reference itself: takes up the transforms' constant, what the fading costs, and the
        # few hundredths of a pixel by which bright structure near an area's edge draws the peak
        self._scale = 1 / own.quality if own.quality > 0 else 0.0
        self._zero = list(own.areas) or self._zero

    def match(self, spectra: Spectra) -> Match:
        """Where the frame lies. Quality 0 where nothing can be said: no structure, not finite, moved out of range."""
        scale = self._norm * spectra.energy**0.5
        if not (np.isfinite(scale) and scale > 0):
            return NO_MATCH
        transform, conjugate = self._column_major if spectra.transposed else self._row_major
        together, shifts = transform.peaks(spectra.values, conjugate)
        if not shifts:
            return NO_MATCH
        if spectra.transposed:
            shifts = [(y, x) for x, y in shifts]
        areas = tuple((y - y0, x - x0) for (y, x), (y0, x0) in zip(shifts, self._zero, strict=True))
        y, x = (sum(axis) / len(areas) for axis in zip(*areas, strict=True))
        return Match(y, x, min(1.0, max(0.0, together / scale * self._scale)), areas)


class _Transform:
    """The arithmetic for one memory order: areas -> filtered spectra -> correlation at small lags -> peaks."""

    def __init__(self, slices: list[tuple[slice, slice]], area: tuple[int, int], lag: tuple[int, int]) -> None:
        self.slices, (rows, cols), self.lag = slices, area, lag
        self.high = high = int(HIGHEST_CYCLES_PX * rows)
        self.n_cols = n_cols = int(HIGHEST_CYCLES_PX * cols) + 1
        kept = np.r_[0 : high + 1, rows - high : rows]
        fy, fx = np.fft.fftfreq(rows)[kept], np.fft.rfftfreq(cols)[:n_cols]
        # half of the 1 px Gaussian here and half in the template
        power = np.exp(-2 * np.pi**2 * SIGMA_PX**2 * (fy[:, None] ** 2 + fx**2))
        power[0, 0] = 0  # the mean tells nothing about position
        self._filter = np.sqrt(power).astype(np.complex64)  # of the type of what it is multiplied with: faster
        self._inverting_filter = -self._filter
        self._fade = np.outer(_fade(rows), _fade(cols)).astype(np.float32)
        n = len(slices)
        self._areas = np.empty((n, rows, cols), np.float32)
        self._values = np.empty((n, len(kept), n_cols), np.complex64)
        self._product = np.zeros((n, rows, n_cols), np.complex64)  # its high frequencies stay 0
        self._half = np.empty((n, 2 * lag[0] + 1, n_cols), np.complex64)
        self._surfaces = np.empty((n, 2 * lag[0] + 1, 2 * lag[1] + 1), np.float32)

    def forward(self, pixels: NDArray[Any], inverted: bool) -> NDArray[np.complex64]:
        """(n areas, frequencies y, frequencies x). An inverted image is a constant less the real one."""
        for area, where in zip(self._areas, self.slices, strict=True):
            area[...] = pixels[where]
        return self._transform(self._inverting_filter if inverted else self._filter)

    def conjugate(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        """The template's side: faded areas, less their mean, conjugate."""
        fade = self._fade
        for area, where in zip(self._areas, self.slices, strict=True):
            part = image[where]
            area[...] = (part - (part * fade).sum(dtype=float) / fade.sum(dtype=float)) * fade
        return np.conj(self._transform(self._filter))

    def _transform(self, weight: NDArray[np.complex64]) -> NDArray[np.complex64]:
        spectrum = scipy.fft.rfft(self._areas, axis=2)[:, :, : self.n_cols]
        spectrum = scipy.fft.fft(spectrum, axis=1, overwrite_x=True)
        high, values = self.high, self._values
        np.multiply(spectrum[:, : high + 1], weight[: high + 1], out=values[:, : high + 1])
        np.multiply(spectrum[:, -high:], weight[high + 1 :], out=values[:, high + 1 :])
        return values

    def _correlate(self, values: NDArray[np.complex64], conjugate: NDArray[np.complex64]) -> NDArray[np.float32]:
        """(n areas, lags y, lags x), lags from -16 to 16 px: all lags down, and across only where they are wanted."""
        high, (lag_y, lag_x), product = self.high, self.lag, self._product
        np.multiply(values[:, : high + 1], conjugate[:, : high + 1], out=product[:, : high + 1])
        np.multiply(values[:, high + 1 :], conjugate[:, high + 1 :], out=product[:, -high:])
        down = scipy.fft.ifft(product, axis=1)
        self._half[:, :lag_y] = down[:, -lag_y:]
        self._half[:, lag_y:] = down[:, : lag_y + 1]
        across = scipy.fft.irfft(self._half, self._areas.shape[2], axis=2)
        self._surfaces[:, :, :lag_x] = across[:, :, -lag_x:]
        self._surfaces[:, :, lag_x:] = across[:, :, : lag_x + 1]
        return self._surfaces

    def peaks(
        self, values: NDArray[np.complex64], conjugate: NDArray[np.complex64]
    ) -> tuple[float, list[tuple[float, float]]]:
        """Height of the areas' common peak, and each area's shift; no shifts if the peak lies at the last lag."""
        surfaces = self._correlate(values, conjugate)
        together = surfaces.sum(0)
        height, width = together.shape
        y, x = divmod(int(together.argmax()), width)
        if y in (0, height - 1) or x in (0, width - 1):
            return 0.0, []
        top, left = max(y - APART_PX, 1), max(x - APART_PX, 1)
        near = surfaces[:, top : min(y + APART_PX, height - 2) + 1, left : min(x + APART_PX, width - 2) + 1]
        rows, cols = np.divmod(near.reshape(len(near), -1).argmax(1), near.shape[2])
        rows, cols = rows + top, cols + left
        # each area's peak and its four neighbours: five fetches for all areas are faster than a loop over areas
        k = np.arange(len(near))
        here, above, below, before, after = (
            surfaces[k, rows + dy, cols + dx] for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
        )
        found_y = rows - self.lag[0] + _vertex(above, here, below)
        found_x = cols - self.lag[1] + _vertex(before, here, after)
        return float(together[y, x]), list(zip(found_y.tolist(), found_x.tolist(), strict=True))


def _energy(values: NDArray[np.complex64]) -> float:
    """Sum of squares over the whole plane of frequencies, of which rfft gives one half and the column between."""
    parts, middle = values.view(np.float32), values[:, :, 0]
    return 2 * float(np.square(parts).sum()) - float(np.square(np.abs(middle)).sum())


def is_column_major(pixels: NDArray[Any]) -> bool:
    """Does the image lie in memory column by column?"""
    return abs(pixels.strides[0]) < abs(pixels.strides[1])


def _fast_below(limit: float) -> int:
    """The largest length up to `limit` that is fast to transform (prime factors 2, 3, 5)."""
    n = int(limit)
    while n > 1 and scipy.fft.next_fast_len(n, real=True) != n:
        n -= 1
    return n


def _fade(n: int) -> NDArray[np.float64]:
    """0 over the outer 8 px (or an eighth of a smaller area), rising to 1 over the next 8."""
    width = min(FADE_PX, n // 8)
    from_edge = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return np.clip(from_edge / width - 1, 0, 1)


def _vertex(before: NDArray[np.float32], here: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where the parabola through a value and its two neighbours has its top, from that value; within half a pixel.

    At the border of the search the highest value need not be a maximum; then the top may be far off, or there is none.
    """
    bend = 2 * here - before - after
    offset = 0.5 * (after - before) / np.where(bend > 0, bend, np.inf)
    return offset.clip(-0.5, 0.5)
