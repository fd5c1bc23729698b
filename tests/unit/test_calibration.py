"""The threshold of the day, by Methods 2.4."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop2p.decoding import DifferenceDecoder
from loop2p.task import CalibrationError, CalibrationParams, calibrate
from loop2p.task.calibration import chance_threshold, mirrored_gaussian, window_maxima, windows_of

RATE_HZ = 15.46


def simulated_d(n: int, seed: int) -> np.ndarray:
    """D of 4 + 4 cells with rare transients and noise, (n,)."""
    rng = np.random.default_rng(seed)
    kernel = np.exp(-np.arange(30) / (0.5 * RATE_HZ))
    cells = []
    for _ in range(8):
        events = (rng.random(n) < 0.07 / RATE_HZ) * rng.lognormal(-0.5, 0.45, n)
        cells.append(np.convolve(events, kernel)[:n] + 0.04 * rng.standard_normal(n))
    return np.mean(cells[:4], axis=0) - np.mean(cells[4:], axis=0)


def test_a_mouse_that_does_nothing_reaches_the_threshold_in_half_of_its_windows():
    fractions = []
    for seed in range(5):
        d = simulated_d(12_000, seed)
        threshold = calibrate(d, RATE_HZ, CalibrationParams(seed=seed)).threshold
        fresh = windows_of(simulated_d(60_000, 100 + seed), 435, 1000, np.random.default_rng(seed))
        fractions.append(np.mean(window_maxima(fresh) > threshold))
    assert 0.44 < np.mean(fractions) < 0.56
    assert all(0.35 < fraction < 0.65 for fraction in fractions)


def test_the_threshold_is_the_lowest_step_that_at_most_half_of_the_windows_exceed():
    d = simulated_d(12_000, 3)
    found = calibrate(d, RATE_HZ, CalibrationParams(seed=9))
    windows = windows_of(d, 435, 200, np.random.default_rng(9))
    wins = [
        sum(any(w[k : k + 3].mean() > thr for k in range(433)) for w in windows)
        for thr in (found.threshold, found.threshold - 0.005)
    ]
    assert wins[0] <= 100 < wins[1]
    assert found.minimum == d.min()
    steps = (found.threshold - found.minimum) / 0.005
    assert steps == pytest.approx(round(steps), abs=1e-6)


def test_windows_run_over_the_end_of_the_record_to_its_start():
    values = np.arange(10.0)
    windows = windows_of(values, 4, 500, np.random.default_rng(0))
    assert windows.shape == (500, 4)
    assert ((windows[:, 1:] - windows[:, :-1]) % 10 == 1).all()
    assert set(windows[:, 0]) == set(values)


def test_the_gaussian_is_that_of_the_left_half_mirrored():
    rng = np.random.default_rng(1)
    left_half_normal = np.concatenate([rng.normal(2.0, 0.5, 40_000), np.full(1000, 50.0)])  # a long right tail
    mu, sigma = mirrored_gaussian(left_half_normal)
    assert mu == pytest.approx(2.0, abs=0.03)
    assert sigma == pytest.approx(0.5, abs=0.03)


def test_z_star_of_day_1_sets_the_threshold_of_a_later_day():
    day1 = calibrate(simulated_d(12_000, 1), RATE_HZ, CalibrationParams())
    assert day1.z_star == pytest.approx((day1.threshold - day1.mu) / day1.sigma)
    quieter = 0.5 * simulated_d(12_000, 2)
    day2 = calibrate(quieter, RATE_HZ, CalibrationParams(), z_star=day1.z_star)
    assert day2.z_star == day1.z_star
    assert day2.threshold == pytest.approx(day2.mu + day1.z_star * day2.sigma)
    assert day2.threshold < day1.threshold


def test_same_seed_same_calibration_and_the_record_says_which_frames():
    d = simulated_d(2000, 5)
    first = calibrate(d, RATE_HZ, CalibrationParams(seed=4), first_frame=20, last_frame=4018, baseline="led-on")
    assert first == calibrate(d, RATE_HZ, CalibrationParams(seed=4), first_frame=20, last_frame=4018, baseline="led-on")
    assert (first.seed, first.first_frame, first.last_frame, first.n_values) == (4, 20, 4018, 2000)
    assert first.baseline == "led-on"
    assert first != calibrate(d, RATE_HZ, CalibrationParams(seed=5), first_frame=20, last_frame=4018, baseline="led-on")


@pytest.mark.parametrize(
    ("d", "words"),
    [
        (np.zeros(0), "record a longer baseline"),
        (np.ones(434), "434 values of D, windows of 435"),
        (np.ones((435, 2)), "expected at least one window"),
        (np.ones(12_000), "constant"),
        (np.r_[np.zeros(11_000), np.ones(1000)], "constant"),
        (
            np.r_[np.random.default_rng(0).normal(size=600), np.nan],
            "1 of 601 values of D are not finite, .* number 600",
        ),
        (np.r_[np.inf, np.random.default_rng(0).normal(size=600)], "number 0"),
    ],
)
def test_a_baseline_that_can_not_calibrate_says_why(d: np.ndarray, words: str):
    with pytest.raises(CalibrationError, match=words):
        calibrate(d, RATE_HZ, CalibrationParams())


def test_a_z_star_far_below_leaves_no_room_for_angles():
    with pytest.raises(CalibrationError, match="does not lie above the minimum"):
        calibrate(simulated_d(2000, 1), RATE_HZ, CalibrationParams(), z_star=-50.0)


# ---------------------------------------------------------------- the authors' code: min(z*, today's)


def test_the_variant_min_never_asks_for_more_than_today_s_chance():
    d = simulated_d(12_000, 2)
    chance = calibrate(d, RATE_HZ, CalibrationParams())
    for z_star, expected in ((chance.z_star + 1, chance.threshold), (chance.z_star - 1, None)):
        methods = calibrate(d, RATE_HZ, CalibrationParams(), z_star)
        least = calibrate(d, RATE_HZ, CalibrationParams(variant="min"), z_star)
        assert methods.threshold == pytest.approx(methods.mu + z_star * methods.sigma)
        assert least.threshold == (expected or methods.threshold)
        assert least.z_star == methods.z_star == z_star  # the criterion of day 1 is kept


def test_on_day_1_both_variants_are_the_same():
    d = simulated_d(2000, 2)
    assert calibrate(d, RATE_HZ, CalibrationParams()) == calibrate(d, RATE_HZ, CalibrationParams(variant="min"))


# ---------------------------------------------------------------- against another computation, and in general


def by_hand(d: list[float], n: int, seed: int) -> tuple[float, float, float]:
    """Threshold, mu and sigma by docs/experiment.md 2.4, in plain loops. Only the places of the windows are numpy's."""
    windows = []
    for start in np.random.default_rng(seed).integers(0, len(d), 200).tolist():
        windows.append([d[(start + k) % len(d)] for k in range(n)])
    step = 0
    while True:
        threshold = min(d) + 0.005 * step
        wins = 0
        for window in windows:
            for k in range(2, n):
                if (window[k - 2] + window[k - 1] + window[k]) / 3 > threshold:
                    wins += 1
                    break
        if wins <= 100:
            break
        step += 1
    pooled = [value for window in windows for value in window]
    median = statistics.median(pooled)
    half = [value for value in pooled if value <= median]
    mirrored = half + [2 * median - value for value in half]
    return threshold, statistics.fmean(mirrored), statistics.pstdev(mirrored)


