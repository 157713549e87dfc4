"""Protocols against literal loops and scikit-learn."""

from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from semisup_core.evaluation import knn
from semisup_core.evaluation.embed import Embedder, pixels
from semisup_core.evaluation.protocols import fit, measure


def clusters(rows, classes=3, width=6, spread=0.8, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = rng.integers(0, classes, rows)
    return (centres[labels] + spread * rng.normal(size=(rows, width))).astype(np.float32), labels


def votes(bank, labels, queries, k, classes=3):
    return knn.neighbour_shares(bank, labels, queries, k=k, temperature=None, num_classes=classes).argmax(axis=1)


def test_knn_is_a_plain_vote_of_the_most_cosine_similar():
    bank, labels = clusters(80)
    queries, _ = clusters(40, seed=1)
    for k in (1, 5, 20):
        predicted = votes(bank, labels, queries, k)
        for query, ours in zip(queries, predicted, strict=True):
            similarity = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
            counts = Counter(labels[np.argsort(-similarity)[:k]].tolist())
            assert counts[ours] == max(counts.values())


def test_knn_agrees_with_scikit_learn_where_no_votes_are_equal():
    bank, labels = clusters(200, classes=2)
    queries, _ = clusters(60, classes=2, seed=1)
    theirs = KNeighborsClassifier(21, metric="cosine").fit(bank, labels).predict(queries)
    assert np.array_equal(votes(bank, labels, queries, 21, classes=2), theirs)


def test_knn_tie_goes_to_the_more_similar():
    bank, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    assert list(votes(bank, labels, np.array([[2.0, 1.0], [1.0, 2.0]]), 2, classes=2)) == [0, 1]


def test_knn_in_blocks_is_the_same(monkeypatch):
    bank, labels = clusters(50)
    queries, _ = clusters(30, seed=1)
    whole, near = votes(bank, labels, queries, 7), knn.nearest(bank, queries, 7)
    everybody = votes(bank, labels, queries, 50)
    monkeypatch.setattr(knn, "_LARGEST_BLOCK", 120)  # two queries at a time where all vote
    monkeypatch.setattr(knn, "_QUERIES", 4)
    monkeypatch.setattr(knn, "_BANK_ROWS", 6)  # fewer than neighbours, and a last part of two
    assert np.array_equal(votes(bank, labels, queries, 7), whole)
    assert np.array_equal(votes(bank, labels, queries, 50), everybody)
    assert np.array_equal(knn.nearest(bank, queries, 7)[0], near[0])


@pytest.mark.parametrize("protocol, k", [("knn200_t0.1", 200), ("soft_nn", 300)])
def test_weighted_protocols_are_the_loop_of_their_papers(protocol, k):
    bank, labels = clusters(300)
    queries, _ = clusters(25, seed=1)
    shares = fit(protocol, bank, labels, 3).shares(queries)
    for query, ours in zip(queries, shares, strict=True):
        similarity = (bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)).astype(np.float64)
        weights = np.zeros(3)
        for row in np.argsort(-similarity)[:k]:
            weights[labels[row]] += np.exp(similarity[row] / 0.1)
        assert np.allclose(ours, weights / weights.sum(), atol=1e-5)


def test_nearest_are_scikit_learns_in_order():
    bank, _ = clusters(60)
    queries, _ = clusters(15, seed=1)
    distances, rows = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank).kneighbors(queries)
    ours, cosines = knn.nearest(bank, queries, 5)
    assert np.array_equal(ours, rows) and np.allclose(cosines, 1 - distances, atol=1e-5)
    assert knn.nearest(bank, queries, 99)[0].shape == (15, 60)


@pytest.mark.parametrize("protocol", ["knn20", "knn200", "knn200_t0.1", "soft_nn", "linear", "classifier"])
def test_shares_are_probabilities_also_of_classes_without_a_label(protocol):
    bank, labels = clusters(60)
    bank, labels = bank[labels != 1], labels[labels != 1]  # nothing of class 1 in the bank
    queries, _ = clusters(10, seed=1)
    predictor = fit(protocol, bank, labels, 3, classifier=lambda features: 100 * features[:, :3])
    shares, (classes, confidence) = predictor.shares(queries), predictor.predict(queries)
    assert shares.shape == (10, 3) and np.allclose(shares.sum(axis=1), 1) and (shares >= 0).all()
    assert np.array_equal(classes, shares.argmax(axis=1)) and np.array_equal(confidence, shares.max(axis=1))
    assert protocol == "classifier" or not shares[:, 1].any()


def test_linear_is_scikit_learns():
    bank, labels = clusters(90)
    queries, _ = clusters(20, seed=1)
    scale = StandardScaler().fit(bank)
    theirs = LogisticRegression(max_iter=1000).fit(scale.transform(bank), labels)
    assert np.allclose(fit("linear", bank, labels, 3).shares(queries), theirs.predict_proba(scale.transform(queries)))


def test_k_is_capped_at_the_bank_and_the_table_says_so():
    bank, labels = clusters(30)
    queries, query_labels = clusters(20, seed=1)
    results = measure(["knn20", "knn200", "linear", "classifier"], bank, labels, queries, query_labels, num_classes=3)
    assert [result.protocol for result in results] == ["knn20", "knn200", "linear"]
    assert [result.note for result in results] == ["", "k capped at 30", ""]
    assert all(result.images == 20 for result in results)


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
    assert [result.balanced_accuracy for result in results] == [1.0, 1.0, 0.0]
    assert results[0].interval[1] == 1.0 and results[2].interval[0] == 0.0


def test_embedding_in_batches_is_embedding_one_by_one(digits):
    import keras

    encoder = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    rows = np.array([5, 900, 3, 77, 1796])
    batched = Embedder(encoder, batch=2)(digits, rows)
    single = np.concatenate([encoder(digits.read(rows[i : i + 1]).astype("float32")) for i in range(5)])
    # float32 sums of thousands of pixels in 0-255: another batch size adds them in another order.
    assert np.allclose(Embedder(encoder, batch=8).images(digits.read(rows)), single, rtol=1e-4, atol=1e-3)
    assert batched.shape == (5, 4) and np.allclose(batched, single, rtol=1e-4, atol=1e-3)


def test_pixels_are_scaled_and_averaged_down(digits):
    rows = np.arange(3)
    assert np.array_equal(pixels(digits, rows), digits.read(rows).reshape(3, -1).astype(np.float32) / 255)
    small = pixels(digits, rows, largest_side=8)
    assert small.shape == (3, 8 * 8 * 3)
    assert small.mean() == pytest.approx(pixels(digits, rows).mean(), rel=1e-3)
