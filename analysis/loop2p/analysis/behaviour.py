"""Licking against the displayed angle, and running by day and by error epoch (docs/experiment.md 4.1, ED3e-g)."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy import stats

from loop2p.analysis.epochs import BIN_S, Epochs, error_epochs, mean_angle_deg, passive_epochs
from loop2p.analysis.learning import by_mouse, running_slope
from loop2p.analysis.sessions import SessionData
from loop2p.analysis.statistics import Floats, Level, Test, adjusted, mouse_means, t_one_sample, t_paired

LEAST_BINS = 30
"""Fewer 2 s bins than this, one minute, are no correlation. Ours."""
LEAST_SHIFT = 10
"""Bins by which the control is shifted at least, 20 s: licks come in bouts of a few seconds. Ours."""
EPOCH_SIGNS = {"reduction": 1, "increase": -1, "neither": 0}
"""Columns of `speed_by_epoch`, with the signs of their bins."""


def lick_rate_hz(session: SessionData, epochs: Epochs) -> Floats:
    """(n_bins,) licks a second."""
    bins = epochs.bins(session.lick_s)
    return np.bincount(bins[bins >= 0], minlength=epochs.n_bins) / BIN_S


class LickAngle(Struct, frozen=True):
    """A session's correlation of lick rate with angle; NaN without licks, or with too few bins."""

    r: float
    r_shuffled: float
    """With the licks shifted in a circle by a random time."""
    p: float
    """Part of all shifts, and of none, whose absolute r is at least as large: two-sided."""
    n_bins: int


def lick_angle(rate_hz: Floats, angle: Floats, rng: np.random.Generator) -> LickAngle:
    """Pearson's r of (n_bins,) lick rate and angle, and its control.

    The control shifts licks against angles in a circle, which keeps both as smooth as they are: bins next to each other
    are alike, so r of independent series varies more than n_bins says.
    """
    n = len(angle)
    if n < LEAST_BINS or not np.ptp(rate_hz) or not np.ptp(angle):
        return LickAngle(np.nan, np.nan, np.nan, n)
    a, b = (x - x.mean() for x in (rate_hz, angle))
    around = np.fft.irfft(np.fft.rfft(a) * np.conj(np.fft.rfft(b)), n) / np.sqrt((a**2).sum() * (b**2).sum())
    shifted = around[LEAST_SHIFT : n - LEAST_SHIFT + 1]
    p = (1 + np.sum(np.abs(shifted) >= np.abs(around[0]))) / (1 + len(shifted))
    return LickAngle(float(around[0]), float(rng.choice(shifted)), float(p), n)


class Licking(Struct, frozen=True):
    """Correlation of lick rate with angle of each session, all (n_sessions,)."""

    mouse: NDArray[np.str_]
    day: NDArray[np.int64]
    loop: Floats
    loop_shuffled: Floats
    loop_p: Floats
    passive: Floats
    passive_shuffled: Floats
    passive_p: Floats


def licking(sessions: Sequence[SessionData], seed: int) -> Licking:
    """In closed loop, and in the passive blocks, where the same animal sees gratings that mean nothing (ED3e).

    The time from the target to the next trial is in neither: there the mouse drinks.
    """
    rng = np.random.default_rng(seed)
    found = [
        [lick_angle(lick_rate_hz(s, epochs), mean_angle_deg(s, epochs), rng) for epochs in kinds]
        for s, kinds in ((s, (error_epochs(s), passive_epochs(s))) for s in sessions)
    ]
    columns = np.array([[x for one in row for x in (one.r, one.r_shuffled, one.p)] for row in found]).reshape(-1, 6)
    return Licking(np.array([s.mouse for s in sessions]), np.array([s.day for s in sessions], np.int64), *columns.T)


def licking_tests(found: Licking, alpha: float = 0.05) -> list[Test]:
    """The family of ED3e, adjusted after BKY: loop and passive against their shuffles and each other, and their trends.

    Over sessions as the paper does, and over mice. A trend is the slope of r over days: over mice, one of each.
    """
    pairs = {
        "loop - shuffled": (found.loop, found.loop_shuffled),
        "passive - shuffled": (found.passive, found.passive_shuffled),
        "loop - passive": (found.loop, found.passive),
    }
    tests = [test for what, pair in pairs.items() for test in _at_both(*pair, found.mouse, f"lick-angle r, {what}")]
    for what, r in (("loop", found.loop), ("passive", found.passive)):
        slopes = np.array([_slope(found.day[found.mouse == m], r[found.mouse == m]) for m in np.unique(found.mouse)])
        tests.append(t_one_sample(slopes, 0.0, what=f"lick-angle r, {what}: slope a day", level="mouse"))
    return adjusted(tests, alpha)


def running_trend(sessions: Sequence[SessionData]) -> Test:
    """Slope of mean running speed over days, cm/s a day: a slope of each mouse with three days or more (ED3f)."""
    slopes = np.array([running_slope(days) for days in by_mouse(sessions).values() if len({s.day for s in days}) > 2])
    return t_one_sample(slopes, 0.0, what="running, cm/s a day", level="mouse")


def speed_by_epoch(session: SessionData) -> Floats:
    """(3,) mean speed, cm/s, in bins of closed loop where the error falls, grows, and neither; NaN if none.

    Raises ValueError where speeds and their times are not as many.
    """
    times, speeds = session.speed_t_s, session.speed_cm_s
    if len(times) != len(speeds):
        raise ValueError(f"{session.path}: {len(times)} times of {len(speeds)} speeds, expected as many")
    epochs = error_epochs(session)
    inside = epochs.bins(times) >= 0
    speeds, signs = speeds[inside], epochs.at(times[inside])
    chosen = [speeds[signs == sign] for sign in EPOCH_SIGNS.values()]
    return np.array([c.mean() if len(c) else np.nan for c in chosen])


def running_by_epoch(sessions: Sequence[SessionData], alpha: float = 0.05) -> list[Test]:
    """Running in the three kinds of bin, pair by pair, over sessions and over mice, adjusted after BKY (ED3g)."""
    speeds = np.array([speed_by_epoch(session) for session in sessions]).reshape(-1, len(EPOCH_SIGNS))
    mouse = np.array([s.mouse for s in sessions])
    names = list(EPOCH_SIGNS)
    tests = []
    for one, other in combinations(range(len(names)), 2):
        what = f"running, {names[one]} - {names[other]}, cm/s"
        tests += _at_both(speeds[:, one], speeds[:, other], mouse, what)
    return adjusted(tests, alpha)


def _at_both(first: Floats, second: Floats, mouse: NDArray[np.str_], what: str) -> list[Test]:
    """Paired t over sessions and over mouse means of the sessions that have both."""
    levels: dict[Level, Floats] = {"session": first - second, "mouse": mouse_means(first - second, mouse)}
    return [t_paired(values, np.zeros(len(values)), what=what, level=level) for level, values in levels.items()]


def _slope(day: NDArray[np.int64], values: Floats) -> float:
    """NaN from fewer than three days."""
    there = np.isfinite(values)
    if len(np.unique(day[there])) < 3:
        return np.nan
    return float(stats.linregress(day[there], values[there]).slope)
