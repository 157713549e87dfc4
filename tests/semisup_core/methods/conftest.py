"""What the tests of every method share: a small linear encoder whose features NumPy can compute, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from semisup_core.devices import set_precision
from semisup_core.methods.base import Batch, Progress, build_method
from semisup_core.replica import Replica

SHAPE, FEATURES = (2, 2, 3), 5


class Case:
    """A method on a linear encoder of images (N, 2, 2, 3), and the features that NumPy computes for it."""

    def __init__(self, params, num_classes=3):
        keras.utils.set_random_seed(0)
        encoder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(FEATURES)])
        self.method = build_method(params, encoder, num_classes)

    @staticmethod
    def images(*counts):
        return [np.random.default_rng(i).uniform(-1, 1, (n, *SHAPE)) for i, n in enumerate(counts)]

    def features(self, images):
        """What the encoder and the head make of all views as one batch, a list like `images`."""
        views = np.concatenate(images)
        kernel, bias = (variable.numpy() for variable in self.method.modules["encoder"].trainable_variables)
        rows = views.reshape(len(views), -1) @ kernel + bias
        if "projection" in self.method.modules:
            rows = self._projected(rows)
        return np.split(rows, np.cumsum([len(part) for part in images])[:-1])

    def _projected(self, rows):
        layers = self.method.modules["projection"].layers
        for layer in layers:
            values = [variable.numpy() for variable in layer.trainable_variables]
            if isinstance(layer, keras.layers.Dense):
                rows = rows @ values[0] + (values[1] if layer.use_bias else 0)
            elif isinstance(layer, keras.layers.BatchNormalization):
                spread = np.sqrt(rows.var(axis=0) + layer.epsilon)
                rows = values[0] * (rows - rows.mean(axis=0)) / spread + values[1]
            elif isinstance(layer, keras.layers.ReLU):
                rows = np.maximum(rows, 0)
        return rows

    def loss(self, images, labels=None):
        """The loss and metrics as floats.

        Args:
            images: view name -> list of arrays.
            labels: of the labelled views, or None.
        """
        tensors = {name: tuple(map(tf.constant, views)) for name, views in images.items()}
        labels = None if labels is None else tf.constant(labels, tf.int32)
        batch = Batch(tensors, labels, {})
        loss, metrics, carry = self.method.loss(batch, Progress(tf.constant(0), tf.constant(0.0)), Replica())
        assert carry == {} and loss.shape == ()
        return float(loss), {name: float(value) for name, value in metrics.items()}

    def gradients(self, images, labels=None):
        variables = [v.value for module in self.method.modules.values() for v in module.trainable_variables]
        tensors = {name: tuple(map(tf.constant, views)) for name, views in images.items()}
        labels = None if labels is None else tf.constant(labels, tf.int32)
        with tf.GradientTape() as tape:
            loss, _, _ = self.method.loss(
                Batch(tensors, labels, {}), Progress(tf.constant(0), tf.constant(0.0)), Replica()
            )
        return tape.gradient(loss, variables)


def similarity(a, b, temperature):
    """exp(cosine / temperature), as the papers write it."""
    return np.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature)


@pytest.fixture
def case(float32):
    """params -> Case, in float64."""
    set_precision("float64")
    return Case


@pytest.fixture(name="similarity")
def similarity_fixture():
    return similarity
