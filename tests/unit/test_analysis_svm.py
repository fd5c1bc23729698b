"""The compiled support vector machine against scikit-learn's, and its SMOTE against imbalanced-learn's."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import SMOTE
from sklearn.svm import SVC

from loop2p.analysis.svm import TOLERANCE, distances, even, solve

NEIGHBOURS = 5


def data_set(kind: str, n: int, n_features: int, seed: int) -> np.ndarray:
    """(n, n_features); "counts" are whole numbers, many of them 0: samples twice, features that do not vary."""
    rng = np.random.default_rng(seed)
    if kind == "counts":
        return rng.poisson(0.2, (n, n_features)).astype(float)
    if kind == "twins":
        return np.repeat(rng.standard_normal((n // 2 + 1, n_features)), 2, axis=0)[:n]
    return rng.standard_normal((n, n_features))


def hyperplane(x: np.ndarray, y: np.ndarray, cost: float, tolerance: float) -> tuple[np.ndarray, float, np.ndarray]:
    """Normal, bias and weights."""
    weight, slack = np.empty(len(y)), np.empty(len(y))
    bias = solve(x @ x.T, y, cost, weight, slack, tolerance, 10**7)
    assert np.allclose(slack, y - x @ (weight @ x), atol=1e-5)
    return weight @ x, bias, weight


def loss(x: np.ndarray, y: np.ndarray, cost: float, normal: np.ndarray, bias: float) -> float:
    """What a support vector machine minimises."""
    return float(normal @ normal / 2 + cost * np.maximum(0, 1 - y * (x @ normal + bias)).sum())


SETS = {
    "kind": st.sampled_from(["normal", "counts", "twins"]),
    "n": st.integers(4, 40),
    "n_features": st.integers(1, 40),
    "n_true": st.integers(2, 38),
    "cost": st.sampled_from([0.003, 0.03, 0.3, 3.0]),
    "seed": st.integers(0, 10**6),
}


@settings(max_examples=200)
@given(**SETS)
def test_the_hyperplane_is_that_of_scikit_learn(kind, n, n_features, n_true, cost, seed):
    x = data_set(kind, n, n_features, seed)
    y = np.where(np.random.default_rng([seed, 1]).permutation(n) < min(n_true, n - 2), 1.0, -1.0)
    normal, bias, weight = hyperplane(x, y, cost, 1e-8)
    theirs = SVC(kernel="linear", C=cost, tol=1e-6).fit(x, y)  # its products are of single precision
    assert normal == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert loss(x, y, cost, normal, bias) <= loss(x, y, cost, theirs.coef_[0], theirs.intercept_[0]) * (1 + 1e-7)
    # No hyperplane is better: what its weights are worth in the dual is the least loss there can be.
    assert abs(weight.sum()) < 1e-9
    assert (weight * y >= 0).all()
    assert (weight * y <= cost).all()
    # Each margin may be off by the tolerance, and counts by its weight.
    least = np.abs(weight).sum() - normal @ normal / 2
    assert loss(x, y, cost, normal, bias) == pytest.approx(least, rel=1e-6, abs=1e-8 * n * cost)


def fold_by_hand(features, signs, draws, cost, left_out) -> float:
    """The same fold on features instead of products: SMOTE by sorting, then scikit-learn."""
    rest, y = np.delete(features, left_out, axis=0), np.delete(signs, left_out)
    varies = (rest != rest[0]).any(axis=0)
    mean, sd = rest[:, varies].mean(axis=0), rest[:, varies].std(axis=0)
    rest = (rest[:, varies] - mean) / sd
    rarer = 1.0 if y.sum() <= 0 else -1.0
    own = rest[y == rarer]
    made = []
    for which, neighbour, share in draws[: int(abs(y.sum()))].astype(float):
        one = int(which * len(own))
        apart = np.linalg.norm(own - own[one], axis=1)
        apart[one] = np.inf
        near = np.argsort(apart, kind="stable")[int(neighbour * min(NEIGHBOURS, len(own) - 1))]
        made.append(own[one] + share * (own[near] - own[one]))
    rest, y = np.concatenate([rest, np.reshape(made, (-1, rest.shape[1]))]), np.append(y, [rarer] * len(made))
    machine = SVC(kernel="linear", C=cost / rest.shape[1], tol=1e-5).fit(rest, y)
    x = (features[left_out, varies] - mean) / sd
    return float((x @ machine.coef_[0] + machine.intercept_[0]) / np.linalg.norm(machine.coef_[0]))


@pytest.mark.parametrize(
    ("kind", "n_true", "n_false", "n_features"),
    [
        ("normal", 15, 15, 40),
        ("normal", 6, 20, 10),
        ("counts", 20, 16, 60),
        ("normal", 30, 8, 100),
        ("normal", 3, 3, 5),
    ],
)
def test_a_fold_is_that_of_scikit_learn_on_the_samples_themselves(kind, n_true, n_false, n_features):
    rng = np.random.default_rng(n_features)
    signs = rng.permutation(np.repeat([1.0, -1.0], [n_true, n_false]))
    # what would tie two neighbours at one distance, by which the order of sums would choose, is moved a little
    features = data_set(kind, len(signs), n_features, 1) + 1e-3 * rng.standard_normal((len(signs), n_features))
    features[:, 2], features[1:, 3] = 7.0, 0.1  # one does not vary, one varies in all folds but one
    draws = rng.random((abs(n_true - n_false) + 1, 3, 1, len(signs)), np.float32)
    found = distances(features, signs[None], draws, 1.0, NEIGHBOURS)[0]
    expected = [fold_by_hand(features, signs, draws[:, :, 0, k], 1.0, k) for k in range(len(signs))]
    print(f"largest difference {np.abs(found - expected).max():.1e} SD")
    assert found == pytest.approx(np.array(expected), abs=10 * TOLERANCE)


def test_runs_that_share_folds_are_what_each_is_alone():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((20, 30))
    signs = np.array([rng.permutation(np.repeat([1.0, -1.0], [8, 12])) for _ in range(3)])
    draws = rng.random((5, 3, 3, 20), np.float32)
    together = distances(features, signs, draws, 1.0, NEIGHBOURS)
    for run in range(3):
        alone = distances(features, signs[[run]], draws[:, :, [run]], 1.0, NEIGHBOURS)
        assert np.array_equal(alone[0], together[run])


def test_samples_that_nothing_tells_apart_have_no_side():
    """Each one is there twice, once in each class."""
    features = np.repeat(np.random.default_rng(0).standard_normal((6, 1)), 2, axis=0)
    features = np.tile(features, (1, 3))
    y = np.tile([1.0, -1.0], 6)
    normal, _, _ = hyperplane(features, y, 1.0, 1e-8)
    assert np.abs(normal).max() < 1e-6
    features[0] = features[1] = 0.0
    y = np.append(y, 1.0)  # without it, classes are equal and alike
    features = np.concatenate([features, [[9.0, 9.0, 9.0]]])
    draws = np.zeros((2, 3, 1, 13), np.float32)
    assert distances(features, y[None], draws, 1.0, NEIGHBOURS)[0, 12] == 0


def test_too_few_steps_or_samples_are_said():
    x = np.random.default_rng(0).standard_normal((20, 5))
    y = np.repeat([1.0, -1.0], 10)
    with pytest.raises(ArithmeticError, match="no hyperplane after the most steps"):
        solve(x @ x.T, y, 1.0, np.empty(20), np.empty(20), 1e-8, 3)
    with pytest.raises(ValueError, match="fewer than two samples of a class"):
        distances(x[:4], np.array([[1.0, 1, 1, -1]]), np.zeros((3, 3, 1, 4), np.float32), 1.0, NEIGHBOURS)


BITS = """
import numpy as np
from loop2p.analysis.classify import shuffled
features = np.random.default_rng(0).standard_normal((15, 20))
bits = [run.confidence.tobytes().hex() for run in shuffled(features, np.arange(15) < 6, 1, 2)]
"""


def test_another_process_finds_the_same_bits():
    here: dict[str, list[str]] = {}
    exec(BITS, here)
    there = subprocess.run([sys.executable, "-c", BITS + "print(bits)"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here["bits"])


def evened(features: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n_made, n_features): samples that SMOTE makes up, found again from their products with the others."""
    n = len(labels)
    n_made = abs(n - 2 * int(labels.sum()))
    gram, y = np.zeros((n + n_made, n + n_made)), np.append(np.where(labels, 1.0, -1.0), np.zeros(n_made))
    gram[:n, :n] = features @ features.T
    assert even(gram, y, n, rng.random((n_made, 3), np.float32), NEIGHBOURS) == n + n_made
    assert y.sum() == 0
    made = np.linalg.lstsq(features, gram[:n, n:])[0].T
    every = np.concatenate([features, made])
    assert gram == pytest.approx(every @ every.T, abs=1e-6)
    return made


