"""Supervised baseline: softmax cross-entropy of a linear classifier, on the labelled images only.

What every semi-supervised method must beat with the same labels (the baseline of Assran et al., 2104.13963, table 1).
One view of each labelled image goes through the encoder. Over a pretrained encoder it is fine-tuning (weak views, a
smaller learning rate for the encoder) or, with the encoder frozen, a linear probe.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods import CrossEntropyParams
from semisup_core.methods.base import Batch, Progress, Tensor, VariableGroup, View, decay_groups
from semisup_core.replica import Replica
from semisup_core.similarity import at_least_float32


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Per-row softmax cross-entropy.

    Args:
        logits: (S, C).
        labels: (S,) int.
        label_smoothing: share of the target spread evenly over all classes.

    Returns:
        (S,) losses, at least float32.
    """
    logits = at_least_float32(logits)
    targets = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=label_smoothing)


def linear_classifier(features: int, num_classes: int, *, relu: bool = False, name: str = "classifier") -> keras.Model:
    """One dense layer (N, D) -> (N, C) logits, behind a ReLU if asked for."""
    inputs = outputs = keras.Input((features,))
    if relu:
        outputs = keras.layers.ReLU(name=f"{name}_relu")(outputs)
    return keras.Model(inputs, keras.layers.Dense(num_classes, name=f"{name}_dense")(outputs), name=name)


class CrossEntropy:
    """Encoder and linear classifier trained on labels."""

    def __init__(self, params: CrossEntropyParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds the classifier over the encoder's features."""
        self.views = (View("labelled", "labelled", params.view),)
        self._params = params
        self._encoder = encoder
        self.classifier = linear_classifier(encoder.output_shape[-1], num_classes, relu=params.relu)
        self.modules = {"encoder": encoder, "classifier": self.classifier}

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Mean cross-entropy; logs the accuracy on the augmented labelled images."""
        (images,) = batch.images["labelled"]
        logits = self.classifier(self._encoder(images, training=True))
        right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(batch.labels, "int64"))
        loss = ops.mean(cross_entropy(logits, batch.labels, self._params.label_smoothing))
        return loss, {"labelled_accuracy": ops.mean(ops.cast(right, loss.dtype))}, {}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Nothing to do."""

    def variable_groups(self) -> list[VariableGroup]:
        """Encoder, at its own rate, and classifier, decayed but for rank 1."""
        scale = self._params.encoder_learning_rate_scale
        return [
            *decay_groups([self.classifier]),
            *decay_groups([self._encoder], learning_rate_scale=scale),
        ]

    def export_encoder(self) -> keras.Model:
        """The trained encoder."""
        return self._encoder
