"""Numbers made of predictions: intervals, per-class scores, confusion."""

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

CONFIDENCE = 0.95


class ClassScores(NamedTuple):
    """Scores of each class, (C,) each.

    Attributes:
        precision: share of the images predicted as the class that are of it; 0 when none is predicted so.
        recall: share of the class's images that are predicted so; 0 when it has no image.
        f1: their harmonic mean.
        images: how many images are of the class.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    images: np.ndarray


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy: what other test images of the same kind could have given.

    It says nothing about another draw of the labelled images or another seed.

    Args:
        right: images predicted right.
        images: all of them, above 0.

    Returns:
        Its two ends.

    Reference: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    interval = binomtest(right, images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def class_scores(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> ClassScores:
    """Precision, recall and F1 of each class.

    Args:
        labels: (N,) int.
        predicted: (N,) int.
        num_classes: C.
    """
    return ClassScores(
        *precision_recall_fscore_support(labels, predicted, labels=np.arange(num_classes), zero_division=0.0)
    )


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> float:
    """The mean recall of the classes that have an image."""
    scores = class_scores(labels, predicted, num_classes)
    return float(scores.recall[scores.images > 0].mean())


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) counts: row = true class, column = predicted class."""
    return confusion_matrix(labels, predicted, labels=np.arange(num_classes))


def most_confused(counts: np.ndarray, pairs: int) -> list[tuple[int, int, int]]:
    """The largest entries of a confusion matrix off its diagonal.

    Args:
        counts: (C, C).
        pairs: at most this many.

    Returns:
        (true class, predicted class, images), most images first, none with 0.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:pairs]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [(true, guess, int(wrong[true, guess])) for true, guess in cells if wrong[true, guess]]
