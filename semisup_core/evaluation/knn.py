"""Nearest neighbours by cosine, and the votes of their labels, in bounded memory."""

from collections.abc import Iterator

import numpy as np

_LARGEST_BLOCK = 2**24  # similarities held at once: 64 MiB of float32


def nearest(bank: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The most similar bank rows of each query.

    Args:
        bank: (M, D).
        queries: (N, D).
        k: neighbours; capped at M.

    Returns:
        (N, k) rows of the bank, most similar first, and (N, k) float32 cosines.
    """
    rows, cosines = [], []
    for similarities in _blocks(bank, queries):
        near, values = _most_similar(similarities, min(k, len(bank)))
        order = np.argsort(-values, axis=1, kind="stable")
        rows.append(np.take_along_axis(near, order, axis=1))
        cosines.append(np.take_along_axis(values, order, axis=1))
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
            _shares(*_most_similar(similarities, k), bank_labels, temperature, num_classes)
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


def _most_similar(similarities: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) columns with the largest values, in no order, and those values."""
    if k == similarities.shape[1]:
        return np.broadcast_to(np.arange(k), similarities.shape), similarities
    rows = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    return rows, np.take_along_axis(similarities, rows, axis=1)


def _blocks(bank: np.ndarray, queries: np.ndarray) -> Iterator[np.ndarray]:
    """Cosines (n, M) of some queries at a time with the whole bank."""
    bank, queries = _unit(bank), _unit(queries)
    rows = max(1, _LARGEST_BLOCK // len(bank))
    for start in range(0, len(queries), rows):
        yield queries[start : start + rows] @ bank.T


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
