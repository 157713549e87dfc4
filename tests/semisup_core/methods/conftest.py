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

    def features(self, images, network="", heads=("projection",)):
        """What a network's encoder and heads make of all views as one batch, a list like `images`."""
        views = np.concatenate(images)
        kernel, bias = (variable.numpy() for variable in self.method.modules[f"{network}encoder"].variables)
        rows = views.reshape(len(views), -1) @ kernel + bias
        for head in heads:
            if f"{network}{head}" in self.method.modules:
                rows = self._projected(rows, self.method.modules[f"{network}{head}"])
        return np.split(rows, np.cumsum([len(part) for part in images])[:-1])

    @staticmethod
    def _projected(rows, head):
        for layer in head.layers:
            values = [variable.numpy() for variable in layer.variables]
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
        loss, metrics, _ = self._loss(images, labels)
        assert loss.shape == ()
        return float(loss), {name: float(value) for name, value in metrics.items()}

    def labelled_features(self, images, labels):
        """What the method hands on of the labelled images, and nothing else."""
        _, _, carry = self._loss(images, labels)
        assert carry.keys() == {"labelled_features"}
        return carry["labelled_features"].numpy()

    def _loss(self, images, labels):
        tensors = {name: tuple(map(tf.constant, views)) for name, views in images.items()}
        labels = None if labels is None else tf.constant(labels, tf.int32)
        return self.method.loss(Batch(tensors, labels, {}), progress(0.0), Replica())

    def after_update(self, images, fraction=0.0):
        """What follows an update, with what the loss of these images carries."""
        _, _, carry = self._loss(images, None)
        self.method.after_update(carry, progress(fraction), Replica())

    def gradients(self, images, labels=None):
        variables = [v.value for module in self.method.modules.values() for v in module.trainable_variables]
        with tf.GradientTape() as tape:
            loss, _, _ = self._loss(images, labels)
        return tape.gradient(loss, variables)

    def perturb_teacher(self):
        """Moves the teacher's weights away from the student's."""
        draws = np.random.default_rng(7)
        for name, module in self.method.modules.items():
            if name.startswith("teacher_"):
                for variable in module.variables:
                    if "moving" not in variable.name:
                        variable.assign(variable.numpy() + draws.normal(0, 0.1, variable.shape))


def progress(fraction):
    return Progress(tf.constant(0), tf.constant(fraction))


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
