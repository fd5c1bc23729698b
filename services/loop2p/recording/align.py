"""Two recordings that share a pulse line: which pulse is which, and how one's clock maps on the other's. Pure.

The line must be irregular, so that it can be like itself in one way only: pulses at random intervals, a photodiode's
flips, rewards. A frame clock is no such line. What is found is refused rather than believed (`MismatchError`) when too
few pulses agree, when chance could have done it, or when another shift fits nearly as well.

How: a pulse is recognised by the two intervals behind it; each agreement proposes a shift, and the shift that most of
them propose, with a slope, is fitted to all pulses, nearest to nearest.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_DRIFT = 5e-4
"""Two recorders' clocks differ by no more: five times what a bad crystal does."""
TOLERANCE_S = 1e-3
"""Two stamps of one pulse agree within this, once the clocks are matched."""
FEWEST = 8
"""Pulses that must agree."""
LEAST_SHARE = 0.5
"""Of the pulses of the shorter side, where both recorded."""
MOST_CHANCE_LOG10 = -9.0
"""How improbable an agreement by chance must be, all shifts and slopes that were looked through counted."""
NEXT_BEST_SHARE = 0.8
"""Another shift at which more than this share of the matched pulses finds a partner: the line repeats itself."""
MOST_CANDIDATES = 50_000
MOST_PULSES = 1_000_000
STARTS, DRAWS = 4, 400
"""Heaps of shifts that are looked into, and lines that are tried in each."""


class MismatchError(ValueError):
    """The two lines are not one, or can't be told to be: place, found, expected."""


@dataclass(frozen=True)
class Alignment:
    """b's time of a's time t: `offset_s` + `slope` x (t - `origin_s`), all in seconds."""

    origin_s: float
    """a's first matched pulse."""
    offset_s: float
    """The same moment on b's clock."""
    slope: float
    """Seconds of b in a second of a."""
    pairs: Ints
    """(n, 2) index in a, index in b of each matched pulse."""
    residual_s: Floats
    """(n,) b's stamp less the mapped stamp of a."""
    n_a: int
    """Pulses of a while both recorded."""
    n_b: int
    chance_log10: float
    """log10 of the probability that two unrelated lines agree so well somewhere, at most."""
    next_best: int
    """Pulses that agree at the next best shift."""

    @property
    def drift_ppm(self) -> float:
        return (self.slope - 1) * 1e6

    def to_b(self, a_s: ArrayLike) -> Floats:
        """(n,) times of a on b's clock."""
        mapped: Floats = self.offset_s + self.slope * (np.asarray(a_s, dtype=float) - self.origin_s)
        return mapped


def align(a_s: ArrayLike, b_s: ArrayLike, tolerance_s: float = TOLERANCE_S) -> Alignment:
    """Match the pulses of two recordings, (n,) and (m,) s in rising order, each by its own clock.

    Either may have missed some, have others besides, begin earlier or end later. Raises MismatchError with the reason
    where they don't match, ValueError for times that are none.
    """
    a, b = _checked(a_s, "first"), _checked(b_s, "second")
    for name, times in (("first", a), ("second", b)):
        if len(times) < FEWEST:
            raise MismatchError(f"the {name} recording has {len(times)} pulses, expected at least {FEWEST}")
    at, shift = _proposals(a, b, tolerance_s)
    if len(at) == 0:
        raise MismatchError("no two intervals in a row are the same in both: these are not recordings of one line")
    found = [_fit(a, b, start, tolerance_s) for start in _starts(at, shift, tolerance_s)]
    found.sort(key=lambda fit: -len(fit.pairs))
    best = found[0]
    return _judged(a, b, best, found[1:], tolerance_s)


def _checked(times_s: ArrayLike, name: str) -> Floats:
    times = np.asarray(times_s, dtype=float)
    if times.ndim != 1 or not np.isfinite(times).all():
        raise ValueError(f"the {name} recording: shape {times.shape}, expected one row of finite times in seconds")
    if len(times) > MOST_PULSES:
        raise ValueError(f"the {name} recording has {len(times)} pulses, expected at most {MOST_PULSES}")
    if (np.diff(times) <= 0).any():
        k = int(np.argmax(np.diff(times) <= 0))
        raise ValueError(f"the {name} recording: pulse {k + 1} at {times[k + 1]} s is not after {times[k]} s")
    return times


# ---------------------------------------------------------------- where it may fit


