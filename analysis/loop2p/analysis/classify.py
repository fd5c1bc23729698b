"""Two classes told apart by a linear support vector machine, each sample by all the others (docs/experiment.md 3.9-10).

A fold knows nothing of the sample that is left out: mean, SD and SMOTE are those of the rest. On features that say
nothing, accuracy is still not 0.5: leaving a sample out makes its class the rarer one in the fold, and where classes
are unequal, the larger one is told more often in spite of SMOTE. So a figure is judged against `shuffled`, which goes
the same way, never against 0.5. Measured on 30 features of noise, accuracy and balanced accuracy: 8 + 8 samples .47
and .47, 5 + 12 .55 and .46, 3 + 20 .76 and .46 (standard errors .02).
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

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
    if features.ndim != 2 or labels.shape != features.shape[:1] or labels.dtype != bool:
        found = f"features {features.shape}, labels {labels.shape} {labels.dtype}"
        raise ValueError(f"{found}: expected (n_samples, n_features) and (n_samples,) bool")
    if not np.isfinite(features).all():
        sample, feature = np.argwhere(~np.isfinite(features))[0].tolist()
        raise ValueError(f"sample {sample}, feature {feature}: {features[sample, feature]}, expected a finite number")
    rng = np.random.default_rng(seed)
    n_true, n_false = int(labels.sum()), int((~labels).sum())
    if min(n_true, n_false) < LEAST_OF_CLASS or not (features != features[0]).any():
        return Decoded(np.nan, np.nan, np.full(len(labels), np.nan), n_true, n_false)
    seeds = rng.integers(2**31, size=len(labels)).tolist()
    # One thread, and no checks of what was just checked: the folds are small, the overhead is what takes the time.
    with threadpool_limits(1), config_context(assume_finite=True, skip_parameter_validation=True):
        confidence = np.array([_distance(features, labels, k, seed) for k, seed in enumerate(seeds)])
    told = (1 + np.sign(confidence) * np.where(labels, 1, -1)) / 2
    balanced = (told[labels].mean() + told[~labels].mean()) / 2
    return Decoded(float(told.mean()), float(balanced), confidence, n_true, n_false)


def shuffled(
    features: NDArray[np.float64], labels: NDArray[np.bool_], seed: int | np.random.Generator, n: int
) -> list[Decoded]:
    """Decode `n` times with labels given to samples at random, before the split, all else as in `leave_one_out`.

    Samples are moved rather than labels, which is the same; so a confidence stays with its label, and with whatever
    else the caller knows of the label's owner.
    """
    rng = np.random.default_rng(seed)
    return [leave_one_out(rng.permutation(features), labels, rng) for _ in range(n)]


def evened(
    features: NDArray[np.float64], labels: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """SMOTE (Chawla et al. 2002): samples of the rarer class are made up until both are equal, and put at the end.

    Each lies at random between a sample and one of its NEIGHBOURS nearest of the class. As imbalanced-learn does it,
    which is the reference in the tests; its checks take as long as all else in a fold together (measured: 3.0 ms of
    CPU against 0.1-0.4 ms here). `features` (n_samples, n_features), at least two samples of the rarer class.
    """
    rarer = labels if 2 * labels.sum() <= len(labels) else ~labels
    own, n_missing = features[rarer], len(labels) - 2 * int(rarer.sum())
    if not n_missing:
        return features, labels
    squares = (own**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * own @ own.T
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1)[:, : min(NEIGHBOURS, len(own) - 1)]
    of = rng.integers(len(own), size=n_missing)
    towards = near[of, rng.integers(near.shape[1], size=n_missing)]
    made = own[of] + rng.random((n_missing, 1)) * (own[towards] - own[of])
    return np.concatenate([features, made]), np.append(labels, np.full(n_missing, labels[rarer][0]))


def _distance(features: NDArray[np.float64], labels: NDArray[np.bool_], left_out: int, seed: int) -> float:
    """Of one sample to the hyperplane between the others."""
    rest, known = np.delete(features, left_out, axis=0), np.delete(labels, left_out)
    varies = (rest != rest[0]).any(axis=0)
    if not varies.any():
        return 0.0
    rest = rest[:, varies]
    mean, sd = rest.mean(axis=0), rest.std(axis=0)
    rest = (rest - mean) / sd
    rest, known = evened(rest, known, np.random.default_rng(seed))
    # The products are taken here, by BLAS: a quarter less time than libsvm needs for its own (measured).
    machine = SVC(kernel="precomputed", C=COST / rest.shape[1]).fit(rest @ rest.T, known)
    normal = machine.dual_coef_[0] @ rest[machine.support_]
    x = (features[left_out, varies] - mean) / sd
    return float((x @ normal + machine.intercept_[0]) / np.linalg.norm(normal))