@pytest.mark.parametrize("n_true", [2, 6, 44])
def test_made_up_samples_lie_between_a_sample_and_a_near_one_of_the_rarer_class(n_true):
    rng = np.random.default_rng(n_true)
    features, labels = rng.standard_normal((50, 8)), rng.permutation(50) < n_true
    own = features[labels == (n_true < 25)]
    apart = np.linalg.norm(own[:, None] - own, axis=2)
    near = np.argsort(apart, axis=1)[:, 1 : NEIGHBOURS + 1]
    used = set()
    for made in evened(features, labels, rng):
        to_ends = np.linalg.norm(made - own, axis=1)
        detour = to_ends[:, None] + to_ends - apart  # 0 for the two it lies between
        one, other = np.unravel_index(np.argmin(detour + np.eye(len(own))), detour.shape)
        assert detour[one, other] < 1e-9
        assert other in near[one] or one in near[other]
        used |= {one, other}
    assert len(used) > min(len(own), 5) / 2


def test_made_up_samples_have_the_mean_and_spread_of_those_of_imbalanced_learn():
    """500 from 9 samples, whose means differ by less than four standard errors."""
    features = np.random.default_rng(0).standard_normal((518, 4))
    labels = np.arange(518) < 9
    ours = evened(features, labels, np.random.default_rng(0))
    theirs = SMOTE(k_neighbors=NEIGHBOURS, random_state=0).fit_resample(features, labels)[0][518:]
    assert ours.shape == theirs.shape == (500, 4)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * theirs.std(axis=0) * np.sqrt(2 / 500)).all()
    assert ours.std(axis=0) == pytest.approx(theirs.std(axis=0), rel=0.15)


def test_equal_classes_get_no_made_up_samples():
    assert len(evened(np.eye(10), np.arange(10) < 5, np.random.default_rng(0))) == 0
