"""Shifts are found to a fraction of a pixel, whatever the memory order, the light or the size of the image."""

import h5py
import numpy as np
import pytest

from loop2p.imaging import Registrar
from loop2p.imaging.bench import fourier_shift, simulated_field

SHAPE = (256, 320)


@pytest.fixture(scope="module")
def field():
    """A simulated field with 32 px to spare on each side; mean 1."""
    return simulated_field(np.random.default_rng(3), (SHAPE[0] + 64, SHAPE[1] + 64))


def seen(field, dy=0.0, dx=0.0):
    return np.clip(fourier_shift(field, dy, dx)[32:-32, 32:-32], 0, None)


def shift_of(match):
    return np.array([match.shift_y_px, match.shift_x_px])


def rmse(errors):
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.fixture(scope="module")
def movie(recordings):
    with h5py.File(recordings / "movie_neurofinder" / "neurofinder_A_600x160x160.h5") as file:
        return file["data"][:].astype(np.float32)


@pytest.mark.real
@pytest.mark.parametrize("shift", [(8, 0), (0, 8), (-8, -8), (8, -8), *((0.3 * k, -0.3 * k) for k in range(1, 9))])
def test_known_shifts_of_a_real_movie_are_recovered(movie, shift):
    """Estimate minus the estimate on the frame as it was; frames are moved by a Fourier shift."""
    registrar = Registrar(movie.shape[1:])
    template = registrar.template(movie[:300].mean(0))
    errors = []
    for frame in movie[300::15]:
        before = shift_of(template.match(registrar.spectra(frame)))
        after = shift_of(template.match(registrar.spectra(fourier_shift(frame, *shift))))
        errors.append(after - before - shift)
    assert rmse(errors) <= 0.1


@pytest.mark.parametrize(("light", "limit"), [(0.5, 0.08), (0.1, 0.2)])
def test_dim_frames_are_registered_better_than_by_skimage(light, limit):
    from skimage.registration import phase_cross_correlation

    rng = np.random.default_rng(11)
    shape = (512, 796)
    field = simulated_field(rng, (shape[0] + 64, shape[1] + 64))
    registrar = Registrar(shape)
    reference = rng.poisson(seen(field) * light * 300) / 300
    template = registrar.template(reference)
    ours, theirs = [], []
    for shift in rng.normal(0, 2.2, (24, 2)):
        frame = np.asfortranarray(rng.poisson(seen(field, *shift) * light).astype(np.uint16))
        ours.append(shift_of(template.match(registrar.spectra(frame))) - shift)
        found = [
            phase_cross_correlation(reference[a], frame[a], upsample_factor=10, normalization=None)[0]
            for a in registrar.slices
        ]
        theirs.append(-np.mean(found, axis=0) - shift)
    assert registrar.area_px == (200, 128)
    assert rmse(ours) <= limit
    assert rmse(ours) < rmse(theirs)


def test_shift_is_positive_down_and_right(field):
    registrar = Registrar(SHAPE)
    match = registrar.template(seen(field)).match(registrar.spectra(seen(field, 3, -5)))
    assert shift_of(match) == pytest.approx([3, -5], abs=0.05)
    assert len(match.areas) == 4
    assert np.mean(match.areas, axis=0) == pytest.approx(shift_of(match))


def test_memory_order_and_inversion_make_no_difference(field):
    registrar = Registrar(SHAPE)
    template = registrar.template(seen(field))
    frame = np.random.default_rng(1).poisson(5 * seen(field, 1.3, -2.6)).astype(np.uint16)
    column_major = np.asfortranarray(frame)
    want = template.match(registrar.spectra(frame))
    for pixels, inverted in ((column_major, False), (65535 - frame, True), (np.asfortranarray(65535 - frame), True)):
        match = template.match(registrar.spectra(pixels, inverted))
        assert shift_of(match) == pytest.approx(shift_of(want), abs=0.01)
        assert match.quality == pytest.approx(want.quality, abs=0.001)
    assert template.match(registrar.spectra(65535 - frame)).quality < 0.2 * want.quality


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i2", "f4", "f8"])
def test_every_type_of_pixel_is_taken_and_left_alone(field, dtype):
    registrar = Registrar(SHAPE)
    frame = (20 * seen(field, 2, 1)).clip(0, 255).astype(dtype)
    before = frame.copy()
    match = registrar.template(seen(field)).match(registrar.spectra(frame))
    assert shift_of(match) == pytest.approx([2, 1], abs=0.1)
    np.testing.assert_array_equal(frame, before)


def test_the_reference_itself_has_quality_one_and_shift_zero(field):
    registrar = Registrar(SHAPE)
    match = registrar.template(seen(field)).match(registrar.spectra(seen(field)))
    assert match.quality == pytest.approx(1, abs=1e-3)
    assert shift_of(match) == pytest.approx([0, 0], abs=0.01)


def test_quality_falls_with_light_and_is_far_above_that_of_other_images(field):
    rng = np.random.default_rng(5)
    registrar = Registrar(SHAPE)
    template = registrar.template(seen(field))
    frames = [rng.poisson(light * seen(field, 4, -4)) for light in (10, 1, 0.1)]
    qualities = [template.match(registrar.spectra(frame)).quality for frame in frames]
    assert qualities == sorted(qualities, reverse=True)
    assert template.match(registrar.spectra(frames[2][::-1])).quality < 0.5 * qualities[2]


@pytest.mark.parametrize("pixels", [np.zeros(SHAPE), np.full(SHAPE, np.nan), np.full(SHAPE, np.inf)])
def test_an_image_without_content_has_quality_zero(field, pixels):
    registrar = Registrar(SHAPE)
    match = registrar.template(seen(field)).match(registrar.spectra(pixels))
    assert (match.quality, *shift_of(match)) == (0, 0, 0)


def test_an_image_that_moved_out_of_range_has_no_quality_to_speak_of(field):
    registrar = Registrar(SHAPE)
    template = registrar.template(seen(field))
    near = template.match(registrar.spectra(seen(field, 14, 0))).quality
    assert template.match(registrar.spectra(seen(field, 24, 0))).quality < 0.5 * near


@pytest.mark.parametrize("shape", [(160, 160), (64, 64), (97, 211), (512, 796), (1024, 1024)])
def test_areas_fit_the_image_and_are_fast_to_transform(shape):
    import scipy.fft

    registrar = Registrar(shape)
    for n in registrar.area_px:
        assert scipy.fft.next_fast_len(n, real=True) == n
    for rows, cols in registrar.slices:
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= cols.start < cols.stop <= shape[1]


def test_an_image_that_is_too_small_is_refused_with_advice():
    with pytest.raises(ValueError, match=r"30 x 400 px gives areas of 12 x 128 px, expected at least 16.*registration"):
        Registrar((30, 400))
