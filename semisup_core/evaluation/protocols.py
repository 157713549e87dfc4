"""Evaluation protocols by name; every reported accuracy carries one."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from semisup_core.evaluation.knn import knn_votes
from semisup_core.evaluation.linear import linear_predictions


class Measured(NamedTuple):
    """One accuracy and how it was measured.

    Attributes:
        protocol: its name.
        accuracy: fraction right.
        images: how many were predicted.
        note: what differs from the protocol's name (k capped at the bank), or "".
    """

    protocol: str
    accuracy: float
    images: int
    note: str = ""


# Words for tables and summary.json.
DESCRIPTIONS = {
    "knn20": "cosine kNN, k = 20, plain vote of the labelled training images (equal votes: the more similar class), "
    "encoder output, no augmentation",
    "knn200": "cosine kNN, k = 200, plain vote of the labelled training images (equal votes: the more similar class; k "
    "capped at the bank, where every vote can be equal), encoder output, no augmentation",
    "linear": "scikit-learn logistic regression (L2, C = 1) on standardised features of the labelled training images",
    "classifier": "the method's own classifier on the encoder output, no augmentation",
}


def measure(
    protocols: Sequence[str],
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    num_classes: int,
    classifier: Callable[[np.ndarray], Any] | None = None,
) -> list[Measured]:
    """Accuracy under each protocol.

    Args:
        protocols: names out of DESCRIPTIONS.
        bank: (M, D) features of the labelled training images, the only ones anything is fitted on.
        bank_labels: (M,) int.
        queries: (N, D).
        query_labels: (N,) int.
        num_classes: C.
        classifier: features (N, D) -> logits (N, C), for the "classifier" protocol.

    Returns:
        One entry a protocol, in order; "classifier" is left out when there is none.
    """
    results = []
    for protocol in protocols:
        note = ""
        if protocol == "classifier":
            if classifier is None:
                continue
            predicted = np.argmax(np.asarray(classifier(queries)), axis=1)
        elif protocol == "linear":
            predicted = linear_predictions(bank, bank_labels, queries)
        else:
            k = int(protocol.removeprefix("knn"))
            predicted = knn_votes(bank, bank_labels, queries, k=k, num_classes=num_classes)
            note = f"k capped at {len(bank)}" if k > len(bank) else ""
        accuracy = float(np.mean(predicted == query_labels))
        results.append(Measured(protocol, accuracy, len(query_labels), note))
    return results
