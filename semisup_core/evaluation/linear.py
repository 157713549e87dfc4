"""Linear evaluation: logistic regression on frozen features."""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

_ITERATIONS = 1000


def fit_linear(bank: np.ndarray, bank_labels: np.ndarray) -> Any:
    """Fits scikit-learn's logistic regression (L2, C = 1) on features standardised by the bank.

    Args:
        bank: (M, D), the labelled training features.
        bank_labels: (M,) int, at least two classes.

    Returns:
        The fitted scikit-learn pipeline.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=_ITERATIONS))
    # One thread: the products of L-BFGS are so small that on a shared machine BLAS threads wait for each other, which
    # made a fit of 0.4 s (5,000 x 128 features) take 20 s.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        # Stopping at the iteration limit is part of the protocol, not news at every epoch.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(bank, bank_labels)


def linear_shares(model: Any, queries: np.ndarray, num_classes: int) -> np.ndarray:
    """Class probabilities of a fitted model.

    Args:
        model: of `fit_linear`.
        queries: (N, D).
        num_classes: C; a class that the bank did not have gets 0.

    Returns:
        (N, C), rows sum to 1.
    """
    shares = np.zeros((len(queries), num_classes))
    shares[:, model.classes_] = model.predict_proba(queries)
    return shares
