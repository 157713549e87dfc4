"""Embeddings in two dimensions, for the eye; no distance in them is to be measured."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

_PERPLEXITY = 30.0  # scikit-learn's default; must stay below the number of points


def pca_map(features: np.ndarray) -> np.ndarray:
    """The two principal components of features scaled to unit length, as cosine protocols see them.

    Args:
        features: (N, D), N and D above 1.

    Returns:
        (N, 2).
    """
    return PCA(2, svd_solver="full").fit_transform(_unit(features))


def tsne_map(features: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of features scaled to unit length.

    Args:
        features: (N, D), N above 3.
        seed: of what little is random with a PCA start.

    Returns:
        (N, 2).

    Reference: van der Maaten, Hinton, "Visualizing Data using t-SNE", 2008.
    """
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    with threadpool_limits(
        1
    ):  # on a shared machine its threads wait for each other: 11 s against 47 s for 2,000 points
        return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(_unit(features))


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
