"""From cells to pixels: layout, motion, shot noise."""

import numpy as np
import pytest

from loop2p.simulation.optics import COUNTS_PER_PHOTON, DARK_COUNTS, LIMIT_PX, MicroscopeModel, Motion
from loop2p.simulation.scene import PAD_PX, Scene

HEIGHT, WIDTH, CELLS = 160, 200, 5


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(seed=4, height=HEIGHT, width=WIDTH, n_cells=CELLS, n_rois=4)


@pytest.fixture
def model(scene: Scene) -> MicroscopeModel:
    return MicroscopeModel(scene, seed=1)


def rest(factor: float = 1.0) -> np.ndarray:
    return np.full(CELLS, factor, np.float32)


def test_a_frame_is_column_major_uint16(model: MicroscopeModel) -> None:
    frame = model.frame(0, rest())
    assert frame.shape == (HEIGHT, WIDTH)
    assert frame.dtype == np.uint16
    assert frame.flags.f_contiguous


def test_same_seed_same_pixels_other_seed_other_noise(scene: Scene) -> None:
    def movie(seed: int) -> bytes:
        model, motion = MicroscopeModel(scene, seed), Motion(seed, 30.92)
        return b"".join(model.frame(k % 2, rest(), motion.step()).tobytes() for k in range(6))

    assert movie(1) == movie(1)
    assert movie(1) != movie(2)


def test_noise_is_that_of_photons(model: MicroscopeModel, scene: Scene) -> None:
    """variance = gain x (mean - dark), in the still part and in a cell, and no frame's noise comes again."""
    movie = np.stack([model.frame(0, rest(2.0)) for _ in range(400)]).astype(float)
    mean, variance = movie.mean(axis=0) - DARK_COUNTS, movie.var(axis=0, ddof=1)
    for rows, columns in [roi.T for roi in scene.rois(0)]:
        ratio = variance[rows, columns].mean() / mean[rows, columns].mean() / COUNTS_PER_PHOTON
        assert ratio == pytest.approx(1, abs=0.05)
    assert variance.mean() / mean.mean() / COUNTS_PER_PHOTON == pytest.approx(1, abs=0.05)
    expected = scene.still[0][PAD_PX:-PAD_PX, PAD_PX:-PAD_PX]
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    away = np.all([np.hypot(rows - y, columns - x) > 13 for y, x in scene.centres[0]], axis=0)
    assert (mean[away].mean() / COUNTS_PER_PHOTON) == pytest.approx(expected[away].mean(), rel=0.03)
    noise = (movie - movie.mean(axis=0)) / np.sqrt(variance)
    between = np.tensordot(noise[:40], noise[40:80], ([1, 2], [1, 2])) / noise[0].size
    assert np.abs(between).max() < 0.03  # 5 sigma of independent frames of 32,000 pixels


def test_a_cells_mean_follows_its_activity(model: MicroscopeModel, scene: Scene) -> None:
    roi = scene.rois(1)[2].T

    def mean(activity: np.ndarray) -> float:
        return float(np.mean([model.frame(1, activity)[roi[0], roi[1]].mean() for _ in range(60)]))

    other, own = rest(), rest()
    other[0], own[2] = 3.0, 2.0
    base = mean(rest())
    assert mean(other) == pytest.approx(base, rel=0.02)
    light = scene.bright[2] * scene.light(1, 2)
    assert mean(own) - base == pytest.approx(COUNTS_PER_PHOTON * light[light > 0.5 * scene.bright[2]].mean(), rel=0.05)


@pytest.mark.parametrize("moved", [(3.0, -2.0), (-4.0, 4.0), (0.5, -1.25)])
def test_the_whole_image_moves_down_and_right(model: MicroscopeModel, scene: Scene, moved: tuple[float, float]) -> None:
    """The centre of light of each cell moves by exactly as much."""

    def centre(moved_px: tuple[float, float], k: int) -> np.ndarray:
        mean = np.mean([model.frame(0, rest(6.0), moved_px) for _ in range(40)], axis=0) - DARK_COUNTS
        row, column = np.round(scene.centres[0][k]).astype(int)
        box = mean[row - 12 : row + 13, column - 12 : column + 13]
        light = np.maximum(box - 3 * COUNTS_PER_PHOTON, 0)
        grid = np.mgrid[-12:13, -12:13]
        return np.array([(g * light).sum() / light.sum() for g in grid])

    for k in range(2):
        assert centre(moved, k) - centre((0.0, 0.0), k) == pytest.approx(np.array(moved), abs=0.15)
    still = [np.mean([model.frame(0, rest(0.0), m) for _ in range(150)], axis=0) for m in ((0.0, 0.0), moved)]
    y, x = round(moved[0]), round(moved[1])
    inner = np.s_[8 + y : HEIGHT - 8 + y, 8 + x : WIDTH - 8 + x]
    assert np.corrcoef(still[0][8:-8, 8:-8].ravel(), still[1][inner].ravel())[0, 1] > 0.8


def test_motion_is_slow_and_jittery_within_its_limit() -> None:
    motion = Motion(seed=2, rate_hz=30.92)
    path = np.array([motion.step() for _ in range(20_000)])
    assert np.abs(path).max() <= LIMIT_PX
    assert np.all(path * 4 % 1 == 0)
    assert 0.8 < path.std() < 2.0
    assert 0.1 < np.diff(path, axis=0).std() < 0.6  # jitter between frames
    slow = path[: 20_000 // 62 * 62].reshape(-1, 62, 2).mean(axis=1)  # 2 s means
    assert np.corrcoef(slow[1:, 0], slow[:-1, 0])[0, 1] > 0.8  # drift
    again = Motion(seed=2, rate_hz=30.92)
    assert np.array_equal(path[:100], [again.step() for _ in range(100)])


def test_nonsense_is_refused(model: MicroscopeModel) -> None:
    with pytest.raises(ValueError, match="activity of 3 cells, expected 5"):
        model.frame(0, np.ones(3, np.float32))
    for bad in (4.25, 0.1, float("nan")):
        with pytest.raises(ValueError, match="expected quarters of a pixel within"):
            model.frame(0, rest(), (bad, 0.0))


def test_a_dazzling_cell_saturates_and_does_not_wrap(model: MicroscopeModel, scene: Scene) -> None:
    row, column = np.round(scene.centres[0][0]).astype(int)
    assert model.frame(0, rest(1000.0))[row, column] == 65535
