"""FixMatch: what the network is sure of on a weak view is the label of the strong view.

Sohn, Berthelot, Li, Zhang, Carlini, Cubuk, Kurakin, Zhang, Raffel, "FixMatch: Simplifying Semi-Supervised Learning with
Consistency and Confidence", 2020, arXiv 2001.07685, eq. 3 and 4.

Departures: strong views are the run's strong policy (the paper: RandAugment or CTAugment, then Cutout; set
`augmentation.strong.cutout` for the last); the trained network itself is evaluated, not a moving average of its
weights; the run's optimiser and schedule instead of Nesterov SGD at 0.03 under a flatter cosine. All views go through
the encoder in one call, so BatchNorm sees them as one batch, as in the authors' code.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods import FixmatchParams
from semisup_core.methods.base import Batch, Progress, Tensor, VariableGroup, View, decay_groups, encode_and_project
from semisup_core.methods.cross_entropy import cross_entropy, linear_classifier
from semisup_core.replica import Replica
from semisup_core.similarity import at_least_float32


def confident_cross_entropy(logits: Tensor, weak_logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Per-row cross-entropy with the likeliest class of the weak view, where that one is likely enough.

    Args:
        logits: (N, C), of the strong views.
        weak_logits: (N, C), of the same images' weak views; no gradient reaches them.
        threshold: the probability from which a prediction counts as a label.

    Returns:
        (N,) losses, 0 where the prediction does not count, and (N,) bool, where it does.

    Reference: 2001.07685, eq. 4.
    """
    probabilities = ops.softmax(ops.stop_gradient(at_least_float32(weak_logits)), axis=-1)
    sure = ops.max(probabilities, axis=-1) >= threshold
    losses = cross_entropy(logits, ops.argmax(probabilities, axis=-1))
    return ops.where(sure, losses, ops.zeros_like(losses)), sure


class Fixmatch:
    """Encoder and linear classifier trained on labels and on their own confident predictions."""

    views = (
        View("labelled", "labelled", "weak"),
        View("weak", "unlabelled", "weak", no_gradient=True),
        View("strong", "unlabelled", "strong"),
    )

    def __init__(self, params: FixmatchParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds the classifier over the encoder's features."""
        self._params = params
        self._encoder = encoder
        self.classifier = linear_classifier(encoder.output_shape[-1], num_classes)
        self.modules = {"encoder": encoder, "classifier": self.classifier}

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Cross-entropy on labels plus `unlabelled_weight` times that on confident predictions, over all B rows."""
        views = [batch.images[view.name][0] for view in self.views]
        labelled, weak, strong = encode_and_project(self._encoder, self.classifier, views)
        supervised = ops.mean(cross_entropy(labelled, batch.labels))
        losses, sure = confident_cross_entropy(strong, weak, self._params.threshold)
        unlabelled = ops.mean(losses)
        right = ops.equal(ops.argmax(labelled, axis=-1), ops.cast(batch.labels, "int64"))
        metrics = {
            "supervised_loss": supervised,
            "unlabelled_loss": unlabelled,
            "confident_share": ops.mean(ops.cast(sure, losses.dtype)),
            "labelled_accuracy": ops.mean(ops.cast(right, losses.dtype)),
        }
        return supervised + self._params.unlabelled_weight * unlabelled, metrics, {}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Nothing to do."""

    def variable_groups(self) -> list[VariableGroup]:
        """Encoder and classifier, decayed but for rank 1."""
        return decay_groups([self._encoder, self.classifier])

    def export_encoder(self) -> keras.Model:
        """The trained encoder."""
        return self._encoder
