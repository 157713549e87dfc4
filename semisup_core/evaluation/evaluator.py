"""Evaluating a method in mid-run: what is measured is the encoder that a user will get."""

from collections.abc import Sequence

import numpy as np

from semisup_core.data.splits import Split
from semisup_core.data.store import Store
from semisup_core.encoders.build import copy_weights, exported
from semisup_core.evaluation.embed import Embedder, pixels
from semisup_core.evaluation.protocols import Measured, measure
from semisup_core.methods.base import Method


class Evaluator:
    """Measures a method's exported encoder on a pool of the split.

    It runs a copy of the encoder outside the strategy, so it needs no other worker and no replica.

    Attributes:
        encoder: the copy, with the weights of the last measurement.
        classifier: likewise the method's classifier, or None.
    """

    def __init__(self, method: Method, store: Store, split: Split) -> None:
        """Copies the encoder and the classifier.

        Args:
            method: the method under training.
            store: where the images are.
            split: the bank is its labelled rows, nothing else.
        """
        self._method, self._store, self._split = method, store, split
        self.encoder = exported(method.export_encoder())
        self.classifier = exported(method.classifier) if method.classifier else None
        self._embed = Embedder(self.encoder)

    def update(self) -> None:
        """Gives `encoder` and `classifier` the method's present weights."""
        copy_weights(self._method.export_encoder(), self.encoder)
        if self.classifier:
            copy_weights(self._method.classifier, self.classifier)

    def measure(self, pool: str, protocols: Sequence[str]) -> list[Measured]:
        """The accuracies of the method's present weights.

        Args:
            pool: "validation" or "test".
            protocols: names.

        Returns:
            One entry a protocol.
        """
        self.update()
        rows = getattr(self._split, pool)
        bank = self._embed(self._store, self._split.labelled)
        return self._measured(protocols, bank, self._embed(self._store, rows), rows)

    def measure_pixels(self, pool: str, protocols: Sequence[str]) -> list[Measured]:
        """The same protocols on raw pixels, without "classifier"; no protocol costs nothing."""
        rows = getattr(self._split, pool)
        kept = [protocol for protocol in protocols if protocol != "classifier"]
        if not kept:
            return []
        return self._measured(kept, pixels(self._store, self._split.labelled), pixels(self._store, rows), rows)

    def _measured(
        self, protocols: Sequence[str], bank: np.ndarray, queries: np.ndarray, rows: np.ndarray
    ) -> list[Measured]:
        labels = self._store.labels
        return measure(
            protocols,
            bank,
            np.asarray(labels[self._split.labelled]),
            queries,
            np.asarray(labels[rows]),
            num_classes=len(self._store.class_names),
            classifier=self.classifier,
        )
