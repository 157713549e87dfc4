"""Similarities and the distributions made of them: pure functions of tensors, at least float32.

B, S, D, C as in `methods.base`: rows, support rows, feature width, classes.
"""

from typing import Any

import keras
from keras import ops

from semisup_core.chunks import by_anchors

Tensor = Any

# Added under a root, so that a zero vector has a finite gradient; far below float32's resolution of 1e-7 around 1.
TINY = 1e-12
# Stands for minus infinity in a masked softmax: finite, so that 0 * MASKED never makes a NaN in a gradient.
MASKED = -1e9
# Floor of a probability under a logarithm: its loss of 16 is beyond any that training starts from. Keras uses it too.
SMALLEST_PROBABILITY = 1e-7


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    # Labels and counts stay as they are.
    half = keras.backend.standardize_dtype(values.dtype) in ("float16", "bfloat16")
    return ops.cast(values, "float32") if half else values


def normalize(features: Tensor) -> Tensor:
    """Rows scaled to unit length.

    Args:
        features: (N, D).

    Returns:
        (N, D), at least float32.
    """
    features = at_least_float32(features)
    return features * ops.rsqrt(ops.sum(ops.square(features), axis=-1, keepdims=True) + TINY)


def cosine_similarities(features: Tensor, references: Tensor) -> Tensor:
    """Cosine of every pair.

    Args:
        features: (N, D), any length.
        references: (M, D), any length.

    Returns:
        (N, M) in [-1, 1].
    """
    return ops.matmul(normalize(features), ops.transpose(normalize(references)))


def info_nce(features: Tensor, references: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Per-row InfoNCE: softmax cross-entropy of picking the positive among all references.

    Args:
        features: (N, D), the anchors.
        references: (M, D), what they are compared with; the positive is among them.
        positives: (N,) int, the index in `references` of each anchor's positive.
        temperature: divides the cosine similarities.

    Returns:
        (N,) losses.

    Reference: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, eq. 4.
    """

    def losses(features: Tensor, references: Tensor, positives: Tensor) -> Tensor:
        logits = cosine_similarities(features, references) / temperature
        return keras.losses.sparse_categorical_crossentropy(positives, logits, from_logits=True)

    return by_anchors(losses, features, [references], [positives])


def nt_xent(features: Tensor, counterparts: Tensor, siblings: Tensor, positions: Tensor, temperature: float) -> Tensor:
    """Per-row NT-Xent: InfoNCE whose negatives are the other rows of both views, 2N - 2 of them.

    Args:
        features: (n, D), rows of one view, the anchors.
        counterparts: (N, D), all rows of the other view; row `positions[i]` is the positive of anchor i.
        siblings: (N, D), all rows of the anchors' own view; row `positions[i]` is anchor i and is left out.
        positions: (n,) int.
        temperature: divides the cosine similarities.

    Returns:
        (n,) losses.

    Reference: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
        Representations", 2020, eq. 1.
    """

    def losses(features: Tensor, counterparts: Tensor, siblings: Tensor, positions: Tensor) -> Tensor:
        to_siblings = cosine_similarities(features, siblings) / temperature
        itself = ops.arange(ops.shape(siblings)[0], dtype="int32")[None, :] == positions[:, None]
        logits = [cosine_similarities(features, counterparts) / temperature, ops.where(itself, MASKED, to_siblings)]
        logits = ops.concatenate(logits, axis=1)
        return keras.losses.sparse_categorical_crossentropy(positions, logits, from_logits=True)

    return by_anchors(losses, features, [counterparts, siblings], [positions])


def soft_nearest_neighbours(features: Tensor, support: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Class probabilities of each row: the support rows' targets, weighted by a softmax of their similarities.

    Args:
        features: (N, D).
        support: (S, D), features of the labelled images.
        targets: (S, C), their class distributions, each summing to 1; nothing learns through them.
        temperature: divides the cosine similarities.

    Returns:
        (N, C) that sum to 1 along the classes.

    Reference: Assran et al., "Semi-Supervised Learning of Visual Features by Non-Parametrically Predicting View
        Assignments with Support Samples", 2021, eq. 1.
    """

    def probabilities(features: Tensor, support: Tensor) -> Tensor:
        weights = ops.softmax(cosine_similarities(features, support) / temperature, axis=-1)
        return ops.matmul(weights, ops.cast(targets, weights.dtype))

    return by_anchors(probabilities, features, [support])


def sharpen(probabilities: Tensor, sharpening: float) -> Tensor:
    """Distributions raised to the power 1 / `sharpening` and normalised again; below 1 the largest entry grows.

    Args:
        probabilities: (N, C) that sum to 1 along the classes.
        sharpening: T of the paper, above 0.

    Returns:
        (N, C), likewise.

    Reference: Assran et al., 2021 (see `soft_nearest_neighbours`), sec. 3.
    """
    # Relative to the largest entry, so that high powers of small numbers do not all become 0.
    powers = ops.power(probabilities / ops.max(probabilities, axis=-1, keepdims=True), 1 / sharpening)
    return powers / ops.sum(powers, axis=-1, keepdims=True)


def distribution_cross_entropy(targets: Tensor, probabilities: Tensor) -> Tensor:
    """Per-row cross-entropy between distributions; of a distribution with itself it is the entropy.

    Args:
        targets: (N, C).
        probabilities: (N, C).

    Returns:
        (N,).
    """
    return -ops.sum(targets * ops.log(ops.maximum(probabilities, SMALLEST_PROBABILITY)), axis=-1)


def neighbour_cross_entropy(
    features: Tensor,
    labels: Tensor,
    references: Tensor,
    reference_labels: Tensor,
    itself: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Per-row cross-entropy of a soft nearest-neighbour classifier that leaves the row itself out.

    A row's class probabilities are the softmax of its similarities to the other labelled rows, summed by class;
    the loss is minus the logarithm of its own class's share.

    Args:
        features: (N, D), the anchors.
        labels: (N,) int.
        references: (M, D), all labelled rows, the anchors among them.
        reference_labels: (M,) int.
        itself: (N,) int, the index in `references` of each anchor, which is left out.
        temperature: divides the cosine similarities.

    Returns:
        (N,) losses and (N,) bool, False where no other reference has the row's label (its loss is 0).

    Reference: Assran et al., "Supervision Accelerates Pre-training in Contrastive Semi-Supervised Learning of
        Visual Representations", 2020, eq. 2.
    """

    def losses(features: Tensor, references: Tensor, labels: Tensor, itself: Tensor) -> Tensor:
        logits = cosine_similarities(features, references) / temperature
        other = ops.arange(ops.shape(references)[0], dtype="int32")[None, :] != itself[:, None]
        same = ops.logical_and(other, labels[:, None] == reference_labels[None, :])
        among_same = ops.logsumexp(ops.where(same, logits, MASKED), axis=1)
        among_all = ops.logsumexp(ops.where(other, logits, MASKED), axis=1)
        return among_all - among_same

    ordered = ops.sort(reference_labels)
    of_label = ops.searchsorted(ordered, labels, side="right") - ops.searchsorted(ordered, labels, side="left")
    has_positive = of_label > 1  # the row itself is one of them
    return ops.where(has_positive, by_anchors(losses, features, [references], [labels, itself]), 0.0), has_positive
