"""Suncet.loss as composed, against both terms written out as loops over features that numpy computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from semisup_core.devices import set_precision
from semisup_core.methods import SuncetParams
from semisup_core.methods.base import Batch, Progress, build_method
from semisup_core.replica import Replica

B, SHAPE, FEATURES = 4, (2, 2, 3), 5
HEADS = {"no head": (), "one layer": (3,), "two layers": (16, 3)}
LABELS = {
    "pairs": [0, 0, 1, 1, 2, 2],
    "a single image of class 2": [0, 0, 1, 1, 1, 2],
    "single images only": [0, 1, 2],
}


@pytest.fixture(autouse=True)
def float64(float32):
    set_precision("float64")
    keras.utils.set_random_seed(0)


def make(**params):
    encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(FEATURES)])
    return build_method(SuncetParams(**params), encoder, num_classes=3)


def make_batch(labels):
    images = [np.random.default_rng(i).uniform(-1, 1, (n, *SHAPE)) for i, n in enumerate((B, B, len(labels)))]
    first, second, labelled = map(tf.constant, images)
    return Batch({"unlabelled": (first, second), "labelled": (labelled,)}, tf.constant(labels, tf.int32), {})


def compute(method, labels):
    loss, metrics, carry = method.loss(make_batch(labels), Progress(tf.constant(0), tf.constant(0.0)), Replica())
    assert loss.shape == ()
    np.testing.assert_allclose(
        carry["labelled_features"], method.modules["encoder"](*make_batch(labels).images["labelled"])
    )
    return float(loss), {name: float(value) for name, value in metrics.items()}


def features_of(method, labels):
    """What the encoder and the head make of all views as one batch, in numpy."""
    batch = make_batch(labels)
    views = np.concatenate([*batch.images["unlabelled"], *batch.images["labelled"]])
    kernel, bias = (variable.numpy() for variable in method.modules["encoder"].trainable_variables)
    rows = views.reshape(len(views), -1) @ kernel + bias
    if "projection" in method.modules:
        *hidden, kernel, bias = (variable.numpy() for variable in method.modules["projection"].trainable_variables)
        if hidden:
            weights, gamma, beta = hidden
            rows = rows @ weights
            rows = (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-3)  # Keras' epsilon
            rows = np.maximum(gamma * rows + beta, 0)
        rows = rows @ kernel + bias
    return np.split(rows, [B, 2 * B])


def similarity(a, b, temperature):
    return np.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature)


def literal_unlabelled(first, second, temperature):
    """1807.03748, eq. 4: each first view picks its second one among all second ones."""
    losses = []
    for i in range(B):
        scores = [similarity(first[i], other, temperature) for other in second]
        losses.append(-np.log(scores[i] / sum(scores)))
    return np.mean(losses)


def literal_supervised(rows, labels, temperature):
    """2006.10803, eq. 2, over the images whose class has another one."""
    losses = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        scores = {j: similarity(rows[i], rows[j], temperature) for j in others}
        same = [j for j in others if labels[j] == labels[i]]
        if same:
            losses.append(-np.log(sum(scores[j] for j in same) / sum(scores.values())))
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("projection", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_is_the_papers(projection, labels):
    method = make(projection=projection, temperature=0.3, supervised_weight=0.7)
    first, second, labelled = features_of(method, labels)
    unlabelled, supervised = literal_unlabelled(first, second, 0.3), literal_supervised(labelled, labels, 0.3)
    loss, metrics = compute(method, labels)
    # 1e-9: the loss adds 1e-12 under the root of a norm.
    assert loss == pytest.approx(unlabelled + 0.7 * supervised, rel=1e-9)
    assert metrics == pytest.approx({"unlabelled_loss": unlabelled, "supervised_loss": supervised}, rel=1e-9)


def test_by_hand():
    """Equal images: every similarity is 1, so each term is the logarithm of how many there are to pick from."""
    method = make()
    images = tf.ones((3, *SHAPE), tf.float64)
    batch = Batch({"unlabelled": (images, images), "labelled": (images,)}, tf.constant([1, 1, 0]), {})
    _, metrics, _ = method.loss(batch, Progress(tf.constant(0), tf.constant(0.0)), Replica())
    assert float(metrics["unlabelled_loss"]) == pytest.approx(np.log(3), rel=1e-9)
    assert float(metrics["supervised_loss"]) == pytest.approx(np.log(2), rel=1e-9)  # one of the two others is alike


def test_without_weight_the_labels_do_not_matter():
    method = make(supervised_weight=0.0)
    loss, metrics = compute(method, [0, 0, 1, 1])
    assert loss == metrics["unlabelled_loss"] == compute(method, [0, 1, 0, 1])[0]
    assert metrics["supervised_loss"] != compute(method, [0, 1, 0, 1])[1]["supervised_loss"]


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_gradient_is_finite(labels):
    method = make(projection=(16, 3))
    variables = [v.value for module in method.modules.values() for v in module.trainable_variables]
    with tf.GradientTape() as tape:
        loss, _, _ = method.loss(make_batch(labels), Progress(tf.constant(0), tf.constant(0.0)), Replica())
    for gradient in tape.gradient(loss, variables):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("projection", HEADS.values(), ids=HEADS)
def test_head_is_trained_and_left_out_of_the_export(projection):
    method = make(projection=projection)
    assert set(method.modules) == {"encoder", "projection"} - (set() if projection else {"projection"})
    assert method.export_encoder() is method.modules["encoder"]
    grouped = [variable for group in method.variable_groups() for variable in group.variables]
    assert len(grouped) == sum(len(module.trainable_variables) for module in method.modules.values())
