"""How fast images come out of a store."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jobs.benchmarks.step import Training


def pipeline(training: Training, batches: int) -> Callable[[], Any]:
    """Some batches of the pipeline and nothing else, ready to be timed."""
    iterators = training.iterators()

    def run() -> None:
        for _ in range(batches):
            for iterator in iterators:
                next(iterator)

    return run


def random_rows(training: Training, rows: int) -> Callable[[], Any]:
    """Rows of the store in random order, as many as a step reads."""
    store, rng = training.store, np.random.default_rng(0)
    return lambda: store.read(rng.integers(0, len(store), rows))