def _proposals(a: Floats, b: Floats, tolerance_s: float) -> tuple[Floats, Floats]:
    """(k,) times of a and (k,) shifts to b, of pulses that are followed by the same two intervals in both.

    Where that says little (a regular line), only what says most is taken, so that there are at most MOST_CANDIDATES.
    """
    first_a, second_a, first_b, second_b = *_intervals(a), *_intervals(b)
    order = np.argsort(first_b)
    ranked = first_b[order]
    slack = 2 * tolerance_s + MAX_DRIFT * first_a
    low, high = np.searchsorted(ranked, first_a - slack), np.searchsorted(ranked, first_a + slack)
    telling = np.argsort(high - low, kind="stable")
    telling = telling[np.cumsum((high - low)[telling]) <= 20 * MOST_CANDIDATES]
    counts = (high - low)[telling]
    i = np.repeat(telling, counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    j = order[np.repeat(low[telling], counts) + within]
    same = np.abs(second_a[i] - second_b[j]) <= 2 * tolerance_s + MAX_DRIFT * second_a[i]
    i, j = i[same][:MOST_CANDIDATES], j[same][:MOST_CANDIDATES]
    return a[i], b[j] - a[i]


def _intervals(times: Floats) -> tuple[Floats, Floats]:
    steps = np.diff(times)
    return steps[:-1], steps[1:]


def _starts(at: Floats, shift: Floats, tolerance_s: float) -> list[tuple[float, float]]:
    """(shift at a's time 0, drift) of the likeliest few, by how many proposals agree: first the shifts within what
    drift can do, then of each such heap the straight line through two of its proposals that most others lie on."""
    width = 4 * tolerance_s + MAX_DRIFT * float(np.ptp(at))
    bins = np.floor((shift - shift.min()) / width).astype(np.int64)
    numbers, counts = np.unique(bins, return_counts=True)
    starts = []
    for number in numbers[np.argsort(-counts, kind="stable")[:STARTS]]:
        near = np.abs(bins - number) <= 1  # a heap at the edge of a bin is cut in two
        starts.append(_line(at[near], shift[near], tolerance_s))
    return starts


def _line(at: Floats, shift: Floats, tolerance_s: float) -> tuple[float, float]:
    """(shift at time 0, drift) of the line on which most proposals lie; the draws are the same at every call."""
    random = np.random.default_rng(0)
    one, other = random.integers(len(at), size=(2, DRAWS))
    span = at[other] - at[one]
    far = np.abs(span) > np.ptp(at) / 4
    drift = np.divide(shift[other] - shift[one], span, out=np.zeros(DRAWS), where=far)
    possible = np.flatnonzero(np.abs(drift) <= MAX_DRIFT)
    best = (0, float(np.median(shift)), 0.0)
    for k in possible:
        at_zero = shift - drift[k] * at
        agree = int((np.abs(at_zero - at_zero[one[k]]) <= 2 * tolerance_s).sum())
        best = max(best, (agree, float(at_zero[one[k]]), float(drift[k])))
    return best[1], best[2]


def _densest(values: Floats, width: float) -> int:
    """How many values lie within the fullest stretch of this width."""
    ranked = np.sort(values)
    return int((np.searchsorted(ranked, ranked + width, side="right") - np.arange(len(ranked))).max(initial=0))


# ---------------------------------------------------------------- how it fits


@dataclass(frozen=True)
class _Fit:
    shift_s: float
    """At a's time 0."""
    drift: float
    pairs: Ints

    def to_b(self, a: Floats) -> Floats:
        return a + self.shift_s + self.drift * a


def _fit(a: Floats, b: Floats, start: tuple[float, float], tolerance_s: float) -> _Fit:
    """Match and fit in turns, first with more tolerance, until the pairs stay."""
    fit = _Fit(*start, _nearest(a + start[0] + start[1] * a, b, 4 * tolerance_s))
    for turn in range(10):
        i, j = fit.pairs.T
        if len(i) < 2:
            return fit
        origin = a[i].mean()
        x, y = a[i] - origin, b[j] - a[i]
        drift = float(np.clip((x @ (y - y.mean())) / (x @ x), -2 * MAX_DRIFT, 2 * MAX_DRIFT))
        shift_s = float(y.mean() - drift * origin)
        new = _Fit(shift_s, drift, _nearest(a + shift_s + drift * a, b, tolerance_s * (2 if turn == 0 else 1)))
        if turn > 1 and np.array_equal(new.pairs, fit.pairs):
            return new
        fit = new
    return fit


def _nearest(mapped: Floats, b: Floats, tolerance_s: float) -> Ints:
    """(n, 2) pairs that are each other's nearest and no further apart than this."""
    j = _nearest_index(b, mapped)
    i = np.arange(len(mapped))
    both = (_nearest_index(mapped, b)[j] == i) & (np.abs(mapped - b[j]) <= tolerance_s)
    return np.column_stack([i[both], j[both]])


def _nearest_index(times: Floats, wanted: Floats) -> Ints:
    right = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    nearest: Ints = right - (wanted - times[right - 1] <= times[right] - wanted)
    return nearest


# ---------------------------------------------------------------- is it to be believed


def _judged(a: Floats, b: Floats, best: _Fit, others: list[_Fit], tolerance_s: float) -> Alignment:
    mapped = best.to_b(a)
    start, end = max(mapped[0], b[0]) - tolerance_s, min(mapped[-1], b[-1]) + tolerance_s
    n_a = int(((mapped >= start) & (mapped <= end)).sum())
    n_b = int(((b >= start) & (b <= end)).sum())
    n, least = len(best.pairs), max(FEWEST, math.ceil(LEAST_SHARE * min(n_a, n_b)))
    agree = f"{n} of {n_a} and {n_b} pulses agree within {1e3 * tolerance_s:g} ms"
    where = f"at the best shift, {best.shift_s:.3f} s, {agree}"
    if n < least:
        raise MismatchError(f"{where}, expected at least {least}: these are not recordings of one line")
    if abs(best.drift) > MAX_DRIFT:
        found = f"the clocks would differ by {1e6 * best.drift:.0f} ppm, expected at most {1e6 * MAX_DRIFT:g}"
        raise MismatchError(f"{where}, but {found}")
    chance = _chance_log10(a, b, n, n_a, n_b, end - start, tolerance_s)
    if chance > MOST_CHANCE_LOG10:
        odds = f"probability 10^{chance:.1f}, expected below 10^{MOST_CHANCE_LOG10:g}"
        raise MismatchError(f"{where}, which unrelated lines may do by chance ({odds}): record longer")
    elsewhere = [len(o.pairs) for o in others if _differs(o, best, a, tolerance_s)]
    next_best = max([_next_best(mapped, b, tolerance_s), *elsewhere])
    if next_best > NEXT_BEST_SHARE * n:
        found = f"at another shift {min(next_best, n)} do, expected at most {int(NEXT_BEST_SHARE * n)}"
        why = "the line repeats itself, so nobody can say which pulse is which; share one with random intervals"
        raise MismatchError(f"{where}, but {found}: {why}")
    i, j = best.pairs.T
    origin_s, offset_s = float(a[i[0]]), float(mapped[i[0]])
    return Alignment(
        origin_s, offset_s, 1 + best.drift, best.pairs, b[j] - mapped[i], n_a, n_b, chance, next_best
    )  # fmt: skip


def _differs(one: _Fit, other: _Fit, a: Floats, tolerance_s: float) -> bool:
    middle = np.array([a.mean()])
    return bool(abs(one.to_b(middle) - other.to_b(middle))[0] > 4 * tolerance_s)


def _chance_log10(a: Floats, b: Floats, n: int, n_a: int, n_b: int, span_s: float, tolerance_s: float) -> float:
    """Upper bound of the probability that n of the fewer pulses find a partner somewhere, by Chernoff's bound.

    Pulses at random: one finds a partner within the tolerance with p = 2 tolerance x rate. All shifts and slopes that
    can be told apart count as tries.
    """
    tried = (np.ptp(a) + np.ptp(b)) / tolerance_s * (1 + 2 * MAX_DRIFT * span_s / tolerance_s)
    fewer, more = min(n_a, n_b), max(n_a, n_b)
    p = min(1.0, 2 * tolerance_s * more / max(span_s, tolerance_s))
    share = n / fewer
    if share <= p:
        return 0.0
    divergence = share * math.log(share / p) + ((1 - share) * math.log((1 - share) / (1 - p)) if share < 1 else 0.0)
    return min(0.0, math.log10(tried) - fewer * divergence / math.log(10))


def _next_best(mapped: Floats, b: Floats, tolerance_s: float) -> int:
    """Most pulses that agree at any other shift of up to 20 intervals, the slope being the best one's."""
    reach = 20
    nearest = _nearest_index(b, mapped)
    lags = np.arange(-reach, reach + 1)
    partner = nearest[:, None] + lags[None, :]
    inside = (partner >= 0) & (partner < len(b))
    shifts = (b[np.clip(partner, 0, len(b) - 1)] - mapped[:, None])[inside]
    shifts = shifts[np.abs(shifts) > 4 * tolerance_s]
    return _densest(shifts, 2 * tolerance_s)
