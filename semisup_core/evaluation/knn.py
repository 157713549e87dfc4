"""Nearest neighbours by cosine, and the votes of their labels, in bounded memory.

Every pair is compared, by TensorFlow: exact, on all threads of the process, and faster than scikit-learn's brute force
or faiss's flat index (docs/performance.md).
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

# Similarities held at once, 16 MiB of float32: they stay in the cache from the product to the selection. A large bank
# still gets a few queries at a time, or the product would read all of it for each.
_LARGEST_BLOCK, _FEWEST_QUERIES = 2**22, 16


def nearest(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The most similar bank rows of each query.

    Args:
        bank: (M, D).
        queries: (N, D).
        k: neighbours; capped at M.

    Returns:
        (N, k) rows of the bank, most similar first (of equals, the first of the bank), and (N, k) float32 cosines.
    """
    found = [_most_similar(similarities, min(k, len(bank))) for similarities in _blocks(bank, queries)]
    rows, cosines = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(cosines)


def neighbour_shares(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    *,
    k: int | None,
    temperature: float | None,
    num_classes: int,
) -> np.ndarray:
    """Each class's share of the votes of the most cosine-similar bank rows.

    Args:
        bank: (M, D).
        bank_labels: (M,) int.
        queries: (N, D).
        k: neighbours that vote, capped at M; None for the whole bank.
        temperature: a vote weighs exp(cosine / temperature); None for plain votes, where equal counts are decided by
            the sum of the voters' cosines.
        num_classes: C.

    Returns:
        (N, C) float64, rows sum to 1.
    """
    k = len(bank) if k is None else min(k, len(bank))
    return np.concatenate(
        [
            _shares(*_voters(similarities, k), bank_labels, temperature, num_classes)
            for similarities in _blocks(bank, queries)
        ]
    )


def _shares(
    rows: np.ndarray, cosines: np.ndarray, bank_labels: np.ndarray, temperature: float | None, num_classes: int
) -> np.ndarray:
    queries, k = cosines.shape
    cosines = cosines.astype(np.float64)
    if temperature is None:
        weights = 1 + cosines / (4 * k)  # a cosine, at most 1 each, is scaled to decide only between equal counts
    else:
        weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
    cells = bank_labels[rows] + num_classes * np.arange(queries)[:, None]
    votes = np.bincount(cells.ravel(), weights.ravel(), minlength=queries * num_classes).reshape(queries, num_classes)
    return votes / votes.sum(axis=1, keepdims=True)


def _voters(similarities: tf.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`_most_similar`, but nothing is sorted when all vote."""
    if k < similarities.shape[1]:
        return _most_similar(similarities, k)
    return np.broadcast_to(np.arange(k), similarities.shape), similarities.numpy()


def _most_similar(similarities: tf.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) columns with the largest values, largest first, and those values."""
    values, columns = tf.math.top_k(similarities, k)
    return columns.numpy(), values.numpy()


def _blocks(bank: np.ndarray, queries: np.ndarray) -> Iterator[tf.Tensor]:
    """Cosines (n, M) of some queries at a time with the whole bank."""
    units, queries = tf.constant(_unit(bank)), _unit(queries)
    rows = max(_FEWEST_QUERIES, _LARGEST_BLOCK // len(bank))
    for start in range(0, len(queries), rows):
        yield tf.matmul(queries[start : start + rows], units, transpose_b=True)


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
