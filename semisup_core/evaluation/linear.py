"""Linear evaluation: logistic regression on frozen features."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_ITERATIONS = 1000


def linear_predictions(bank: np.ndarray, bank_labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Predictions of scikit-learn's logistic regression (L2, C = 1) on features standardised by the bank.

    Args:
        bank: (M, D), the labelled training features.
        bank_labels: (M,) int, at least two classes.
        queries: (N, D).

    Returns:
        (N,) predicted classes.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=_ITERATIONS))
    with warnings.catch_warnings():
        # Stopping at the iteration limit is part of the protocol, not news at every epoch.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(bank, bank_labels).predict(queries)
