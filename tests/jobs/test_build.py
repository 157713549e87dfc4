"""What is built for a run, and how it ends."""

import time

import numpy as np
import tensorflow as tf

from jobs.build import build_iterators
from semisup_core.devices import make_strategy

SECONDS = 6.0


def test_batches_are_let_go_at_once(digits):
    # TensorFlow's distributed iterator waits for its tuner then, which sleeps for about as long as it has run.
    strategy = make_strategy()
    iterators = build_iterators(digits, {"unlabelled": lambda step: np.arange(64)}, strategy, 0, 0, 1)

    @tf.function
    def steps(iterators):
        for _ in tf.range(10):
            strategy.experimental_distribute_values_from_function(lambda context: next(iterators[0]))

    begun = time.monotonic()
    while time.monotonic() < begun + SECONDS:
        steps(iterators)
    ended = time.monotonic()
    del iterators
    assert time.monotonic() - ended < SECONDS / 5
