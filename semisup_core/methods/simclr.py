"""SimCLR: contrastive pretraining without labels through a projection head.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", 2020,
arXiv 2002.05709, eq. 1 (NT-Xent, `negatives=both_views`); and the form of the Keras example "Semi-supervised image
classification using contrastive pretraining with SimCLR" (Béres, 2021): InfoNCE in both directions between the views
(`negatives=other_view`), a head without BatchNorm (`projection_norm=false`).

Departures: the paper trains with LARS, here it is the run's optimiser. The Keras example adds its labelled batch to the
contrastive one; here the unlabelled pool contains the labelled images. Both views go through the encoder in one call,
so BatchNorm sees them as one batch.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.methods import SimclrParams
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
from semisup_core.similarity import info_nce, nt_xent


class Simclr:
    """Encoder and projection head trained on unlabelled pairs."""

    views = (View("unlabelled", "unlabelled", "strong", count=2),)
    classifier = None

    def __init__(self, params: SimclrParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds the projection head."""
        self._params = params
        self._encoder = encoder
        self._head = projection_head(encoder.output_shape[-1], params.projection, norm=params.projection_norm)
        self.modules = {"encoder": encoder} | ({"projection": self._head} if self._head else {})

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """The mean over both views of each row's loss."""
        first, second = encode_and_project(self._encoder, self._head, list(batch.images["unlabelled"]))
        all_first, all_second = replica.all_gather(first), replica.all_gather(second)
        places, temperature = replica.positions(first.shape[0]), self._params.temperature
        if self._params.negatives == "both_views":
            losses = [
                nt_xent(first, all_second, all_first, places, temperature),
                nt_xent(second, all_first, all_second, places, temperature),
            ]
        else:
            losses = [
                info_nce(first, all_second, places, temperature),
                info_nce(second, all_first, places, temperature),
            ]
        return ops.mean(ops.stack(losses)), {}, {}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Nothing to do."""

    def variable_groups(self) -> list[VariableGroup]:
        """Encoder and head, decayed but for rank 1."""
        return decay_groups(list(self.modules.values()))

    def export_encoder(self) -> keras.Model:
        """The trained encoder, without the head."""
        return self._encoder
