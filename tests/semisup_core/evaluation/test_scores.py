"""Scores against the formulas they are named after, and against hand-counted cases."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from semisup_core.evaluation.maps import pca_map, tsne_map
from semisup_core.evaluation.scores import (
    balanced_accuracy,
    class_scores,
    confusion,
    most_confused,
    wilson_interval,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 0, 1])


@pytest.mark.parametrize("right, images", [(0, 10), (7, 10), (391, 400), (50, 50)])
def test_interval_is_wilsons_formula(right, images):
    z, p = 1.959964, right / images
    middle = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(p * (1 - p) / images + z**2 / (4 * images**2))
    assert wilson_interval(right, images) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_class_scores_by_hand():
    scores = class_scores(LABELS, PREDICTED, 4)
    assert scores.recall.tolist() == [0.5, 0.5, 0.0, 0.0] and scores.images.tolist() == [4, 2, 1, 0]
    assert scores.precision.tolist() == [pytest.approx(2 / 3), 0.25, 0.0, 0.0]
    assert scores.f1[0] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_balanced_accuracy_is_scikit_learns_without_a_class_that_has_no_image():
    assert balanced_accuracy(LABELS, PREDICTED, 4) == pytest.approx(balanced_accuracy_score(LABELS, PREDICTED))
    assert balanced_accuracy(LABELS, PREDICTED, 4) == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_confusion_and_its_largest_errors():
    counts = confusion(LABELS, PREDICTED, 4)
    assert counts.tolist() == [[2, 2, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert most_confused(counts, 2) == [(0, 1, 2), (1, 0, 1)]
    assert most_confused(counts, 9) == [(0, 1, 2), (1, 0, 1), (2, 1, 1)]
    assert counts.trace() == 3  # left as it was


def test_maps_are_seeded_and_keep_clusters_apart():
    rng = np.random.default_rng(0)
    features = np.concatenate([np.eye(6)[i] + 0.05 * rng.normal(size=(20, 6)) for i in (0, 1)]).astype(np.float32)
    for points in (pca_map(features), tsne_map(features, seed=3)):
        one, two = points[:20], points[20:]
        within = max(np.linalg.norm(part - part.mean(axis=0), axis=1).max() for part in (one, two))
        assert points.shape == (40, 2) and np.linalg.norm(one.mean(axis=0) - two.mean(axis=0)) > within
    assert np.array_equal(tsne_map(features, seed=3), tsne_map(features, seed=3))
