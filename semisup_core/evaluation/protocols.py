"""Evaluation protocols by name; every reported accuracy carries one.

A protocol is fitted on the labelled training images, the bank, and then gives each class a share of every query; the
class with the largest share is predicted, and its share is the confidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from semisup_core.evaluation.knn import neighbour_shares
from semisup_core.evaluation.linear import fit_linear, linear_shares
from semisup_core.evaluation.scores import balanced_accuracy, wilson_interval

_TEMPERATURE = 0.1

# Words for tables and summary.json. Measured baselines are kept under them: whoever changes what a protocol does
# changes its words.
DESCRIPTIONS = {
    "knn20": "cosine kNN, k = 20, plain vote of the labelled training images (equal votes: the more similar class), "
    "encoder output, no augmentation",
    "knn200": "cosine kNN, k = 200, plain vote of the labelled training images (equal votes: the more similar class; k "
    "capped at the bank, where every vote can be equal), encoder output, no augmentation",
    "knn200_t0.1": "cosine kNN, k = 200 (capped at the bank), votes of the labelled training images weighted by "
    "exp(cosine / 0.1), encoder output, no augmentation (Wu et al. 2018, arXiv 1805.01978, with temperature 0.1)",
    "soft_nn": "soft nearest neighbours: softmax of cosine / 0.1 over all labelled training images, summed by class, "
    "encoder output, no augmentation (Assran et al. 2021, arXiv 2104.13963)",
    "linear": "scikit-learn logistic regression (L2, C = 1) on standardised features of the labelled training images",
    "classifier": "the method's own classifier on the encoder output, no augmentation",
}

# k (None: the whole bank) and temperature (None: plain votes) of the protocols that look at neighbours.
_NEIGHBOURS: dict[str, tuple[int | None, float | None]] = {
    "knn20": (20, None),
    "knn200": (200, None),
    "knn200_t0.1": (200, _TEMPERATURE),
    "soft_nn": (None, _TEMPERATURE),
}


class Measured(NamedTuple):
    """One accuracy and how it was measured.

    Attributes:
        protocol: its name.
        accuracy: fraction right.
        images: how many were predicted.
        note: what differs from the protocol's name (k capped at the bank), or "".
        interval: 95 % Wilson interval of the accuracy, over test images.
        balanced_accuracy: mean over classes of the fraction right.
    """

    protocol: str
    accuracy: float
    images: int
    note: str
    interval: tuple[float, float]
    balanced_accuracy: float


@dataclass(frozen=True)
class Predictor:
    """A protocol fitted on a bank.

    Attributes:
        protocol: its name.
        note: as in `Measured`.
        shares: queries (N, D) -> (N, C), each class's share; rows sum to 1.
    """

    protocol: str
    note: str
    shares: Callable[[np.ndarray], np.ndarray]

    def predict(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predicted classes (N,) and their shares (N,) of queries (N, D)."""
        shares = self.shares(queries)
        return shares.argmax(axis=1), shares.max(axis=1)


def fit(
    protocol: str,
    bank: np.ndarray,
    bank_labels: np.ndarray,
    num_classes: int,
    classifier: Callable[[np.ndarray], Any] | None = None,
) -> Predictor | None:
    """Fits a protocol.

    Args:
        protocol: a name out of DESCRIPTIONS.
        bank: (M, D) features of the labelled training images, the only ones anything is fitted on.
        bank_labels: (M,) int.
        num_classes: C.
        classifier: features (N, D) -> logits (N, C), for "classifier".

    Returns:
        The predictor, or None for "classifier" when there is none.
    """
    if protocol == "classifier":
        if classifier is None:
            return None
        return Predictor(protocol, "", lambda queries: softmax(np.asarray(classifier(queries), np.float64), axis=1))
    if protocol == "linear":
        model = fit_linear(bank, bank_labels)
        return Predictor(protocol, "", partial(linear_shares, model, num_classes=num_classes))
    k, temperature = _NEIGHBOURS[protocol]
    shares = partial(neighbour_shares, bank, bank_labels, k=k, temperature=temperature, num_classes=num_classes)
    return Predictor(protocol, f"k capped at {len(bank)}" if k and k > len(bank) else "", shares)


def score(predictor: Predictor, predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> Measured:
    """The accuracy of predictions.

    Args:
        predictor: what predicted them.
        predicted: (N,) int.
        labels: (N,) int.
        num_classes: C.
    """
    right, images = int(np.sum(predicted == labels)), len(labels)
    balanced = balanced_accuracy(labels, predicted, num_classes)
    interval = wilson_interval(right, images)
    return Measured(predictor.protocol, right / images, images, predictor.note, interval, balanced)


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
        bank: (M, D) features of the labelled training images.
        bank_labels: (M,) int.
        queries: (N, D), at least one.
        query_labels: (N,) int.
        num_classes: C.
        classifier: features (N, D) -> logits (N, C), for the "classifier" protocol.

    Returns:
        One entry a protocol, in order; "classifier" is left out when there is none.
    """
    fitted = [fit(protocol, bank, bank_labels, num_classes, classifier) for protocol in protocols]
    return [
        score(predictor, predictor.predict(queries)[0], query_labels, num_classes) for predictor in fitted if predictor
    ]
