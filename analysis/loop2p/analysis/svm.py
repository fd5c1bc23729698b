"""The linear support vector machine of `classify`, compiled: every fold of every run of labels in one call.

Why our own: a neuron of 100 events takes 2,000 folds, and the reference in the tests, scikit-learn's SVC, spends most
of a small fold outside libsvm. Measured, 100 samples x 300 features, equal classes (and 30 to 70), one core: 1.2 ms
(1.5 ms) a fold with it; here 0.21 ms (0.30 ms), and 0.035 ms (0.13 ms) where 20 runs share the fold, because labels
that are shuffled leave the products of its samples as they are.

What is minimised is |normal|^2 / 2 + cost x sum of max(0, 1 - y (normal x sample + bias)), the bias free of penalty. It
is solved in its dual by sequential minimal optimisation, two weights a step, chosen by second-order information: Fan,
Chen & Lin 2005 (J Mach Learn Res 6:1889), WSS 2; re-implemented from the paper. Only products of samples are needed,
and those of a sample that SMOTE made up between two others follow from theirs: so features are looked at once a fold.
No BLAS: its threads cost more than they gain on matrices so small, and sums keep one order on every machine.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TOLERANCE = 1e-4
"""Of the margins, which are 1 (libsvm: 1e-3). Distances to the hyperplane are about as exact as that, in SDs: 1e-3 in
the worst of 60 folds of 100 samples, 30 of one class, where libsvm's would be off by 3e-3 (measured)."""
MOST_STEPS = 1_000_000
"""Of one hyperplane. 100 samples take some 100."""
FLAT = 1e-12
"""Least squared distance of two samples, so that a step between equal ones is long and not infinite."""


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def distances(features: Floats, signs: Floats, draws: NDArray[np.float32], cost: float, neighbours: int) -> Floats:
    """(n_runs, n_samples) signed distance of each sample to the hyperplane of the fold that leaves it out.

    In SDs of a feature, > 0 on the side of sign 1. `features` (n_samples, n_features), in any unit: a fold takes mean
    and SD of its own samples. `signs` (n_runs, n_samples): classes, 1 or -1. `draws` (n_made, 3, n_runs, n_samples):
    numbers from 0 to below 1 for the samples that SMOTE makes up, at least as many as are missing in the rarer class
    of a fold. `cost`: of a sample inside the margin, divided by the number of features that vary in the fold. 0 for a
    fold in which none does, or in which nothing tells the classes apart. Raises ArithmeticError for one that MOST_STEPS
    do not solve.
    """
    n_runs, n = signs.shape
    most = n + draws.shape[0]
    z, gram, y = np.empty((features.shape[1] + 3, n)), np.empty((most, most)), np.empty(most)
    found = np.zeros((n_runs, n))
    for k in range(n):
        n_used = _standardise(features, k, z)
        if n_used == 0:
            continue
        _products(z, n_used, gram)
        for run in range(n_runs):
            y[:n] = signs[run]
            y[k] = 0.0
            size = even(gram, y, n, draws[:, :, run, k], neighbours)
            found[run, k] = _distance(gram, y[:size], cost / n_used, k)
    return found


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _standardise(features: Floats, left_out: int, z: Floats) -> int:
    """Write to `z` the features that vary in a fold, in SDs from their mean, then three of 0s; return how many vary.

    `z` (n_features + 3, n_samples). The sample that is left out is there too, but mean and SD are those of the others.
    """
    n, n_features = features.shape
    mean, squares, varies = np.zeros(n_features), np.zeros(n_features), np.zeros(n_features, np.bool_)
    first = 1 if left_out == 0 else 0
    for s in range(n):
        if s != left_out:
            for f in range(n_features):
                mean[f] += features[s, f]
                varies[f] |= features[s, f] != features[first, f]
    mean /= n - 1
    for s in range(n):
        if s != left_out:
            for f in range(n_features):
                squares[f] += (features[s, f] - mean[f]) ** 2
    n_used = 0
    for f in range(n_features):
        sd = np.sqrt(squares[f] / (n - 1))
        if varies[f] and sd > 0:
            for s in range(n):
                z[n_used, s] = (features[s, f] - mean[f]) / sd
            n_used += 1
    z[n_used : n_used + 3] = 0.0
    return n_used


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _products(z: Floats, n_used: int, gram: Floats) -> None:
    """Write z.T @ z, of `n_used` features and the 0s behind, to the first rows and columns of `gram`.

    Four features at a time: two thirds of the time of one at a time (measured).
    """
    n = z.shape[1]
    gram[:n, :n] = 0.0
    for f in range(0, n_used, 4):
        for s in range(n):
            a, b, c, d = z[f, s], z[f + 1, s], z[f + 2, s], z[f + 3, s]
            for t in range(s + 1):
                gram[s, t] += a * z[f, t] + b * z[f + 1, t] + c * z[f + 2, t] + d * z[f + 3, t]
    for s in range(n):
        for t in range(s):
            gram[t, s] = gram[s, t]


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def even(gram: Floats, y: Floats, n: int, draws: NDArray[np.float32], neighbours: int) -> int:
    """SMOTE (Chawla et al. 2002): make up samples of the rarer class until both are equal; return how many there are.

    Each lies at random between a sample and one of its nearest `neighbours` of the class. `gram` (most, most) holds the
    products of the first `n`, `y` (most,) their classes, 1, -1 or 0 for one that does not count. The products and
    classes of those made up are written behind. `draws` (most - n, 3): which sample, which neighbour, how far.
    """
    surplus = 0
    for t in range(n):
        surplus += int(y[t])
    rarer = 1.0 if surplus <= 0 else -1.0
    own = np.flatnonzero(y[:n] == rarer)
    if surplus != 0 and (own.size < 2 or draws.shape[0] < abs(surplus)):
        raise ValueError("fewer than two samples of a class, or fewer draws than samples to be made up")
    near, apart = np.empty(neighbours, np.int64), np.empty(neighbours)
    for made in range(abs(surplus)):
        one = own[int(draws[made, 0] * own.size)]
        rank = int(draws[made, 1] * min(neighbours, own.size - 1))
        share = draws[made, 2]
        apart[: rank + 1] = np.inf  # the nearest so far, the farthest of them last
        for other in own:
            square = gram[one, one] + gram[other, other] - 2 * gram[one, other]
            if other == one or square >= apart[rank]:
                continue
            place = rank
            while place > 0 and apart[place - 1] > square:
                near[place], apart[place] = near[place - 1], apart[place - 1]
                place -= 1
            near[place], apart[place] = other, square
        new, other = n + made, near[rank]
        y[new] = rarer
        for t in range(new):
            gram[new, t] = gram[t, new] = gram[one, t] + share * (gram[other, t] - gram[one, t])
        gram[new, new] = gram[one, new] + share * (gram[other, new] - gram[one, new])
    return n + abs(surplus)


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _distance(gram: Floats, y: Floats, cost: float, of: int) -> float:
    """Signed distance of sample `of` to the hyperplane between classes `y`."""
    weight, slack = np.empty(y.size), np.empty(y.size)
    bias = solve(gram, y, cost, weight, slack, TOLERANCE, MOST_STEPS)
    square, total = 0.0, 0.0
    for t in range(y.size):
        square += weight[t] * (y[t] - slack[t])
        total += abs(weight[t])
    if square <= TOLERANCE * total:  # no normal
        return 0.0
    return float((bias + y[of] - slack[of]) / np.sqrt(square))


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def solve(
    gram: Floats, y: Floats, cost: float, weight: Floats, slack: Floats, tolerance: float, most_steps: int
) -> float:
    """Write each sample's `weight`, so that the normal is the sum of weight x sample; return the bias.

    `y` (n,) classes: 1, -1, or 0 for a sample that takes no part; both must be there. `gram` (at least n, n) products.
    `weight` (n,) is alpha x y of the paper: from 0 to cost x y, its sum 0. `slack` (n,) becomes y - normal x sample,
    which is -y x gradient there: two samples improve as long as the one whose weight may rise has `tolerance` more of
    it than the one whose weight may fall. Raises ArithmeticError after `most_steps`.
    """
    n = y.size
    low, high, no_rise, no_fall, square, gain = np.empty((6, n))
    n_plus, n_minus = 0, 0
    for t in range(n):
        low[t], high[t], square[t] = min(0.0, cost * y[t]), max(0.0, cost * y[t]), gram[t, t]
        n_plus += y[t] > 0
        n_minus += y[t] < 0
    # Most weights end at their limit, so they begin there, if that makes a sum of 0: a third fewer steps (measured).
    for t in range(n):
        weight[t] = high[t] * min(1.0, n_minus / n_plus) + low[t] * min(1.0, n_plus / n_minus)
        slack[t] = y[t]
    for s in range(n):
        for t in range(n):
            slack[t] -= weight[s] * gram[s, t]
    # Infinite where a weight may not rise or fall: to add is faster than to ask (by a third, measured).
    for t in range(n):
        no_rise[t] = 0.0 if weight[t] < high[t] else -np.inf
        no_fall[t] = 0.0 if weight[t] > low[t] else np.inf
    for _ in range(most_steps):
        up, top = 0, -np.inf
        for t in range(n):
            if slack[t] + no_rise[t] > top:
                up, top = t, slack[t] + no_rise[t]
        for t in range(n):
            more = max(top - (slack[t] + no_fall[t]), 0.0)
            gain[t] = more * more / max(square[up] + square[t] - 2 * gram[up, t], FLAT)
        down = _largest(gain)
        if top - (slack[down] + no_fall[down]) < tolerance:
            bottom = np.inf
            for t in range(n):
                bottom = min(bottom, slack[t] + no_fall[t])
            if top - bottom < tolerance:
                break
        rises, falls = high[up] - weight[up], weight[down] - low[down]
        step = (top - slack[down]) / max(square[up] + square[down] - 2 * gram[up, down], FLAT)
        step = min(step, rises, falls)
        weight[up] = high[up] if step == rises else weight[up] + step
        weight[down] = low[down] if step == falls else weight[down] - step
        for t in (up, down):
            no_rise[t] = 0.0 if weight[t] < high[t] else -np.inf
            no_fall[t] = 0.0 if weight[t] > low[t] else np.inf
        for t in range(n):
            slack[t] -= step * (gram[up, t] - gram[down, t])
    else:
        raise ArithmeticError("no hyperplane after the most steps that are allowed")
    # On the margin, where a weight is between its limits, the slack is the bias.
    n_free, total = 0, 0.0
    for t in range(n):
        if low[t] < weight[t] < high[t]:
            n_free += 1
            total += slack[t]
    return total / n_free if n_free else (top + bottom) / 2


@njit(cache=True)  # type: ignore[untyped-decorator]
def _largest(values: Floats) -> int:
    """Index of the largest of values that are not below 0: whose bits are whole numbers of the same order.

    The largest of whole numbers is found in a vector's width at once, that of floats is not (a third of all time).
    """
    bits = values.view(np.int64)
    most = np.int64(0)
    for t in range(bits.size):
        most = max(most, bits[t])
    at = 0
    while bits[at] != most:
        at += 1
    return at
