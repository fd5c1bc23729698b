"""Benchmarks of registration and extraction on a simulated field; `loop2p bench registration` prints them."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loop2p.imaging.extraction import Extractor
from loop2p.imaging.registration import Registrar
from loop2p.imaging.rois import RoiSet

SHAPE = (512, 796)
MARGIN_PX = 40
SHIFT_SD_PX = 2.2
LIGHT = (0.5, 0.1)
"""Mean photons per pixel and frame."""
REFERENCE_FRAMES = 300
BATCH = 10
"""Frames that one method takes before the other has its turn."""


def simulated_field(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Mean photons, 1 on average: neuropil of 3 px grain, 600 trunks cut across (sd 1.2-2.5 px), 80 somata (4-6 px)."""
    import scipy.ndimage

    grain = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    image = np.clip(1 + 0.25 * grain / grain.std(), 0.2, None)
    area = shape[0] * shape[1] / (592 * 876)
    for n, sizes, brightness in ((600, (1.2, 2.5), (1, 5)), (80, (4, 6), (1, 4))):
        for _ in range(round(n * area)):
            y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
            sd, peak = rng.uniform(*sizes), rng.uniform(*brightness)
            rows = np.arange(max(0, int(y - 5 * sd)), min(shape[0], int(y + 5 * sd) + 1))
            cols = np.arange(max(0, int(x - 5 * sd)), min(shape[1], int(x + 5 * sd) + 1))
            blob = np.exp(-((rows[:, None] - y) ** 2 + (cols - x) ** 2) / (2 * sd**2))
            image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] += peak * blob
    scaled: NDArray[np.float64] = image / image.mean()
    return scaled


def fourier_shift(image: NDArray[Any], dy: float, dx: float) -> NDArray[np.float64]:
    """Move an image by a fraction of a pixel, exactly for what is band-limited; the edges wrap."""
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])
    moved: NDArray[np.float64] = np.fft.irfft2(
        np.fft.rfft2(image) * np.exp(-2j * np.pi * (fy * dy + fx * dx)), s=image.shape
    )
    return moved


def bench_registration(seed: int = 1, repeats: int = 120) -> dict[str, Any]:
    """Our registration against skimage's `phase_cross_correlation(upsample_factor=10, normalization=None)`.

    Both get the same frames, shifts, reference (mean of 300 frames that did not move) and four areas, turn by turn in
    one process: shifts of sd 2.2 px, Poisson noise. Ours gets column-major uint16 frames, as a microscope sends them;
    skimage gets row-major ones, which suit it better. Its default "phase" mode is left out: it loses lock in noise.
    """
    try:
        from skimage.registration import phase_cross_correlation
    except ImportError:
        raise RuntimeError("the comparison needs scikit-image, a development dependency; run `make setup`") from None
    rng = np.random.default_rng(seed)
    shape = (SHAPE[0] + 2 * MARGIN_PX, SHAPE[1] + 2 * MARGIN_PX)
    field = simulated_field(rng, shape)
    inner = tuple(slice(MARGIN_PX, MARGIN_PX + n) for n in SHAPE)
    registrar = Registrar(SHAPE)
    took_ms: dict[str, list[float]] = {"ours": [], "skimage": []}
    result: dict[str, Any] = {"ours": {}, "skimage": {}}
    for light in LIGHT:
        # the mean of 300 Poisson frames has the noise of one frame of 300 times the light
        reference = rng.poisson(field[inner] * light * REFERENCE_FRAMES) / REFERENCE_FRAMES
        template = registrar.template(reference)
        references = [np.ascontiguousarray(reference[area], np.float32) for area in registrar.slices]
        errors: dict[str, list[NDArray[Any]]] = {"ours": [], "skimage": []}

        def ours(frame: NDArray[Any], template: Any = template) -> NDArray[Any]:
            match = template.match(registrar.spectra(frame))
            return np.array([match.shift_y_px, match.shift_x_px])

        def theirs(frame: NDArray[Any], references: Any = references) -> NDArray[Any]:
            shifts = [
                phase_cross_correlation(reference, frame[area], upsample_factor=10, normalization=None)[0]
                for reference, area in zip(references, registrar.slices, strict=True)
            ]
            found: NDArray[Any] = -np.mean(shifts, axis=0)
            return found

        for start in range(0, repeats, BATCH):
            shifts = rng.normal(0, SHIFT_SD_PX, (min(BATCH, repeats - start), 2))
            frames = []
            for shift in shifts:
                moved = np.clip(fourier_shift(field, *shift)[inner], 0, None)
                frames.append(rng.poisson(moved * light).astype(np.uint16))
            for name, method, order in (("ours", ours, np.asfortranarray), ("skimage", theirs, np.ascontiguousarray)):
                method(order(frames[0]))  # plans and caches are cold after the frames were made
                for frame, shift in zip([order(frame) for frame in frames], shifts, strict=True):
                    began = time.perf_counter_ns()
                    found = method(frame)
                    took_ms[name].append((time.perf_counter_ns() - began) / 1e6)
                    errors[name].append(found - shift)
        for name, values in errors.items():
            result[name][f"rmse_px_at_{light}"] = float(np.sqrt(np.mean(np.square(values))))
    for name, values_ms in took_ms.items():
        result[name] |= _quantiles(values_ms)
    result["ratio_min"] = result["skimage"]["min"] / result["ours"]["min"]
    result["ratio_p50"] = result["skimage"]["p50"] / result["ours"]["p50"]
    return result | {"n": repeats * len(LIGHT), "unit": "ms a frame of four areas", "area_px": list(registrar.area_px)}


def bench_extraction(seed: int = 1, repeats: int = 300) -> dict[str, Any]:
    """ROI means of column-major frames, 10 and 500 ROIs of some 150 px, in microseconds a frame. Frames are cold."""
    rng = np.random.default_rng(seed)
    frames = [np.asfortranarray(rng.integers(0, 65536, SHAPE, np.uint16)) for _ in range(16)]
    result: dict[str, Any] = {"n": repeats, "unit": "us"}
    for n_rois in (10, 500):
        extractor = Extractor(discs(rng, n_rois, SHAPE), SHAPE)
        took_us = []
        for k in range(repeats):
            frame, (y, x) = frames[k % len(frames)], rng.normal(0, SHIFT_SD_PX, 2).tolist()
            took_us.append(_time_us(lambda f=frame, y=y, x=x, e=extractor: e.means(f, True, y, x)))  # type: ignore[misc]
        result[f"{n_rois}_rois"] = _quantiles(took_us)
    return result


def discs(rng: np.random.Generator, n_rois: int, shape: tuple[int, int], radius_px: float = 6.9) -> RoiSet:
    """ROIs for benchmarks: discs at random places, 20 px from the edge."""
    dy, dx = np.mgrid[-8:9, -8:9]
    dy, dx = (v[dy**2 + dx**2 <= radius_px**2] for v in (dy, dx))
    y, x = (rng.integers(20, n - 20, (n_rois, 1)) for n in shape)
    rows, cols = ((centre + d).ravel().astype(np.int32) for centre, d in ((y, dy), (x, dx)))
    return RoiSet([str(k) for k in range(n_rois)], np.full(n_rois, len(dy), np.int32), rows, cols)


def _time_us(call: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1e3


def _quantiles(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "p50": float(np.quantile(values, 0.5)), "p99": float(np.quantile(values, 0.99))}
