"""Rigid registration: how far has the image moved against the reference?

Methods (experiment sheet 2.8): four central sub-areas are registered on their own by FFT, the image's shift is the mean
of theirs. What is ours, and measured with `bench.bench_registration`:

* The reference's areas are blanked over their outer 8 px and fade in over the next 8. Without that the circular
  correlation also compares the left edge with the right one, which pulls every shift towards zero (rmse over shifts of
  sd 2.2 px at 5 photons per pixel: 0.087 px without, 0.037 with; a shift of 8 px on a real movie: 0.42 px with the
  fading alone, 0.05 with both; measured before pixels were summed).
* A Gaussian filter of 1 px, and nothing above a sixth of a cycle per pixel, where it leaves little but noise (rmse with
  1/4, 1/6, 1/8 and 1/10: 0.054, 0.054, 0.056, 0.064 px). So 2 x 2 pixels are summed before the transform, which then
  takes a third of the time (3 x 3: 0.062 px and 5 % faster). Not so in small areas, which can't spare the accuracy
  (72 x 72 px of a real movie moved by 2 px: 0.11 px with sums, 0.05 without).
* The correlation is computed at lags of +-16 px only, and refined by a parabola.
* Each area looks for its peak within 4 px of the peak of the four correlations' sum: one dim area can't run off.

On a busy machine a frame must not wait for a thread that is not running, and OpenBLAS shares even small complex
products out to threads (median 53 ms instead of 1 ms, measured with two cores and load 4). Hence real matrix products
only, each small enough to stay in this thread.
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
HIGHEST_CYCLES_PX = 1 / 6
BIN = 2
"""Pixels a side that are summed before the transform; 1/4 is then the highest frequency there is."""
SMALL_PX = 100
"""Areas with a shorter side are not summed."""
FADE_PX = 8
MOST_PRODUCTS = 200_000
"""Of a matrix product. OpenBLAS begins to share out real ones at 262,144 (4 x 65,536)."""
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
    Noise lowers it: 0.85 at 1 photon per pixel, 0.45 at 0.1, 0.27 at 0.03 (measured on a simulated field)."""
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
    is fast to transform. The first `gated_lines` of every frame are dark and left out: the areas lie around the middle
    of the rest. Raises ValueError if the image is too small.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        area: tuple[int, int] = AREA_PX,
        grid: tuple[int, int] = GRID,
        lag_px: int = LAG_PX,
        gated_lines: int = 0,
    ) -> None:
        self.shape, self.gated_lines = shape, gated_lines
        lit = (shape[0] - gated_lines, shape[1])
        rows, cols = (min(a // BIN * BIN, _fast_below(0.9 * n / g)) for a, n, g in zip(area, lit, grid, strict=True))
        if min(rows, cols) < 16:
            raise ValueError(
                f"an image of {lit[0]} x {lit[1]} px gives areas of {rows} x {cols} px, expected at least 16 x 16; "
                "set registration = false"
            )
        self.area_px = (rows, cols)
        self.lag_px = (min(lag_px, rows // 4), min(lag_px, cols // 4))
        y0, x0 = gated_lines + (lit[0] - grid[0] * rows) // 2, (lit[1] - grid[1] * cols) // 2
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
        likeness, shifts = self._compare(spectra)
        if not shifts:
            return NO_MATCH
        if spectra.transposed:
            shifts = [(y, x) for x, y in shifts]
        areas = tuple((y - y0, x - x0) for (y, x), (y0, x0) in zip(shifts, self._zero, strict=True))
        y, x = (sum(axis) / len(areas) for axis in zip(*areas, strict=True))
        return Match(y, x, min(1.0, max(0.0, likeness)), areas)

    def likeness(self, spectra: Spectra) -> float:
        """As the quality of `match`, but not cut off at 1: tells which of several images matches best."""
        return self._compare(spectra)[0]

    def _compare(self, spectra: Spectra) -> tuple[float, list[tuple[float, float]]]:
        """Correlation at the best common shift, and each area's shift; 0 and none where nothing can be said."""
        scale = self._norm * spectra.energy**0.5
        if not (np.isfinite(scale) and scale > 0):
            return 0.0, []
        transform, conjugate = self._column_major if spectra.transposed else self._row_major
        together, shifts = transform.peaks(spectra.values, conjugate)
        return together / scale * self._scale, shifts


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
        self.bin = BIN if min(area) >= SMALL_PX else 1
        self._rows = np.empty((rows // self.bin, cols), np.float32)
        self._areas = np.empty((n, rows // self.bin, cols // self.bin), np.float32)
        self._values = np.empty((n, len(kept), n_cols), np.complex64)
        self._product = np.empty_like(self._values)
        self._down = np.empty((n, 2 * (lag[0] + 1), 2 * n_cols), np.float32)
        self._surfaces = np.empty((n, 2 * lag[0] + 1, 2 * lag[1] + 1), np.float32)
        down = 2 * np.pi * np.outer(np.arange(lag[0] + 1), fy)
        self._cos_sin_down = np.concatenate([np.cos(down), np.sin(down)]).astype(np.float32)
        # rfft gives one half of the columns, which count twice; rows go re, im, re, im, ... as complex numbers lie
        wave = np.exp(2j * np.pi * np.outer(fx, np.arange(-lag[1], lag[1] + 1))) * np.where(fx > 0, 2, 1)[:, None]
        self._real_across = np.stack([wave.real, -wave.imag], 1).reshape(2 * n_cols, -1).astype(np.float32)
        self._imag_across = np.stack([wave.imag, wave.real], 1).reshape(2 * n_cols, -1).astype(np.float32)
        step = max(1, MOST_PRODUCTS // self._cos_sin_down.size)
        self._parts = [slice(k, min(k + step, 2 * n_cols)) for k in range(0, 2 * n_cols, step)]

    def forward(self, pixels: NDArray[Any], inverted: bool) -> NDArray[np.complex64]:
        """(n areas, frequencies y, frequencies x). An inverted image is a constant less the real one."""
        for area, where in zip(self._areas, self.slices, strict=True):
            self._take(pixels[where], area)
        return self._transform(self._inverting_filter if inverted else self._filter)

    def conjugate(self, image: NDArray[np.float32]) -> NDArray[np.complex64]:
        """The template's side: faded areas, less their mean, conjugate."""
        fade = self._fade
        for area, where in zip(self._areas, self.slices, strict=True):
            part = image[where]
            self._take((part - (part * fade).sum(dtype=float) / fade.sum(dtype=float)) * fade, area)
        return np.conj(self._transform(self._filter))

    def _take(self, part: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Pixels, or sums of 2 x 2 of them: rows first, where neighbours in memory are added to neighbours."""
        if self.bin == 1:
            out[...] = part
        else:
            np.add(part[0::2], part[1::2], out=self._rows, dtype=np.float32, casting="unsafe")
            np.add(self._rows[:, 0::2], self._rows[:, 1::2], out=out)

    def _transform(self, weight: NDArray[np.complex64]) -> NDArray[np.complex64]:
        spectrum = scipy.fft.rfft(self._areas, axis=2)[:, :, : self.n_cols]
        spectrum = scipy.fft.fft(spectrum, axis=1, overwrite_x=True)
        high, values = self.high, self._values
        np.multiply(spectrum[:, : high + 1], weight[: high + 1], out=values[:, : high + 1])
        np.multiply(spectrum[:, -high:], weight[high + 1 :], out=values[:, high + 1 :])
        return values

    def _correlate(self, values: NDArray[np.complex64], conjugate: NDArray[np.complex64]) -> NDArray[np.float32]:
        """(n areas, lags y, lags x), lags from -16 to 16 px.

        A Fourier sum at the lags that are wanted. With X the product of the spectra, E = sum X cos and O = sum X sin
        over the frequencies down, and the same again across: the correlation at lags y, x is Re E e^ix - Im O e^ix, at
        -y, x it is Re E e^ix + Im O e^ix.
        """
        product = np.multiply(values, conjugate, out=self._product).view(np.float32)
        for part in self._parts:
            np.matmul(self._cos_sin_down, product[:, :, part], out=self._down[:, :, part])
        zero = self.lag[0]
        even, odd = self._down[:, : zero + 1] @ self._real_across, self._down[:, zero + 1 :] @ self._imag_across
        np.subtract(even, odd, out=self._surfaces[:, zero:])
        np.add(even[:, :0:-1], odd[:, :0:-1], out=self._surfaces[:, :zero])
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
        top, left = max(y - APART_PX, 0), max(x - APART_PX, 0)
        shifts = []
        for surface in surfaces:
            near = surface[top : y + APART_PX + 1, left : x + APART_PX + 1]
            row, col = divmod(int(near.argmax()), near.shape[1])
            row, col = row + top, col + left
            shifts.append((_vertex(surface[:, col], row) - self.lag[0], _vertex(surface[row], col) - self.lag[1]))
        return float(together[y, x]), shifts


def _energy(values: NDArray[np.complex64]) -> float:
    """Sum of squares over the whole plane of frequencies, of which rfft gives one half and the column between."""
    middle = values[:, :, 0]
    whole = sum(float(np.vdot(area, area).real) for area in values)  # one by one: OpenBLAS shares out 10,000 and more
    return 2 * whole - float(np.vdot(middle, middle).real)


def is_column_major(pixels: NDArray[Any]) -> bool:
    """Does the image lie in memory column by column?"""
    return abs(pixels.strides[0]) < abs(pixels.strides[1])


def _fast_below(limit: float) -> int:
    """The largest length up to `limit` that is fast to transform once it is binned (prime factors 2, 3, 5)."""
    n = int(limit) // BIN
    while n > 1 and scipy.fft.next_fast_len(n, real=True) != n:
        n -= 1
    return n * BIN


def _fade(n: int) -> NDArray[np.float64]:
    """0 over the outer 8 px (or an eighth of a smaller area), rising to 1 over the next 8."""
    width = min(FADE_PX, n // 8)
    from_edge = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return np.clip(from_edge / width - 1, 0, 1)


def _vertex(values: NDArray[np.float32], k: int) -> float:
    """Where the parabola through a maximum and its two neighbours has its top."""
    if k in (0, len(values) - 1):
        return float(k)
    before, here, after = float(values[k - 1]), float(values[k]), float(values[k + 1])
    bend = before - 2 * here + after
    if bend >= 0:
        return float(k)
    # at the border of the search the highest value need not be a maximum, and the parabola's top may be far off
    return k + min(0.5, max(-0.5, 0.5 * (before - after) / bend))
