"""Nearest-neighbour classification in bounded memory."""

import numpy as np

_LARGEST_BLOCK = 2**24  # similarities held at once: 64 MiB of float32


def knn_votes(
    bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray, *, k: int, num_classes: int
) -> np.ndarray:
    """Plain votes of the k most cosine-similar bank rows.

    Args:
        bank: (M, D).
        bank_labels: (M,) int.
        queries: (N, D).
        k: neighbours; capped at M.
        num_classes: C.

    Returns:
        (N,) predicted classes; a tie goes to the class whose voters are more similar in sum.
    """
    bank, queries = _unit(bank), _unit(queries)
    k = min(k, len(bank))
    rows = max(1, _LARGEST_BLOCK // len(bank))
    predicted = []
    for start in range(0, len(queries), rows):
        similarities = queries[start : start + rows] @ bank.T
        nearest = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
        classes = bank_labels[nearest]
        # A vote counts 1; the similarity, at most 1 each, is scaled to decide only between equal counts.
        weights = 1 + np.take_along_axis(similarities, nearest, axis=1).astype(np.float64) / (4 * k)
        votes = np.zeros((len(classes), num_classes))
        np.add.at(votes, (np.arange(len(classes))[:, None], classes), weights)
        predicted.append(votes.argmax(axis=1))
    return np.concatenate(predicted)


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
