"""FixMatch as composed, against the paper's formulas written out as loops over logits that numpy computes."""

import numpy as np
import pytest
import tensorflow as tf

from semisup_core.methods import FixmatchParams
from semisup_core.methods.fixmatch import confident_cross_entropy

LABELS, U = [0, 2, 1], 6


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def views(made):
    labelled, weak, strong = made.images(len(LABELS), U, U)
    return {"labelled": [labelled], "weak": [weak], "strong": [strong]}


@pytest.mark.parametrize("threshold, weight", [(0.0, 1.0), (0.5, 1.0), (0.5, 0.3), (1.0, 1.0)])
def test_is_the_papers(case, threshold, weight):
    made = case(FixmatchParams(threshold=threshold, unlabelled_weight=weight))
    images = views(made)
    labelled, weak, strong = made.features([views[0] for views in images.values()], heads=("classifier",))
    supervised = np.mean([-np.log(softmax(row)[label]) for row, label in zip(labelled, LABELS, strict=True)])  # eq. 3
    losses, sure = [], 0
    for weak_row, strong_row in zip(weak, strong, strict=True):  # eq. 4
        guess = softmax(weak_row)
        counts = guess.max() >= threshold
        sure += counts
        losses.append(counts * -np.log(softmax(strong_row)[guess.argmax()]))
    loss, metrics = made.loss(images, LABELS)
    assert loss == pytest.approx(supervised + weight * sum(losses) / U, rel=1e-9)
    assert metrics["confident_share"] == pytest.approx(sure / U)
    assert sure == {0.0: U, 1.0: 0}.get(threshold, sure) and (threshold != 0.5 or 0 < sure < U)


def test_by_hand():
    """Of two images one is sure, of class 1; its strong view gives that class a quarter: log 4, and 0."""
    weak = tf.math.log([[0.02, 0.98], [0.4, 0.6]])
    strong = tf.math.log([[0.75, 0.25], [0.5, 0.5]])
    losses, sure = confident_cross_entropy(strong, weak, 0.95)
    assert losses.numpy() == pytest.approx([np.log(4), 0], rel=1e-6) and list(sure.numpy()) == [True, False]


def test_no_gradient_through_the_weak_view():
    weak, strong = tf.constant([[0.0, 9.0]]), tf.constant([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch([weak, strong])
        losses, _ = confident_cross_entropy(strong, weak, 0.95)
    to_weak, to_strong = tape.gradient(losses, [weak, strong])
    assert to_weak is None and np.abs(to_strong).min() > 0


def test_the_order_of_the_images_does_not_matter(case):
    made = case(FixmatchParams(threshold=0.5))
    images = views(made)
    straight = made.loss(images, LABELS)[0]
    turned = {"labelled": [images["labelled"][0][::-1]], **{k: [images[k][0][::-1]] for k in ("weak", "strong")}}
    assert made.loss(turned, LABELS[::-1])[0] == pytest.approx(straight, rel=1e-12)


def test_gradient_is_finite(case):
    made = case(FixmatchParams(threshold=0.0))
    images = views(made)
    images["strong"][0][0] = 0
    assert all(np.isfinite(gradient).all() for gradient in made.gradients(images, LABELS))
