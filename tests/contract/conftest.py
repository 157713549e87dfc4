"""Small runs on one or two replicas of this process for the contract tests."""

from functools import partial

import pytest
from small_runs import SmallRun, words

from jobs.config import load
from semisup_core.devices import make_strategy, set_precision


def start(store, storage, method, encoder="conv", replicas=1, precision="float64", overrides=(), initial=None):
    """A `SmallRun` of a method on this process's logical devices."""
    set_precision(precision)  # the strategy's first variables take it
    config = load([f"storage={storage}", *words(method, encoder, precision), *overrides])
    return SmallRun(config, store, make_strategy(1, replicas), initial=initial)


@pytest.fixture
def training(digits, storage):
    """(method, encoder, replicas, precision, overrides, initial) -> a SmallRun on the digits."""
    return partial(start, digits, storage)
