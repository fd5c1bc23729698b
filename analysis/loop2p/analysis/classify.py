"""Two classes told apart by a linear support vector machine, each sample by all the others (docs/experiment.md 3.9-10).

A fold knows nothing of the sample that is left out: mean, SD and SMOTE are those of the rest. On features that say
nothing, accuracy is still not 0.5: leaving a sample out makes its class the rarer one in the fold, and where classes
are unequal, the larger one is told more often in spite of SMOTE. So a figure is judged against `shuffled`, which goes
the same way, never against 0.5. Measured on 30 features of noise, accuracy and balanced accuracy: 8 + 8 samples .47
and .47, 5 + 12 .55 and .46, 3 + 20 .76 and .46 (standard errors .02).
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loop2p.analysis import svm

LEAST_OF_CLASS = 3
"""With fewer there is no result: a fold would hold a single sample, which has no neighbour to interpolate to."""
NEIGHBOURS = 5
"""Of SMOTE (Methods; 3.9); all others of the class where it has fewer."""
COST = 1.0
"""Of a sample inside the margin, for a sample of mean squared length 1: C = COST / number of features, on features in
units of their SD. The paper gives none; MATLAB's fitclinear, which it used, takes C = 1 by default (lambda = 1 / n)
on features as they are. The division keeps the strictness the same for 10 neurons and for 300."""


class Decoded(Struct, frozen=True):
    """What leave-one-out says of one set of samples. NaN throughout where there is no result."""

    accuracy: float
    """Share of samples whose class was told; one on the hyperplane is half told."""
    balanced: float
    """Mean of the shares of both classes."""
    confidence: NDArray[np.float64]
    """(n_samples,) signed distance to the hyperplane of the fold that left the sample out, in SDs of a feature; > 0
    for true."""
    n_true: int
    n_false: int


def leave_one_out(features: NDArray[np.float64], labels: NDArray[np.bool_], seed: int | np.random.Generator) -> Decoded:
    """Decode `labels` (n_samples,) from `features` (n_samples, n_features).

    No result with fewer than LEAST_OF_CLASS of a class, or where no feature varies. `seed` is for SMOTE, which makes
    up samples of the rarer class in folds whose classes are unequal. Raises ValueError for shapes that do not fit and
    for values that are not finite.
    """
    return _decoded(features, labels, [np.arange(len(labels))], np.random.default_rng(seed))[0]


def shuffled(
    features: NDArray[np.float64], labels: NDArray[np.bool_], seed: int | np.random.Generator, n: int
) -> list[Decoded]:
    """Decode `n` times with labels given to samples at random, before the split, all else as in `leave_one_out`.

    Samples are moved rather than labels, which is the same; so a confidence stays with its label, and with whatever
    else the caller knows of the label's owner.
    """
    rng = np.random.default_rng(seed)
    return _decoded(features, labels, [rng.permutation(len(labels)) for _ in range(n)], rng)


def with_shuffles(
    features: NDArray[np.float64], labels: NDArray[np.bool_], seed: int | np.random.Generator, n: int
) -> tuple[Decoded, list[Decoded]]:
    """`leave_one_out` and `n` times `shuffled` in one go: a fifth faster for n = 19 (measured)."""
    rng = np.random.default_rng(seed)
    orders = [np.arange(len(labels)), *(rng.permutation(len(labels)) for _ in range(n))]
    data, *chance = _decoded(features, labels, orders, rng)
    return data, chance


def _decoded(
    features: NDArray[np.float64],
    labels: NDArray[np.bool_],
    orders: Sequence[NDArray[np.int64]],
    rng: np.random.Generator,
) -> list[Decoded]:
    """One for each order of the samples (n_samples,), which are then of the classes `labels`, first to last."""
    if features.ndim != 2 or labels.shape != features.shape[:1] or labels.dtype != bool:
        found = f"features {features.shape}, labels {labels.shape} {labels.dtype}"
        raise ValueError(f"{found}: expected (n_samples, n_features) and (n_samples,) bool")
    if not np.isfinite(features).all():
        sample, feature = np.argwhere(~np.isfinite(features))[0].tolist()
        raise ValueError(f"sample {sample}, feature {feature}: {features[sample, feature]}, expected a finite number")
    n_true, n_false = int(labels.sum()), int((~labels).sum())
    if min(n_true, n_false) < LEAST_OF_CLASS or not (features != features[0]).any():
        none = Decoded(np.nan, np.nan, np.full(len(labels), np.nan), n_true, n_false)
        return [none] * len(orders)
    sign = np.where(labels, 1.0, -1.0)
    signs = np.empty((len(orders), len(labels)))
    for row, order in zip(signs, orders, strict=True):
        row[order] = sign
    # For the most that a fold may miss; the rows of those made up come first, so that a fold's first ones are the
    # same numbers however many there are.
    draws = rng.random((abs(n_true - n_false) + 1, 3, *signs.shape), np.float32)
    distances = svm.distances(np.ascontiguousarray(features, float), signs, draws, COST, NEIGHBOURS)
    return [_judged(row[order], labels) for row, order in zip(distances, orders, strict=True)]


def _judged(confidence: NDArray[np.float64], labels: NDArray[np.bool_]) -> Decoded:
    told = (1 + np.sign(confidence) * np.where(labels, 1, -1)) / 2
    balanced = (told[labels].mean() + told[~labels].mean()) / 2
    return Decoded(float(told.mean()), float(balanced), confidence, int(labels.sum()), int((~labels).sum()))
