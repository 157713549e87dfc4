"""InfoNCE on pairs of views, without labels: the self-supervised part of the four-method study.

van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, arXiv 1807.03748, eq. 4,
on two views of an image instead of past and future.

Departures: cosine similarity at a temperature instead of a bilinear form; the first views are compared with all second
views in one direction, as in the study, with B - 1 negatives. Both views go through the encoder in one call.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods import InfoNCEParams
from semisup_core.methods.base import (
    Batch,
    Progress,
    Tensor,
    VariableGroup,
    View,
    decay_groups,
    encode_and_project,
    projection_head,
)
from semisup_core.replica import Replica
from semisup_core.similarity import info_nce


class InfoNCE:
    """Encoder and optional projection head trained on unlabelled pairs."""

    views = (View("unlabelled", "unlabelled", "strong", count=2),)
    classifier = None

    def __init__(self, params: InfoNCEParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds the projection head, if one is asked for."""
        self._temperature = params.temperature
        self._encoder = encoder
        self._head = projection_head(encoder.output_shape[-1], params.projection)
        self.modules = {"encoder": encoder} | ({"projection": self._head} if self._head else {})

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Mean InfoNCE of the first views."""
        first, second = encode_and_project(self._encoder, self._head, list(batch.images["unlabelled"]))
        losses = info_nce(first, replica.all_gather(second), replica.positions(first.shape[0]), self._temperature)
        return ops.mean(losses), {}, {}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Nothing to do."""

    def variable_groups(self) -> list[VariableGroup]:
        """Encoder and head, decayed but for rank 1."""
        return decay_groups(list(self.modules.values()))

    def export_encoder(self) -> keras.Model:
        """The trained encoder, without the head."""
        return self._encoder
