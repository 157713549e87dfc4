"""Times of several functions, taken in turns, and what can be said of them."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Figure(NamedTuple):
    """A median with an interval that holds the true median with 95 % (of fewer than six values, all of them)."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Figure":
        """In another unit."""
        return Figure(*(value * factor for value in self))

    def inverse(self, factor: float = 1.0) -> "Figure":
        """A rate from a time: `factor` divided by it."""
        return Figure(factor / self.median, factor / self.high, factor / self.low)


def figure(values: ArrayLike) -> Figure:
    """The median of some repetitions and the interval between two of them.

    Reference: the distribution-free interval for a median, by order statistics (binomial with p = 1/2).
    """
    ordered = np.sort(np.asarray(values, float))
    count, tail, left_out = len(ordered), 0.5 ** len(ordered), 0
    while left_out < (count - 1) // 2 and tail <= 0.025:
        left_out += 1
        tail += math.comb(count, left_out) * 0.5**count
    left_out = max(left_out - 1, 0)
    return Figure(float(np.median(ordered)), float(ordered[left_out]), float(ordered[count - 1 - left_out]))


def ratio(values: ArrayLike, others: ArrayLike) -> Figure:
    """Of two functions timed in the same rounds: `values` over `others`, round by round."""
    return figure(np.asarray(values) / np.asarray(others))


def difference(values: ArrayLike, others: ArrayLike) -> Figure:
    """Likewise: `values` less `others`."""
    return figure(np.asarray(values) - np.asarray(others))


def in_turns(
    functions: Mapping[str, Callable[[], Any]], seconds: float, fewest: int = 5, most: int = 60
) -> dict[str, list[float]]:
    """Calls all functions in turn, round after round, so that a slow moment of the machine hits them alike.

    Each is called once before, uncounted. Every other round goes backwards.

    Args:
        functions: by name; each waits until its work is done. One that returns a float says itself how long it took.
        seconds: to spend; at least `fewest` rounds are made, at most `most`.
        fewest: rounds.
        most: rounds.

    Returns:
        The seconds of each call by name, one a round.
    """
    for function in functions.values():
        function()  # compiles
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions.items())
    begun = time.perf_counter()
    for done in range(most):
        if done >= fewest and time.perf_counter() - begun > seconds:
            break
        for name, function in order[:: -1 if done % 2 else 1]:
            before = time.perf_counter()
            own = function()
            times[name].append(own if isinstance(own, float) else time.perf_counter() - before)
    return times
