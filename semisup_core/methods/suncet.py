"""SuNCEt: InfoNCE on pairs of unlabelled views plus noise-contrastive estimation of labelled neighbours.

Assran, Ballas, Castrejon, Rabbat, "Supervision Accelerates Pre-training in Contrastive Semi-Supervised Learning of
Visual Representations", 2020, arXiv 2006.10803, eq. 2; the unlabelled term after van den Oord, Li, Vinyals,
"Representation Learning with Contrastive Predictive Coding", 2018, arXiv 1807.03748, eq. 4.

Departures: the unlabelled term compares the first views with all second views in one direction, with the B - 1 other
second views as negatives (the paper adds SuNCEt to SimCLR's symmetric loss over 2B - 2); the labelled term uses one
view of each image and cosine similarity at the same temperature; the labelled term is not switched off in mid-run.
All views go through the encoder in one call, so BatchNorm sees unlabelled and labelled images together.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods import SuncetParams
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
from semisup_core.similarity import info_nce, neighbour_cross_entropy


class Suncet:
    """Encoder and optional projection head trained on unlabelled pairs and labelled neighbours."""

    views = (View("unlabelled", "unlabelled", "strong", count=2), View("labelled", "labelled", "strong"))
    classifier = None

    def __init__(self, params: SuncetParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds the projection head, if one is asked for."""
        self._temperature = params.temperature
        self._supervised_weight = params.supervised_weight
        self._encoder = encoder
        self._head = projection_head(encoder.output_shape[-1], params.projection)
        self.modules = {"encoder": encoder} | ({"projection": self._head} if self._head else {})

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Unlabelled InfoNCE plus `supervised_weight` times the labelled term."""
        views = [*batch.images["unlabelled"], *batch.images["labelled"]]
        features = encode_views(self._encoder, views)
        first, second, labelled = project_views(self._head, features)
        unlabelled = ops.mean(
            info_nce(first, replica.all_gather(second), replica.positions(first.shape[0]), self._temperature)
        )
        losses, has_positive = neighbour_cross_entropy(
            labelled,
            batch.labels,
            references=replica.all_gather(labelled),
            reference_labels=replica.all_gather(batch.labels),
            itself=replica.positions(labelled.shape[0]),
            temperature=self._temperature,
        )
        supervised = replica.mean_where(losses, has_positive)
        loss = unlabelled + self._supervised_weight * supervised
        return loss, {"unlabelled_loss": unlabelled, "supervised_loss": supervised}, {"labelled_features": features[2]}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Nothing to do."""

    def variable_groups(self) -> list[VariableGroup]:
        """Encoder and head, decayed but for rank 1."""
        return decay_groups(list(self.modules.values()))

    def export_encoder(self) -> keras.Model:
        """The trained encoder, without the head."""
        return self._encoder
