"""Cross-entropy against a literal loop and a case worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from semisup_core.methods.cross_entropy import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_is_the_textbooks(smoothing):
    logits, labels = np.random.default_rng(0).normal(size=(5, 4)), np.array([0, 3, 1, 2, 2])
    literal = []
    for row, label in zip(logits, labels, strict=True):
        probabilities = [math.exp(value) / sum(math.exp(other) for other in row) for value in row]
        targets = [(1 - smoothing) * (c == label) + smoothing / 4 for c in range(4)]
        literal.append(-sum(t * math.log(p) for t, p in zip(targets, probabilities, strict=True)))
    assert np.allclose(cross_entropy(tf.constant(logits), tf.constant(labels), smoothing), literal, rtol=1e-10)


def test_by_hand():
    loss = cross_entropy(tf.constant([[0.0, 0.0, 0.0, 0.0]]), tf.constant([2]))
    assert float(loss[0]) == pytest.approx(math.log(4), rel=1e-6)


def test_shifting_all_logits_changes_nothing():
    logits, labels = tf.constant(np.random.default_rng(1).normal(size=(5, 4))), tf.constant([0, 1, 2, 3, 0])
    assert np.allclose(cross_entropy(logits, labels), cross_entropy(logits + 7.0, labels), rtol=1e-10)


def test_half_precision_is_computed_in_float32():
    assert cross_entropy(tf.zeros((1, 3), tf.bfloat16), tf.constant([0])).dtype == tf.float32
