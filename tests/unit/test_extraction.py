"""ROI means equal those of a plain offline mean, wherever the image has moved."""

import h5py
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop2p.imaging import Extractor, RoiFile, read_rois
from loop2p.imaging.rois import RoiSet

SHAPE = (60, 90)


def roi_set(*rois):
    lengths = np.array([len(rows) for rows, _ in rois], np.int32)
    rows, cols = (np.concatenate([np.asarray(r[k]) for r in rois]).astype(np.int32) for k in (0, 1))
    return RoiSet([str(k) for k in range(len(rois))], lengths, rows, cols)


def random_rois(rng, n=7, margin=0):
    rois = []
    for _ in range(n):
        flat = rng.choice((SHAPE[0] - 2 * margin) * (SHAPE[1] - 2 * margin), rng.integers(1, 200), replace=False)
        rows, cols = np.divmod(flat, SHAPE[1] - 2 * margin)
        rois.append((rows + margin, cols + margin))
    return roi_set(*rois)


def offline(image, rois, dy=0, dx=0):
    """A loop over ROIs, each a plain mean of those of its pixels that are inside the image."""
    ends = np.cumsum(rois.lengths)
    means = []
    for start, end in zip(ends - rois.lengths, ends, strict=True):
        rows, cols = rois.rows[start:end] + dy, rois.cols[start:end] + dx
        inside = (rows >= 0) & (rows < SHAPE[0]) & (cols >= 0) & (cols < SHAPE[1])
        means.append(image[rows[inside], cols[inside]].astype(float).mean() if inside.any() else np.nan)
    return np.array(means)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "f4"])
def test_means_are_those_of_numpy(dtype, order):
    rng = np.random.default_rng(1)
    rois = random_rois(rng)
    image = rng.integers(0, 200, SHAPE).astype(dtype, order=order)
    np.testing.assert_allclose(Extractor(rois, SHAPE).means(image, False, 0, 0), offline(image, rois), rtol=1e-7)


@pytest.mark.parametrize(("dtype", "top"), [("u1", 255), ("u2", 65535)])
def test_inverted_frames_give_real_counts(dtype, top):
    rng = np.random.default_rng(2)
    rois = random_rois(rng)
    real = rng.integers(0, top + 1, SHAPE).astype(dtype)
    inverted = np.asfortranarray((top - real).astype(dtype))
    np.testing.assert_allclose(Extractor(rois, SHAPE).means(inverted, True, 0, 0), offline(real, rois), rtol=1e-9)


@settings(max_examples=60)
@given(st.floats(-30, 30), st.floats(-30, 30), st.sampled_from("CF"), st.integers(0, 99))
def test_pixels_outside_are_left_out_and_shifts_are_rounded(shift_y, shift_x, order, seed):
    rng = np.random.default_rng(seed)
    rois = random_rois(rng)
    image = rng.integers(0, 65536, SHAPE, np.uint16).astype(np.uint16, order=order)
    extractor = Extractor(rois, SHAPE)
    found = extractor.means(image, False, shift_y, shift_x)
    want = offline(image, rois, round(shift_y), round(shift_x))
    inside = np.isfinite(want)
    assert found[inside] == pytest.approx(want[inside])
    assert extractor.outside == (~inside).sum()


def test_a_roi_that_moved_half_out_is_the_mean_of_what_is_left():
    image = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    rois = roi_set(([0, 1, 2, 3], [10, 10, 10, 10]))
    extractor = Extractor(rois, SHAPE)
    assert extractor.means(image, False, -2, 0)[0] == image[[0, 1], 10].mean()
    assert extractor.outside == 0


def test_a_roi_that_moved_out_takes_the_border_and_is_counted():
    image = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
    extractor = Extractor(roi_set(([2, 3], [10, 11]), ([30], [30])), SHAPE)
    assert extractor.means(image, False, -9, 0).tolist() == [image[0, [10, 11]].mean(), image[21, 30]]
    assert extractor.outside == 1


def test_bilinear_interpolates_between_whole_shifts():
    rng = np.random.default_rng(4)
    rois = random_rois(rng, margin=20)
    image = rng.integers(0, 65536, SHAPE, np.uint16)
    extractor = Extractor(rois, SHAPE, "bilinear")
    assert extractor.means(image, False, 3, -2) == pytest.approx(offline(image, rois, 3, -2))
    want = sum(
        wy * wx * offline(image, rois, dy, dx) for dy, wy in ((-2, 0.75), (-1, 0.25)) for dx, wx in ((5, 0.4), (6, 0.6))
    )
    assert extractor.means(image, False, -1.75, 5.6) == pytest.approx(want)


def test_bilinear_follows_a_ramp_that_nearest_only_steps_along():
    image = np.tile(np.arange(SHAPE[1], dtype=np.float32), (SHAPE[0], 1))
    rois = roi_set(([30, 31], [40, 41]))
    assert Extractor(rois, SHAPE, "bilinear").means(image, False, 0, 0.3)[0] == pytest.approx(40.8)
    assert Extractor(rois, SHAPE).means(image, False, 0, 0.3)[0] == pytest.approx(40.5)


def test_large_rois_do_not_lose_precision():
    shape = (512, 796)
    rows, cols = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    image = np.full(shape, 65535, np.uint16)
    image[0, 0] = 65534
    want = 65535 - 1 / image.size
    assert Extractor(roi_set((rows, cols)), shape).means(image, False, 0, 0)[0] == pytest.approx(want, rel=1e-12)


@pytest.mark.real
def test_traces_of_a_real_movie_are_those_of_the_offline_mean(recordings):
    folder = recordings / "movie_neurofinder"
    regions = "neurofinder_A_regions.json"
    rois = read_rois(RoiFile(regions), folder, (160, 160))
    extractor = Extractor(rois, (160, 160))
    with h5py.File(folder / "neurofinder_A_600x160x160.h5") as file:
        movie = file["data"][:100]
    masks = [np.array(r["coordinates"]).T for r in msgspec.json.decode((folder / regions).read_bytes())]
    offline = np.array([[frame[rows, cols].mean() for rows, cols in masks] for frame in movie])
    ours = np.array([extractor.means(frame, False, 0, 0) for frame in movie])
    np.testing.assert_allclose(ours, offline, rtol=1e-6)
