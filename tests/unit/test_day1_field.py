"""Later days: the field of view is found again, turned and shifted, and the ROIs with it; another field is refused."""

import numpy as np
import pytest
from scipy import ndimage

from loop2p.imaging.bench import discs
from loop2p.imaging.core import MATCH_LIMIT, ImagingSettings
from loop2p.imaging.day1 import compare_with_day1, on_today, placed, turned
from loop2p.imaging.extraction import Extractor
from loop2p.imaging.reference import ReferenceRefused
from loop2p.simulation.optics import MicroscopeModel
from loop2p.simulation.scene import Scene

SHAPE = (256, 384)


def reference(scene_seed: int, seed: int, plane: int = 0, n: int = 40) -> np.ndarray:
    """Mean of noisy frames with the activity of the day."""
    scene = Scene(scene_seed, *SHAPE, n_cells=20, n_rois=8)
    model, rng = MicroscopeModel(scene, seed), np.random.default_rng(seed)
    frames = [model.frame(plane, (1 + rng.exponential(0.2, 20)).astype(np.float32)) for _ in range(n)]
    return np.mean(frames, axis=0).astype(np.float32)


def another_day(image: np.ndarray, rotation_deg: float, offset: tuple[float, float]) -> np.ndarray:
    """The image turned counter-clockwise (as it is looked at) around its middle, after it was moved down and right.

    An independent way to do it: scipy's own rotation of an image that lies with row 0 on top.
    """
    moved = ndimage.shift(image, offset, order=3, mode="reflect")
    return ndimage.rotate(moved, rotation_deg, reshape=False, order=3, mode="reflect").astype(np.float32)


@pytest.fixture(scope="module")
def first() -> np.ndarray:
    return reference(1, 1)


@pytest.mark.parametrize(
    ("rotation_deg", "offset"), [(0.0, (0.0, 0.0)), (0.0, (12.3, -7.6)), (1.3, (5.4, -8.2)), (-2.4, (-15.0, 9.0))]
)
def test_the_field_is_found_turned_and_shifted(first, rotation_deg, offset):
    found = compare_with_day1(another_day(reference(1, 2), rotation_deg, offset), 0, {0: first}, MATCH_LIMIT)
    assert found.rotation_deg == pytest.approx(rotation_deg, abs=0.1)
    assert (found.offset_y_px, found.offset_x_px) == pytest.approx(offset, abs=0.5)
    assert found.match > 0.8


@pytest.mark.parametrize("rotation_deg", [3.4, -4.5, 6.0])
def test_a_field_turned_further_than_the_search_reaches_is_refused(first, rotation_deg):
    """Its match alone may be above the limit, with ROIs that lie many pixels beside their cells."""
    today = another_day(reference(1, 2), rotation_deg, (5.0, 5.0))
    with pytest.raises(ReferenceRefused, match=r"turned by [+-]3\.\d degrees or more .* expected 3 at most"):
        compare_with_day1(today, 0, {0: first}, limit=0.0)


def test_a_small_other_field_is_refused_though_it_correlates_at_some_shift(first):
    """Pieces of 64 px hold a few cells each: registration alone finds a good place for one upon another."""
    pieces = [first[y : y + 64, x : x + 64] for y in range(0, 193, 64) for x in range(0, 321, 64)]
    again = reference(1, 2)
    for k, piece in enumerate(pieces):
        for other in (pieces[k - 1], pieces[k - 7]):
            with pytest.raises(ReferenceRefused):
                compare_with_day1(other, 0, {0: piece}, MATCH_LIMIT)
    assert compare_with_day1(again[64:128, 64:128], 0, {0: first[64:128, 64:128]}, MATCH_LIMIT).match > 0.8


def test_turning_back_undoes_the_turn(first):
    again = turned(another_day(first, 2.0, (0, 0)), 2.0)
    inner = np.s_[40:-40, 40:-40]
    assert np.corrcoef(again[inner].ravel(), first[inner].ravel())[0, 1] > 0.98
    other = turned(another_day(first, 2.0, (0, 0)), -2.0)
    assert np.corrcoef(other[inner].ravel(), first[inner].ravel())[0, 1] < 0.7


@pytest.mark.parametrize("gated", [0, 12])
def test_day_1_is_laid_over_today_to_be_looked_at(first, gated):
    today = another_day(first, 1.3, (12.0, -7.0))
    found = compare_with_day1(today, 0, {0: first}, MATCH_LIMIT, gated)
    shown = on_today(first, found, gated).astype(float)
    inner = np.s_[60:-60, 60:-60]
    here = np.corrcoef(shown[inner].ravel(), today[inner].ravel())[0, 1]
    unmoved = np.corrcoef(first[inner].ravel(), today[inner].ravel())[0, 1]
    assert here > 0.95 > unmoved + 0.2
    assert not shown[:gated].any()
    assert not shown[gated : gated + 4].any()  # day 1 did not see what lies there today


def test_rois_are_carried_over_with_the_light_they_cover(first):
    """What an ROI saw on day 1 it sees today; where it lay on day 1 there is something else now."""
    rois = discs(np.random.default_rng(4), 8, (SHAPE[0] - 80, SHAPE[1] - 80)).moved(40, 40, SHAPE)
    today = another_day(first, -2.4, (9.0, 6.0))
    found = compare_with_day1(today, 0, {0: first}, MATCH_LIMIT)
    here, rest = placed(rois, found, SHAPE)
    assert rest == (0.0, 0.0)
    assert here.names == rois.names
    was = Extractor(rois, SHAPE).means(first, False, 0, 0)
    carried = Extractor(here, SHAPE).means(today, False, 0, 0)
    left = Extractor(rois, SHAPE).means(today, False, 0, 0)
    assert np.abs(carried / was - 1).max() < 0.08
    assert np.abs(left / was - 1).max() > 0.15
    assert np.all(np.abs(here.lengths / rois.lengths - 1) < 0.1)


def test_gated_lines_are_left_out_of_the_comparison(first):
    gated = 56
    today = another_day(reference(1, 2), 1.5, (4.0, -3.0))
    today[:gated] = 0
    found = compare_with_day1(today, 0, {0: first}, MATCH_LIMIT, gated)
    rois = discs(np.random.default_rng(4), 6, (SHAPE[0] - 140, SHAPE[1] - 80)).moved(90, 40, SHAPE)
    here, _ = placed(rois, found, SHAPE, gated)
    was, carried = (
        Extractor(r, SHAPE).means(image, False, 0, 0) for r, image in ((rois, first), (here, today))
    )
    assert np.corrcoef(was, carried)[0, 1] > 0.9
    assert found.rotation_deg == pytest.approx(1.5, abs=0.15)


def test_another_field_and_another_depth_are_refused(first):
    with pytest.raises(ReferenceRefused, match="find the field of view of day 1 again"):
        compare_with_day1(reference(2, 2), 0, {0: first}, MATCH_LIMIT)
    with pytest.raises(ReferenceRefused, match=r"matches day 1 with 0\.\d+, expected 0\.4 or more \(match_limit\)"):
        compare_with_day1(reference(1, 2, plane=1), 0, {0: first}, MATCH_LIMIT)
    assert compare_with_day1(reference(1, 2, plane=1), 0, {0: first}, 0.0).match < MATCH_LIMIT
    assert ImagingSettings().match_limit == MATCH_LIMIT
