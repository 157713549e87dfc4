"""Nearest neighbours by cosine, and the votes of their labels, in bounded memory.

Every pair is compared, by TensorFlow: exact, on all threads of the process, and no slower than faiss's flat index
(docs/performance.md).
"""

from collections.abc import Iterator

import numpy as np

# A part of the bank and the queries that meet it: 16 MiB of similarities, which stay in the cache till they are used.
_BANK_ROWS, _QUERIES = 2**14, 2**8
_LARGEST_BLOCK = 2**22  # similarities held at once where the whole bank votes


def nearest(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The most similar bank rows of each query.

    Args:
        bank: (M, D).
        queries: (N, D).
        k: neighbours; capped at M.

    Returns:
        (N, k) rows of the bank, most similar first (of equals, the first of the bank), and (N, k) float32 cosines.
    """
    rows, cosines = zip(*_neighbours(bank, queries, min(k, len(bank))), strict=True)
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
    voters = _everybody(bank, queries) if k == len(bank) else _neighbours(bank, queries, k)
    return np.concatenate([_shares(rows, cosines, bank_labels, temperature, num_classes) for rows, cosines in voters])


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


def _neighbours(bank: np.ndarray, queries: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(n, k) rows of the bank that are most similar to n queries at a time, most similar first, and their cosines."""
    import tensorflow as tf  # not for whoever only names a protocol, as a driver does

    units, queries = tf.constant(_unit(bank)), _unit(queries)
    parts = [(start, units[start : start + _BANK_ROWS]) for start in range(0, len(bank), _BANK_ROWS)]
    for first in range(0, len(queries), _QUERIES):
        some, rows, cosines = tf.constant(queries[first : first + _QUERIES]), [], []
        for start, part in parts:
            best = tf.math.top_k(tf.matmul(some, part, transpose_b=True), min(k, part.shape[0]))
            rows.append(best.indices + start)
            cosines.append(best.values)
        best = tf.math.top_k(tf.concat(cosines, axis=1), k)
        yield tf.gather(tf.concat(rows, axis=1), best.indices, batch_dims=1).numpy(), best.values.numpy()


def _everybody(bank: np.ndarray, queries: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All (n, M) rows of the bank for n queries at a time, unsorted, and their cosines."""
    import tensorflow as tf  # not for whoever only names a protocol, as a driver does

    units, queries = tf.constant(_unit(bank)), _unit(queries)
    count = max(1, _LARGEST_BLOCK // len(bank))
    for first in range(0, len(queries), count):
        cosines = tf.matmul(queries[first : first + count], units, transpose_b=True).numpy()
        yield np.broadcast_to(np.arange(len(bank)), cosines.shape), cosines


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
