"""With the LED on, the first lines of every frame are dark: nothing is read from them."""

import numpy as np
import pytest

from loop2p.imaging import Frame, ImagingCore, ImagingSettings
from loop2p.imaging.bench import discs, simulated_field
from loop2p.imaging.extraction import Extractor
from loop2p.protocol import Alarm, Microscope, Traces, from_f32

SHAPE, MARGIN, GATED = (260, 260), 12, 56
"""7 ms of 32.3: the same share of lines as 111 of 512 (docs/experiment.md 4.5)."""
N_REFERENCE = 64
SHIFTS = [(0, 0), (3, -2), (-4, 5), (6, 6), (-6, -3), (1, 0)]


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    rng = np.random.default_rng(8)
    return simulated_field(rng, (SHAPE[0] + 2 * MARGIN, SHAPE[1] + 2 * MARGIN))


def show(field: np.ndarray, gated_lines: int, dark: bool) -> tuple[list[Traces], list[Alarm]]:
    """A reference, then frames moved by SHIFTS, with the gated lines dark or not."""
    scope = Microscope(*SHAPE, 1, 15.46)
    rois = discs(np.random.default_rng(4), 6, (SHAPE[0] - GATED - 20, SHAPE[1])).moved(GATED + 15, 0, SHAPE)
    settings = ImagingSettings(reference_frames=N_REFERENCE, preview_hz=0, gated_lines=gated_lines)
    core, rng = ImagingCore(settings, scope, {0: rois}), np.random.default_rng(1)
    out = []
    for k in range(N_REFERENCE + len(SHIFTS)):
        dy, dx = SHIFTS[k - N_REFERENCE] if k >= N_REFERENCE else (0, 0)
        image = field[MARGIN - dy : MARGIN - dy + SHAPE[0], MARGIN - dx : MARGIN - dx + SHAPE[1]]
        pixels = np.asfortranarray(rng.poisson(8 * image).astype(np.uint16))
        if dark:
            pixels[:GATED] = 0
        out += list(core.step(Frame(pixels, False, k, 0, k / 15.46, k)))
    traces = [m for m in out if isinstance(m, Traces)][N_REFERENCE:]
    return traces, [m for m in out if isinstance(m, Alarm)]


def test_dark_lines_change_neither_shifts_nor_means(field):
    lit, _ = show(field, GATED, dark=False)
    dark, alarms = show(field, GATED, dark=True)
    assert alarms == []
    for shift, a, b in zip(SHIFTS, lit, dark, strict=True):
        assert b.valid
        assert (b.shift_y_px, b.shift_x_px) == pytest.approx(shift, abs=0.15)
        assert (b.shift_y_px, b.shift_x_px) == pytest.approx((a.shift_y_px, a.shift_x_px), abs=0.1)
        assert np.array_equal(from_f32(a.f), from_f32(b.f))


def test_without_the_option_dark_lines_hold_the_image_in_place(field):
    """Their edge stands still while the brain moves: this is what the option is for."""
    dark, _ = show(field, 0, dark=True)
    errors = [np.hypot(m.shift_y_px - y, m.shift_x_px - x) for m, (y, x) in zip(dark, SHIFTS, strict=True)]
    assert max(errors) > 0.3 or not all(m.valid for m in dark)


def test_an_roi_in_the_dark_lines_is_refused_by_name():
    rois = discs(np.random.default_rng(4), 6, SHAPE)
    first = min(range(6), key=lambda k: rois.rows[np.repeat(np.arange(6), rois.lengths) == k].max())
    lowest = int(rois.rows[np.repeat(np.arange(6), rois.lengths) == first].max())
    with pytest.raises(ValueError, match=f"ROI {rois.names[first]} lies wholly in the {lowest + 1} lines"):
        Extractor(rois, SHAPE, gated_lines=lowest + 1)


def test_pixels_in_the_dark_lines_do_not_count():
    rois = discs(np.random.default_rng(4), 1, SHAPE)
    middle = int(np.median(rois.rows))
    image = np.full(SHAPE, 100, np.uint16)
    image[:middle] = 0
    assert Extractor(rois, SHAPE, gated_lines=middle).means(image, False, 0, 0)[0] == 100
    assert Extractor(rois, SHAPE).means(image, False, 0, 0)[0] < 60
