"""Protocols against literal loops and scikit-learn."""

from collections import Counter

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from semisup_core.evaluation import knn
from semisup_core.evaluation.embed import Embedder, pixels
from semisup_core.evaluation.protocols import DESCRIPTIONS, measure


def clusters(rows, classes=3, width=6, spread=0.8, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = rng.integers(0, classes, rows)
    return (centres[labels] + spread * rng.normal(size=(rows, width))).astype(np.float32), labels


def test_knn_is_a_plain_vote_of_the_most_cosine_similar():
    bank, labels = clusters(80)
    queries, _ = clusters(40, seed=1)
    for k in (1, 5, 20):
        predicted = knn.knn_votes(bank, labels, queries, k=k, num_classes=3)
        for query, ours in zip(queries, predicted, strict=True):
            similarity = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
            votes = Counter(labels[np.argsort(-similarity)[:k]].tolist())
            assert votes[ours] == max(votes.values())


def test_knn_agrees_with_scikit_learn_where_no_votes_are_equal():
    bank, labels = clusters(200, classes=2)
    queries, _ = clusters(60, classes=2, seed=1)
    theirs = KNeighborsClassifier(21, metric="cosine").fit(bank, labels).predict(queries)
    assert np.array_equal(knn.knn_votes(bank, labels, queries, k=21, num_classes=2), theirs)


def test_knn_tie_goes_to_the_more_similar():
    bank, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    assert list(knn.knn_votes(bank, labels, np.array([[2.0, 1.0], [1.0, 2.0]]), k=2, num_classes=2)) == [0, 1]


def test_knn_in_blocks_is_the_same(monkeypatch):
    bank, labels = clusters(50)
    queries, _ = clusters(30, seed=1)
    whole = knn.knn_votes(bank, labels, queries, k=7, num_classes=3)
    monkeypatch.setattr(knn, "_LARGEST_BLOCK", 120)  # two queries at a time
    assert np.array_equal(knn.knn_votes(bank, labels, queries, k=7, num_classes=3), whole)


def test_k_is_capped_at_the_bank_and_the_table_says_so():
    bank, labels = clusters(30)
    queries, query_labels = clusters(20, seed=1)
    results = measure(["knn20", "knn200", "linear", "classifier"], bank, labels, queries, query_labels, num_classes=3)
    assert [result.protocol for result in results] == ["knn20", "knn200", "linear"]
    assert [result.note for result in results] == ["", "k capped at 30", ""]
    assert all(result.images == 20 for result in results)
    assert set(DESCRIPTIONS) == {"knn20", "knn200", "linear", "classifier"}


def test_easy_clusters_are_told_apart_and_a_classifier_is_used():
    bank, labels = clusters(60, spread=0.05)
    queries, query_labels = clusters(40, spread=0.05, seed=1)
    logits = -np.eye(3)[query_labels]  # always wrong

    results = measure(
        ["knn20", "linear", "classifier"],
        bank,
        labels,
        queries,
        query_labels,
        num_classes=3,
        classifier=lambda _: logits,
    )
    assert [result.accuracy for result in results] == [1.0, 1.0, 0.0]


def test_embedding_in_batches_is_embedding_one_by_one(digits):
    import keras

    encoder = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    rows = np.array([5, 900, 3, 77, 1796])
    batched = Embedder(encoder, batch=2)(digits, rows)
    single = np.concatenate([encoder(digits.read(rows[i : i + 1]).astype("float32")) for i in range(5)])
    assert batched.shape == (5, 4) and np.allclose(batched, single, rtol=1e-4, atol=1e-3)


def test_pixels_are_scaled_and_averaged_down(digits):
    rows = np.arange(3)
    assert np.array_equal(pixels(digits, rows), digits.read(rows).reshape(3, -1).astype(np.float32) / 255)
    small = pixels(digits, rows, largest_side=8)
    assert small.shape == (3, 8 * 8 * 3)
    assert small.mean() == pytest.approx(pixels(digits, rows).mean(), rel=1e-3)
