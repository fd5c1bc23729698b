"""The leave-one-out decoder: what it finds, what it must not see, when it says nothing."""

import numpy as np
import pytest

from loop2p.analysis.classify import LEAST_OF_CLASS, leave_one_out, shuffled, with_shuffles


def two_classes(n_true: int, n_false: int, n_features: int = 20, apart: float = 0.0, seed: int = 0):
    """Normal features; the first three are `apart` SD further in class true."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_true + n_false) < n_true)
    features = rng.standard_normal((len(labels), n_features))
    features[:, :3] += apart * labels[:, None]
    return features, labels


def test_classes_that_lie_apart_are_told_apart_and_shuffled_ones_are_not():
    features, labels = two_classes(15, 15, apart=3)
    found = leave_one_out(features, labels, 1)
    assert found.accuracy > 0.9
    assert (found.n_true, found.n_false) == (15, 15)
    assert np.mean(found.confidence[labels]) > 1 > -1 > np.mean(found.confidence[~labels])
    assert 0.3 < np.mean([s.accuracy for s in shuffled(features, labels, 1, 3)]) < 0.7


def test_confidence_is_the_distance_to_the_hyperplane_in_sds():
    """Two narrow clouds at 0 and 10: the boundary is at 5, the SD about 5, so each sample is one SD away."""
    labels = np.arange(40) % 2 == 1
    x = 10.0 * labels + np.random.default_rng(0).uniform(-0.1, 0.1, 40)
    confidence = leave_one_out(x[:, None], labels, 0).confidence
    assert np.allclose(confidence, np.where(labels, 1, -1), atol=0.1)


def test_units_and_offsets_of_features_do_not_matter():
    features, labels = two_classes(12, 20, apart=1)
    scale = np.geomspace(1e-3, 1e3, features.shape[1])
    one, other = leave_one_out(features, labels, 1), leave_one_out(features * scale + 7 * scale, labels, 1)
    assert np.allclose(one.confidence, other.confidence, atol=1e-2)


@pytest.mark.parametrize(("n_true", "n_false"), [(6, 6), (4, 9)])
def test_the_fold_knows_neither_class_nor_features_of_the_sample_left_out(n_true, n_false):
    features, labels = two_classes(n_true, n_false, apart=1)
    confidence = leave_one_out(features, labels, 1).confidence
    for k in range(len(labels)):
        turned = labels.copy()
        turned[k] = ~turned[k]
        assert leave_one_out(features, turned, 1).confidence[k] == confidence[k]
    # Moved along a line, the sample goes along a line: the hyperplane stays where it is.
    step = np.zeros_like(features)
    step[3] = 100.0
    moved = [leave_one_out(features + times * step, labels, 1).confidence for times in (0, 1, 2)]
    assert moved[2][3] - moved[1][3] == pytest.approx(moved[1][3] - moved[0][3])
    assert moved[1][4] != moved[0][4]  # while the others' folds see it


def test_the_rarer_class_is_not_given_up():
    """SMOTE: 6 against 30 with a signal that a majority vote would ignore."""
    found = leave_one_out(*two_classes(6, 30, apart=2), 1)
    assert found.balanced > 0.75


def test_the_same_seed_gives_the_same_and_the_seed_matters_only_to_unequal_classes():
    unequal = two_classes(6, 15)
    one, same, other = (leave_one_out(*unequal, seed).confidence for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_few_of_a_class_or_features_that_do_not_vary_give_no_result():
    for features, labels in (
        two_classes(LEAST_OF_CLASS - 1, 20),
        two_classes(20, LEAST_OF_CLASS - 1),
        (np.ones((10, 3)), np.arange(10) < 5),
        (np.ones((10, 0)), np.arange(10) < 5),
        (np.ones((0, 3)), np.zeros(0, bool)),
    ):
        found = leave_one_out(features, labels, 0)
        assert np.isnan([found.accuracy, found.balanced]).all()
        assert np.isnan(found.confidence).all()
        assert found.confidence.shape == labels.shape
        assert np.isnan(shuffled(features, labels, 0, 1)[0].accuracy)
    assert np.isfinite(leave_one_out(*two_classes(LEAST_OF_CLASS, 20), 0).accuracy)


def test_a_fold_in_which_nothing_varies_is_half_told():
    """One sample alone is different; the fold without it has nothing to go by."""
    features, labels = np.zeros((10, 2)), np.arange(10) < 5
    features[0, 0] = 1.0
    assert leave_one_out(features, labels, 0).confidence[0] == 0


def test_what_cannot_be_decoded_is_refused_by_name():
    with pytest.raises(ValueError, match=r"features \(5, 2\), labels \(4,\) bool: expected"):
        leave_one_out(np.zeros((5, 2)), np.ones(4, bool), 0)
    with pytest.raises(ValueError, match=r"labels \(5,\) int64"):
        leave_one_out(np.zeros((5, 2)), np.ones(5, np.int64), 0)
    features, labels = two_classes(5, 5)
    features[3, 2] = np.nan
    with pytest.raises(ValueError, match="sample 3, feature 2: nan, expected a finite number"):
        leave_one_out(features, labels, 0)


def test_a_shuffle_moves_samples_and_keeps_the_classes():
    features, labels = two_classes(6, 12)
    runs = shuffled(features, labels, 1, 3)
    assert [(run.n_true, run.n_false) for run in runs] == [(6, 12)] * 3
    assert len({run.confidence.tobytes() for run in runs}) == 3
    assert np.array_equal(shuffled(features, labels, 1, 3)[2].confidence, runs[2].confidence)


def test_data_and_shuffles_in_one_go_are_decoded_as_they_are_apart():
    """Equal but for what SMOTE makes up, which is drawn for all at once: of 8 and 9 samples next to nothing."""
    features, labels = two_classes(8, 9, apart=1)
    data, chance = with_shuffles(features, labels, 1, 3)
    assert np.corrcoef(data.confidence, leave_one_out(features, labels, 1).confidence)[0, 1] > 0.98
    assert len({run.confidence.tobytes() for run in (data, *chance)}) == 4
    assert data.accuracy > np.mean([run.accuracy for run in chance])


def test_shuffled_labels_are_decoded_as_those_labels_would_be():
    """Shuffles by hand: samples are moved, labels stay; classes so large that what SMOTE draws hardly matters."""
    features, labels = two_classes(30, 30, apart=1)
    rng = np.random.default_rng(1)
    by_hand = [leave_one_out(features[rng.permutation(60)], labels, 2).confidence for _ in range(2)]
    found = [run.confidence for run in shuffled(features, labels, 1, 2)]
    r = np.corrcoef([*found, *by_hand])[:2, 2:]
    assert np.diag(r).min() > 0.95
    assert max(r[0, 1], r[1, 0]) < 0.5
