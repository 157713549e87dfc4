"""The pure loss functions against literal loops from the papers, and cases worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from semisup_core.similarity import at_least_float32, cosine_similarities, info_nce, neighbour_cross_entropy

TEMPERATURE = 0.3


def features(rows, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def literal_info_nce(anchors, references, positives, temperature):
    losses = []
    for anchor, positive in zip(anchors, positives, strict=True):
        scores = [math.exp(cosine(anchor, reference) / temperature) for reference in references]
        losses.append(-math.log(scores[positive] / sum(scores)))
    return losses


def literal_suncet(anchors, labels, references, reference_labels, itself, temperature):
    losses = []
    for anchor, label, own in zip(anchors, labels, itself, strict=True):
        same = total = 0.0
        for j, (reference, other) in enumerate(zip(references, reference_labels, strict=True)):
            if j == own:
                continue
            score = math.exp(cosine(anchor, reference) / temperature)
            total += score
            same += score if other == label else 0.0
        losses.append(-math.log(same / total) if same else 0.0)
    return losses


def test_info_nce_is_the_papers():
    anchors, references, positives = features(4), features(9, seed=1), np.array([3, 0, 8, 2])
    ours = info_nce(tf.constant(anchors), tf.constant(references), tf.constant(positives), TEMPERATURE)
    assert np.allclose(ours, literal_info_nce(anchors, references, positives, TEMPERATURE), rtol=1e-10)


def test_info_nce_by_hand():
    # One positive at cosine 1 and one negative at cosine 0, temperature 1: -log(e / (e + 1)).
    loss = info_nce(tf.constant([[2.0, 0.0]]), tf.constant([[5.0, 0.0], [0.0, 1.0]]), tf.constant([0]), 1.0)
    assert float(loss[0]) == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)


def test_suncet_is_the_papers():
    labels = np.array([0, 1, 1, 2, 0, 2, 1, 3])
    rows = features(8)
    anchors, itself = rows[2:6], np.arange(2, 6)
    ours, has_positive = neighbour_cross_entropy(
        tf.constant(anchors),
        tf.constant(labels[2:6], tf.int32),
        tf.constant(rows),
        tf.constant(labels, tf.int32),
        tf.constant(itself, tf.int32),
        TEMPERATURE,
    )
    assert np.allclose(ours, literal_suncet(anchors, labels[2:6], rows, labels, itself, TEMPERATURE), rtol=1e-10)
    assert np.asarray(has_positive).all()


def test_suncet_by_hand():
    # The one other row of the class at cosine 1, one row of another class at cosine 0, temperature 1.
    rows = tf.constant([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    labels = tf.constant([0, 0, 1])
    losses, has_positive = neighbour_cross_entropy(rows, labels, rows, labels, tf.range(3), 1.0)
    assert np.allclose(losses[:2], math.log(1 + math.exp(-1)), rtol=1e-6)
    assert float(losses[2]) == 0 and list(np.asarray(has_positive)) == [True, True, False]


def test_losses_ignore_length_and_rotation():
    rows, labels = features(6), tf.constant([0, 1, 0, 1, 0, 1])
    rotation, _ = np.linalg.qr(features(5, seed=3))
    scales = np.random.default_rng(4).uniform(0.5, 2, (6, 1))
    before, _ = neighbour_cross_entropy(tf.constant(rows), labels, tf.constant(rows), labels, tf.range(6), TEMPERATURE)
    turned = tf.constant(scales * rows @ rotation)
    after, _ = neighbour_cross_entropy(turned, labels, turned, labels, tf.range(6), TEMPERATURE)
    assert np.allclose(before, after, rtol=1e-9)


def test_gradients_are_finite_at_zero_and_at_equal_rows():
    rows = tf.Variable(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], np.float32))
    labels = tf.constant([0, 0, 1, 2])
    with tf.GradientTape() as tape:
        losses, _ = neighbour_cross_entropy(rows, labels, rows, labels, tf.range(4), 0.01)
        loss = tf.reduce_mean(losses) + tf.reduce_mean(info_nce(rows, rows, tf.range(4), 0.01))
    assert np.isfinite(tape.gradient(loss, rows)).all()


def test_half_precision_becomes_float32():
    assert at_least_float32(tf.zeros(3, tf.bfloat16)).dtype == tf.float32
    assert at_least_float32(tf.zeros(3, tf.float64)).dtype == tf.float64
    assert cosine_similarities(tf.ones((2, 3), tf.bfloat16), tf.ones((2, 3), tf.bfloat16)).dtype == tf.float32
