"""PAWS: each view predicts the class distribution that the other view has among the labelled images.

Assran, Caron, Misra, Bojanowski, Joulin, Ballas, Rabbat, "Semi-Supervised Learning of Visual Features by
Non-Parametrically Predicting View Assignments with Support Samples", 2021, arXiv 2104.13963, eq. 1 and 2.

Departures, those of the four-method study: no small crops; without `projection` the loss sees the encoder's output
(the paper has a 3-layer head); `label_smoothing` (0.1 in the paper) and a second support view are settings that start
off. As in the paper's code, the mean that is kept from collapsing is taken over the sharpened predictions of both
views, with gradient. All views go through the encoder in one call.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods import PawsParams
from semisup_core.methods.base import (
    Batch,
    Progress,
    Tensor,
    VariableGroup,
    View,
    decay_groups,
    encode_views,
    project_views,
    projection_head,
)
from semisup_core.replica import Replica
from semisup_core.similarity import distribution_cross_entropy, sharpen, soft_nearest_neighbours


def smoothed_one_hot(labels: Tensor, num_classes: int, label_smoothing: float, dtype: Any) -> Tensor:
    """The class distribution of each label, (S,) int -> (S, C): `label_smoothing` of it spread over all classes."""
    targets = ops.one_hot(labels, num_classes, dtype=dtype)
    return targets * (1 - label_smoothing) + label_smoothing / num_classes


class Paws:
    """Encoder and optional projection head trained on unlabelled pairs and a labelled support."""

    classifier = None

    def __init__(self, params: PawsParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds the projection head, if one is asked for."""
        self.views = (
            View("unlabelled", "unlabelled", "strong", count=2),
            View("support", "labelled", "strong", count=params.support_views),
        )
        self._params, self._num_classes = params, num_classes
        self._encoder = encoder
        self._head = projection_head(encoder.output_shape[-1], params.projection)
        self.modules = {"encoder": encoder} | ({"projection": self._head} if self._head else {})

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Cross-entropy of each view with the other's sharpened prediction, less the entropy of the mean one."""
        views = [*batch.images["unlabelled"], *batch.images["support"]]
        features = encode_views(self._encoder, views)
        first, second, *support = project_views(self._head, features)
        predictions = self._predictions([first, second], support, batch.labels, replica)
        sharpened = [sharpen(prediction, self._params.sharpening) for prediction in predictions]
        agreement = ops.mean(
            ops.stack(
                [
                    distribution_cross_entropy(ops.stop_gradient(sharpened[1]), predictions[0]),
                    distribution_cross_entropy(ops.stop_gradient(sharpened[0]), predictions[1]),
                ]
            )
        )
        # The mean stands under a logarithm, so it is taken over all replicas first.
        mean = replica.mean(ops.mean(ops.concatenate(sharpened, axis=0), axis=0))
        entropy = distribution_cross_entropy(mean, mean)
        loss = agreement - self._params.entropy_weight * entropy
        return loss, {"agreement_loss": agreement, "mean_entropy": entropy}, {"labelled_features": features[2]}

    def _predictions(
        self, views: list[Tensor], support: list[Tensor], labels: Tensor, replica: Replica
    ) -> list[Tensor]:
        """The class probabilities (b, C) of each view among the support rows of all replicas."""
        params = self._params
        gathered = [replica.all_gather(rows) for rows in support]
        targets = smoothed_one_hot(
            replica.all_gather(labels), self._num_classes, params.label_smoothing, gathered[0].dtype
        )
        rows, all_targets = ops.concatenate(gathered, axis=0), ops.concatenate([targets] * len(gathered), axis=0)
        return [soft_nearest_neighbours(view, rows, all_targets, params.temperature) for view in views]

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Nothing to do."""

    def variable_groups(self) -> list[VariableGroup]:
        """Encoder and head, decayed but for rank 1."""
        return decay_groups(list(self.modules.values()))

    def export_encoder(self) -> keras.Model:
        """The trained encoder, without the head."""
        return self._encoder
