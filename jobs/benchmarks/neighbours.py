"""Embeddings beside the forward pass alone, and nearest neighbours beside the libraries one would use instead."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from semisup_core.data.store import Store
from semisup_core.encoders.build import exported
from semisup_core.evaluation.embed import BATCH, Embedder
from semisup_core.evaluation.knn import nearest

K = 20


def embedding(encoder: keras.Model, store: Store, images: int) -> dict[str, Callable[[], Any]]:
    """The pass that evaluation makes over stored images, and as many forward passes over images in memory.

    Args:
        encoder: as it is trained.
        store: of at least as many images.
        images: to embed, whole batches.
    """
    plain = exported(encoder)
    embedder, forward = Embedder(plain), tf.function(lambda batch: plain(batch, training=False))
    held = tf.cast(store.read(np.arange(BATCH)), keras.config.floatx())

    def bare() -> None:
        for _ in range(images // BATCH):
            forward(held).numpy()

    return {"embedding": lambda: embedder(store, np.arange(images)), "forward": bare}


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
