"""Supervised baseline: softmax cross-entropy of a linear classifier, on the labelled images only.

What every semi-supervised method must beat with the same labels (the baseline of Assran et al., 2104.13963, table 1).
One strong view of each labelled image goes through the encoder.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods import CrossEntropyParams
from semisup_core.methods.base import Batch, Progress, Tensor, VariableGroup, View, decay_groups, projection_head
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


class CrossEntropy:
    """Encoder and linear classifier trained on labels."""

    views = (View("labelled", "labelled", "strong"),)

    def __init__(self, params: CrossEntropyParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds the classifier over the encoder's features."""
        self._label_smoothing = params.label_smoothing
        self._encoder = encoder
        self.classifier = projection_head(encoder.output_shape[-1], (num_classes,), name="classifier")
        self.modules = {"encoder": encoder, "classifier": self.classifier}

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Mean cross-entropy; logs the accuracy on the augmented labelled images."""
        (images,) = batch.images["labelled"]
        logits = self.classifier(self._encoder(images, training=True))
        right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(batch.labels, "int64"))
        loss = ops.mean(cross_entropy(logits, batch.labels, self._label_smoothing))
        return loss, {"labelled_accuracy": ops.mean(ops.cast(right, loss.dtype))}, {}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Nothing to do."""

    def variable_groups(self) -> list[VariableGroup]:
        """Encoder and classifier, decayed but for rank 1."""
        return decay_groups([self._encoder, self.classifier])

    def export_encoder(self) -> keras.Model:
        """The trained encoder."""
        return self._encoder
