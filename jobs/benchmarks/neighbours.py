"""Nearest neighbours, beside the two libraries that one would use for them instead."""

from collections.abc import Callable
from typing import Any

import numpy as np

from semisup_core.evaluation.knn import nearest

K = 20


def searches(bank_rows: int, query_rows: int, width: int = 128) -> dict[str, Callable[[], Any]]:
    """Queries against a bank of random features, ready to be timed: ours, scikit-learn's by brute force, faiss's flat.

    Args:
        bank_rows: of the bank.
        query_rows: queries of a call.
        width: of a feature.

    Returns:
        By name; faiss only where it is installed.
    """
    rng = np.random.default_rng(0)
    bank, queries = (rng.standard_normal((rows, width), np.float32) for rows in (bank_rows, query_rows))
    functions: dict[str, Callable[[], Any]] = {"semisup_core": lambda: nearest(bank, queries, K)}
    unit_bank, unit_queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (bank, queries))

    from sklearn.neighbors import NearestNeighbors

    brute = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(unit_bank)
    functions["scikit-learn"] = lambda: brute.kneighbors(unit_queries)
    try:
        import faiss
    except ImportError:
        return functions
    index = faiss.IndexFlatIP(width)
    index.add(unit_bank)
    functions["faiss"] = lambda: index.search(unit_queries, K)
    return functions
