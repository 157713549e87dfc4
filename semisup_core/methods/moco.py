"""MoCo: InfoNCE against a queue of keys that a slowly moving copy of the encoder made of earlier batches.

He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", 2019, arXiv 1911.05722,
eq. 1 and 2, algorithm 1; the two-layer head and the temperature of 0.2 are those of Chen, Fan, Girshick, He, "Improved
Baselines with Momentum Contrastive Learning", 2020, arXiv 2003.04297 (v2). The queue starts with random directions, as
in the authors' code.

Departures: BatchNorm is synchronised over all replicas instead of shuffled between them (sec. 3.3), so that the result
does not depend on their number; queries and keys of a batch then share statistics, which tells the positive apart from
the queue (the authors' CIFAR-10 demo puts the loss at 4 points after 800 epochs). Views are the run's strong policy (v2
adds blur), the optimiser is the run's (there SGD), and the queue may have any size of at least one batch.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.chunks import by_anchors
from semisup_core.methods import MocoParams
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
from semisup_core.methods.teacher import Teacher
from semisup_core.replica import Replica
from semisup_core.similarity import normalize


def queue_cross_entropy(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Per-row softmax cross-entropy of picking the row's own key among itself and all keys of the queue.

    Args:
        queries: (N, D), unit length.
        keys: (N, D), unit length; row i is the positive of query i. They are targets, without a gradient.
        queue: (K, D), unit length, the negatives.
        temperature: divides the cosine similarities.

    Returns:
        (N,) losses.

    Reference: 1911.05722, eq. 1.
    """

    def losses(queries: Tensor, queue: Tensor, keys: Tensor) -> Tensor:
        positive = ops.sum(queries * keys, axis=-1, keepdims=True)
        logits = ops.concatenate([positive, ops.matmul(queries, ops.transpose(queue))], axis=1) / temperature
        return ops.logsumexp(logits, axis=1) - logits[:, 0]

    return by_anchors(losses, queries, [queue], [keys])


class KeyQueue(keras.layers.Layer):
    """The keys of the latest batches, newest first.

    Attributes:
        keys: (K, D), unit length.
    """

    def __init__(self, size: int, width: int) -> None:
        """Fills the queue with random directions.

        Args:
            size: K.
            width: D.
        """
        super().__init__(name="queue")
        self.keys = self.add_weight(shape=(size, width), initializer="random_normal", trainable=False, name="keys")
        self.keys.assign(normalize(self.keys.value))

    def push(self, keys: Tensor) -> None:
        """Puts a global batch of keys (B, D), in global order, in front and drops as many old ones."""
        latest = ops.concatenate([ops.cast(keys, self.keys.dtype), self.keys.value], axis=0)
        self.keys.assign(latest[: self.keys.shape[0]])


class Moco:
    """Encoder and projection head (the query network), their moving average (the key network) and the queue."""

    views = (
        View("query", "unlabelled", "strong"),
        View("key", "unlabelled", "strong", no_gradient=True),
    )
    classifier = None

    def __init__(self, params: MocoParams, encoder: keras.Model, num_classes: int) -> None:
        """Builds head, key network and queue."""
        self._params = params
        self._encoder = encoder
        self._head = projection_head(encoder.output_shape[-1], params.projection, norm=False)
        students = {"encoder": encoder} | ({"projection": self._head} if self._head else {})
        self._students, self._teacher = list(students.values()), Teacher(students)
        self._queue = KeyQueue(params.queue_size, self._students[-1].output_shape[-1])
        self.modules = {**students, **self._teacher.modules, "queue": self._queue}

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """The queries' loss against their keys and the queue; carries the keys of all replicas."""
        (query_images,), (key_images,) = batch.images["query"], batch.images["key"]
        (queries,) = encode_and_project(self._encoder, self._head, [query_images])
        keys = normalize(self._teacher.encode([key_images])[0])
        losses = queue_cross_entropy(normalize(queries), keys, self._queue.keys.value, self._params.temperature)
        return ops.mean(losses), {}, {"keys": replica.all_gather(keys)}

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """The key network follows, and this step's keys enter the queue."""
        self._teacher.follow(self._params.momentum)
        self._queue.push(carry["keys"])

    def variable_groups(self) -> list[VariableGroup]:
        """The query network, decayed but for rank 1."""
        return decay_groups(self._students)

    def export_encoder(self) -> keras.Model:
        """The query encoder, without the head."""
        return self._encoder
