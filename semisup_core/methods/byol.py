"""BYOL: predicting what a slowly moving copy of the network makes of another view of the same image.

Grill, Strub, Altché, Tallec, Richemond, Buchatskaya, Doersch, Avila Pires, Guo, Gheshlaghi Azar, Piot, Kavukcuoglu,
Munos, Valko, "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", 2020, arXiv 2006.07733, eq. 2,
algorithm 1, and sec. 3.3 for the rising momentum.

Departures: both views are drawn from one policy (the paper blurs and solarizes them with different probabilities); the
run's optimiser instead of LARS; both views go through each network in one call, so BatchNorm sees them as one batch
(there each view by itself).
"""

import math
from typing import Any

import keras
from keras import ops

from semisup_core.methods import ByolParams
from semisup_core.methods.base import (
    Batch,
    Progress,
    Tensor,
    VariableGroup,
    View,
    decay_groups,
    encode_and_project,
    encode_views,
    projection_head,
)
from semisup_core.methods.teacher import Teacher
from semisup_core.replica import Replica
from semisup_core.similarity import normalize


def normalized_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Per-row squared distance of the two directions, 2 - 2 cosine.

    Args:
        predictions: (N, D), any length.
        targets: (N, D), any length.

    Returns:
        (N,) in [0, 4].

    Reference: 2006.07733, eq. 2.
    """
    return 2 - 2 * ops.sum(normalize(predictions) * normalize(targets), axis=-1)


class Byol:
    """Encoder, projection and prediction head (the online network) and the moving average of the first two."""

    views = (View("unlabelled", "unlabelled", "strong", count=2),)
    classifier = None

    def __init__(self, params: ByolParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds both heads and the target network."""
        self._params = params
        self._encoder = encoder
        self._head = projection_head(encoder.output_shape[-1], params.projection)
        students = {"encoder": encoder} | ({"projection": self._head} if self._head else {})
        self._teacher = Teacher(students)
        width = (self._head or encoder).output_shape[-1]
        self._predictor = projection_head(width, (*params.prediction, width), name="prediction")
        self._trained = {**students, "prediction": self._predictor}
        self.modules = {**self._trained, **self._teacher.modules}

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """The sum over both directions of the mean squared distance between prediction and target."""
        views = list(batch.images["unlabelled"])
        predictions = encode_views(self._predictor, encode_and_project(self._encoder, self._head, views))
        targets = self._teacher.encode(views)
        both = [normalized_squared_error(predictions[i], targets[1 - i]) for i in (0, 1)]
        return ops.mean(both[0]) + ops.mean(both[1]), {}, {}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """The target network follows, the more slowly the further the run: momentum rises to 1 along a cosine."""
        remaining = (ops.cos(math.pi * progress.fraction) + 1) / 2
        self._teacher.follow(1 - (1 - self._params.momentum) * remaining)

    def variable_groups(self) -> list[VariableGroup]:
        """The online network, decayed but for rank 1."""
        return decay_groups(list(self._trained.values()))

    def export_encoder(self) -> keras.Model:
        """The online encoder, without heads."""
        return self._encoder
