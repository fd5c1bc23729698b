"""Licks that follow the angle, licks that do not, and running, on sessions whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from loop2p.analysis.behaviour import (
    lick_angle,
    lick_rate_hz,
    licking,
    licking_tests,
    running_by_epoch,
    running_trend,
    speed_by_epoch,
)
from loop2p.analysis.epochs import error_epochs, mean_angle_deg, passive_epochs
from loop2p.analysis.sessions import SessionData

PASSIVE_S, TRIAL_S, TRIALS = 400.0, 32.0, 25
END_S = PASSIVE_S + TRIAL_S * TRIALS
READING_S = 0.1


def session(mouse: int, day: int, loop_hz: float = 0.0, passive_hz: float = 0.0, speed=(5.0, 5.0)) -> SessionData:
    """Passive gratings, then trials of 28 s without a hit. Licks: 0.5 Hz and up to this much more at the target.

    speed: cm/s where the error falls or stays, and where it grows, by the last turn.
    """
    rng = np.random.default_rng([mouse, day])
    passive = np.arange(0, PASSIVE_S, 1.0)
    shown_s, shown_deg = list(passive), list(15.0 * rng.integers(0, 7, len(passive)))
    starts = PASSIVE_S + TRIAL_S * np.arange(TRIALS)
    for start in starts:
        steps = rng.integers(-1, 2, 56).cumsum() + 3
        shown_s += [start, *(start + 0.5 + 0.5 * np.arange(55)), start + 28.0]
        shown_deg += [np.nan, *(15.0 * np.abs((steps[:55] - 6) % 12 - 6)), np.nan]
    at, angle = np.array(shown_s), np.array(shown_deg)
    tick_s = 0.02
    t_s = np.arange(0, END_S, tick_s)
    now = angle[np.searchsorted(at, t_s, "right") - 1]
    extra = np.where(t_s < PASSIVE_S, passive_hz, loop_hz) * np.nan_to_num(now) / 90
    lick_s = t_s[rng.random(len(t_s)) < (0.5 + extra) * tick_s]
    readings = np.arange(0, END_S, READING_S)
    turns = np.diff(angle, prepend=np.nan)
    grows = turns[np.searchsorted(at, readings, "right") - 1] < 0
    speed_cm_s = np.where(grows, speed[1], speed[0]) + rng.standard_normal(len(readings))
    none = np.full(TRIALS, np.nan)
    return SessionData(
        path=Path(f"{mouse}-{day}.nwb"), mouse=f"m{mouse}", day=day, role=np.array(["plus"]), start_s=starts,
        outcome=np.array(["miss"] * TRIALS), hit_s=none, reward_s=none,
        phases=[("baseline", "passive", 0.0, PASSIVE_S), ("closed_loop", "", PASSIVE_S, END_S)],
        shown_s=at, shown_deg=angle, lick_s=lick_s, speed_t_s=readings, speed_cm_s=speed_cm_s, events={},
    )  # fmt: skip


def cohort(hz, passive_hz=lambda day: 0.0, mice: int = 6, days: int = 5, speed=(5.0, 5.0)) -> list[SessionData]:
    return [session(m, d, hz(d), passive_hz(d), speed) for m in range(mice) for d in range(1, days + 1)]


def test_epochs_are_those_of_gratings_in_the_loop_and_in_the_passive_block():
    one = session(0, 1)
    loop, passive = error_epochs(one), passive_epochs(one)
    assert (loop.stop_s - loop.start_s).tolist() == pytest.approx([27.5] * TRIALS)
    assert (passive.start_s[0], passive.stop_s[-1]) == (0.0, PASSIVE_S)
    assert passive.n_bins == PASSIVE_S / 2
    none = structs.replace(one, phases=[], start_s=np.zeros(0), outcome=np.zeros(0, np.str_), hit_s=np.zeros(0))
    for empty in (error_epochs(none), passive_epochs(none)):
        assert mean_angle_deg(none, empty).tolist() == lick_rate_hz(none, empty).tolist() == []


def test_licks_of_a_bin_are_a_rate():
    one = structs.replace(session(0, 1), shown_s=np.array([0.0]), shown_deg=np.array([30.0]))
    one = structs.replace(one, lick_s=np.array([0.1, 0.2, 0.3, 2.5, 399.9]))
    assert lick_rate_hz(one, passive_epochs(one))[[0, 1, 2, -1]].tolist() == [1.5, 0.5, 0, 0.5]


def test_drinking_after_the_target_is_not_counted():
    one = session(0, 1)
    one = structs.replace(one, lick_s=one.start_s + 30.0)
    assert lick_rate_hz(one, error_epochs(one)).sum() == 0


def test_r_is_pearson_s_and_its_control_keeps_what_the_series_are():
    """Two slow series that know nothing of each other: p of independent bins would find an r in every other pair."""
    rng = np.random.default_rng(0)
    kernel = np.exp(-np.arange(60) / 15)
    p, p_bins = [], []
    for _ in range(200):
        a, b = (np.convolve(rng.standard_normal(460), kernel, "valid") for _ in range(2))
        found = lick_angle(a, b, rng)
        assert found.r == pytest.approx(np.corrcoef(a, b)[0, 1])
        p.append(found.p)
        p_bins.append(2 * (1 - _phi(abs(found.r) * np.sqrt(len(a)))))
    assert np.mean(np.array(p) < 0.05) < 0.1
    assert np.mean(np.array(p_bins) < 0.05) > 0.3


def _phi(x: float) -> float:
    from statistics import NormalDist

    return NormalDist().cdf(x)


def test_no_licks_or_too_few_bins_are_no_correlation():
    rng = np.random.default_rng(0)
    assert np.isnan(lick_angle(np.zeros(100), rng.random(100), rng).r)
    assert np.isnan(lick_angle(rng.random(20), rng.random(20), rng).r)


def test_licking_that_comes_with_learning_is_found_in_the_loop_alone():
    found = licking(cohort(lambda day: 0.6 * (day - 1)), seed=0)
    tests = {(t.what, t.level): t for t in licking_tests(found)}
    for level in ("session", "mouse"):
        assert tests["lick-angle r, loop - shuffled", level].p_adjusted < 0.01
        assert tests["lick-angle r, loop - passive", level].p_adjusted < 0.01
        assert tests["lick-angle r, passive - shuffled", level].p_adjusted > 0.05
    assert tests["lick-angle r, loop: slope a day", "mouse"].p_adjusted < 0.01
    assert tests["lick-angle r, loop: slope a day", "mouse"].estimate > 0.02
    assert tests["lick-angle r, passive: slope a day", "mouse"].p_adjusted > 0.05
    assert tests["lick-angle r, loop - shuffled", "session"].n == (30,)
    assert np.mean(found.loop_p[found.day == 5] < 0.05) > 0.9
    assert np.mean(found.passive_p < 0.05) < 0.2


def test_licks_that_do_not_follow_the_screen_make_none_of_it():
    tests = licking_tests(licking(cohort(lambda day: 0.0), seed=0))
    assert len(tests) == 8
    assert min(t.p_adjusted for t in tests) > 0.05


def test_licking_in_the_passive_block_is_seen_there():
    tests = {(t.what, t.level): t for t in licking_tests(licking(cohort(lambda d: 0.0, lambda d: 4.0), seed=0))}
    assert tests["lick-angle r, passive - shuffled", "mouse"].p_adjusted < 0.01
    assert tests["lick-angle r, loop - passive", "mouse"].estimate < -0.1


def test_a_trend_of_running_is_found_and_none_is_not():
    def with_trend(slope: float) -> list[SessionData]:
        days = cohort(lambda day: 0.0)
        return [structs.replace(s, speed_cm_s=s.speed_cm_s + slope * s.day) for s in days]

    assert running_trend(with_trend(0.2)).estimate == pytest.approx(0.2, abs=0.03)
    assert running_trend(with_trend(0.2)).p < 1e-4
    assert running_trend(with_trend(0.0)).p > 0.05
    assert running_trend(cohort(lambda day: 0.0, days=2)).n == (0,)


def test_running_that_differs_by_epoch_is_found_and_equal_running_is_not():
    fast = cohort(lambda day: 0.0, speed=(5.0, 8.0), days=3)
    reduction, increase, _ = np.mean([speed_by_epoch(s) for s in fast], axis=0)
    assert increase > reduction + 0.5
    tests = {(t.what, t.level): t for t in running_by_epoch(fast)}
    for level, n in (("session", 18), ("mouse", 6)):
        found = tests["running, reduction - increase, cm/s", level]
        assert found.n == (n,)
        assert found.estimate < -0.5
        assert found.p_adjusted < 0.001
    even = cohort(lambda day: 0.0, days=3)
    assert min(t.p_adjusted for t in running_by_epoch(even)) > 0.05


def test_speeds_without_their_times_are_refused():
    one = structs.replace(session(0, 1), speed_t_s=np.zeros(3))
    with pytest.raises(ValueError, match=r"0-1\.nwb: 3 times of 12000 speeds"):
        speed_by_epoch(one)