def assert_agrees(d: np.ndarray, seed: int) -> None:
    found = calibrate(d, RATE_HZ, CalibrationParams(seed=seed))
    threshold, mu, sigma = by_hand(d.tolist(), 435, seed)
    assert found.threshold == pytest.approx(threshold, abs=1e-12)
    assert found.mu == pytest.approx(mu, rel=1e-9, abs=1e-12)
    assert found.sigma == pytest.approx(sigma, rel=1e-9)
    assert found.z_star == pytest.approx((threshold - mu) / sigma, rel=1e-9)


@pytest.mark.parametrize("seed", [0, 4])
def test_plain_loops_find_the_same_threshold_in_a_baseline(seed: int):
    assert_agrees(simulated_d(3000, seed), seed)


@pytest.mark.real
def test_plain_loops_find_the_same_threshold_in_a_real_movie(recordings: Path):
    import h5py

    folder = recordings / "movie_neurofinder"
    with h5py.File(folder / "neurofinder_A_600x160x160.h5") as file:
        movie = file["data"][:]
    rois = json.loads((folder / "neurofinder_A_regions.json").read_text())[:8]
    frames = np.stack([movie[:, *np.transpose(r["coordinates"])].mean(1) for r in rois], 1).astype(np.float32)
    decoder = DifferenceDecoder([0, 1, 2, 3], [4, 5, 6, 7], RATE_HZ)
    d = np.array([decoder.update(f) for f in frames])[155:]  # the first 10 s of F0 are not valid
    d = np.r_[d, d[::-1]]  # there and back: long enough for a window of 435
    assert_agrees(d, 1)


DAY = simulated_d(3000, 11)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.integers(0, 50))
def test_the_rarer_success_by_chance_may_be_the_higher_the_threshold(a: float, b: float, seed: int):
    rare, often = (
        calibrate(DAY, RATE_HZ, CalibrationParams(chance=chance, seed=seed)).threshold for chance in sorted((a, b))
    )
    assert rare >= often


def test_chance_threshold_ends_even_where_every_window_is_alike():
    windows = np.tile(np.linspace(0, 1, 50), (7, 1))
    assert chance_threshold(windows, 0.0, 0.3, 0.5) == pytest.approx(1.2)
