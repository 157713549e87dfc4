"""Index streams: which rows make up batch k, as functions of the seed and k, never of what came before.

A batch is a run of places in an endless stream, which concatenates the permutations of (seed, epoch).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# Names of the random streams; the numbers enter the seed, so they never change.
_UNLABELLED, _LABELLED, _CLASSES = 1, 2, 3


class UnlabelledStream:
    """Batch k of an epoch is rows kB … (k+1)B of that epoch's permutation; the rest of the epoch is dropped."""

    def __init__(self, rows: np.ndarray, batch: int, steps_per_epoch: int, seed: int) -> None:
        """Keeps the pool.

        Args:
            rows: (N,) row ids of the unlabelled pool.
            batch: B.
            steps_per_epoch: batches taken of each permutation; beyond N // B they go on into the next permutation.
            seed: the run's seed.

        Raises:
            ValueError: the pool is smaller than a batch.
        """
        if batch > len(rows):
            raise ValueError(f"expected an unlabelled batch of at most {len(rows)} images (the pool), got {batch}")
        self._rows, self._batch, self._steps, self._seed = rows, batch, steps_per_epoch, seed
        self._per_pass = len(rows) // batch

    def __call__(self, step: int) -> np.ndarray:
        """The (B,) row ids of a step."""
        epoch, k = divmod(step, self._steps)
        passes = -(-self._steps // self._per_pass)  # permutations an epoch uses, 1 unless it is longer than the pool
        lap, k = divmod(k, self._per_pass)
        order = _permutation(self._seed, _UNLABELLED, epoch * passes + lap, len(self._rows))
        return self._rows[order[k * self._batch : (k + 1) * self._batch]]


class LabelledStream:
    """Labelled rows in epochs of their own, over all labelled images or class by class."""

    def __init__(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        batch: int,
        seed: int,
        balanced: bool,
        classes_per_batch: int | None,
    ) -> None:
        """Keeps the rows.

        Args:
            rows: (L,) row ids of the labelled images.
            labels: (L,) their classes, 0 … C-1.
            batch: S.
            seed: the run's seed.
            balanced: every batch holds the same number of each of its classes, sorted by class.
            classes_per_batch: how many classes a balanced batch has, drawn anew for each; None for all.

        Raises:
            ValueError: S is not a multiple of the classes in a batch.
        """
        self._batch, self._seed = batch, seed
        groups = [rows[labels == c] for c in range(int(labels.max()) + 1)] if balanced else [rows]
        self._groups = [group for group in groups if len(group)]
        self._taken = min(classes_per_batch or len(self._groups), len(self._groups)) if balanced else 1
        if batch % self._taken:
            raise ValueError(
                f"expected a labelled batch that is a multiple of its {self._taken} classes, got {batch}; "
                f"nearest: {', '.join(map(str, nearest_multiples(batch, self._taken)))}"
            )

    @property
    def repeats(self) -> bool:
        """Whether some batch must hold an image twice, because a class has fewer images than a batch asks."""
        return any(len(group) < self._batch // self._taken for group in self._groups)

    def __call__(self, step: int) -> np.ndarray:
        """The (S,) row ids of a step."""
        share = self._batch // self._taken
        if self._taken == len(self._groups):
            return np.concatenate([self._take(c, step, share) for c in range(len(self._groups))])
        # Each pass over the classes visits a class at most once, so the pass number stands for its visits. It counts
        # for the classes that a pass drops at its end as well: the images that were due then are skipped this time.
        lap, k = divmod(step, len(self._groups) // self._taken)
        order = _permutation(self._seed, _CLASSES, lap, len(self._groups))
        chosen = np.sort(order[k * self._taken : (k + 1) * self._taken])
        return np.concatenate([self._take(int(c), lap, share) for c in chosen])

    def _take(self, group: int, visit: int, count: int) -> np.ndarray:
        """`count` rows of a group for its n-th visit; distinct if it has as many, the rest of its epoch dropped."""
        rows = self._groups[group]
        if count <= len(rows):
            epoch, k = divmod(visit, len(rows) // count)
            order = _permutation(self._seed, _LABELLED + 16 * group, epoch, len(rows))
            return rows[order[k * count : (k + 1) * count]]
        laps = -(-count // len(rows))
        orders = [_permutation(self._seed, _LABELLED + 16 * group, visit * laps + i, len(rows)) for i in range(laps)]
        return rows[np.concatenate(orders)[:count]]


def nearest_multiples(value: int, divisor: int) -> Sequence[int]:
    """The multiples of `divisor` just below and above `value`, without 0."""
    below = value // divisor * divisor
    return [multiple for multiple in (below, below + divisor) if multiple > 0]


def _permutation(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    # A pool of millions of rows is kept only while it is in use; the many small ones of classes are kept longer.
    cached = _kept_briefly if count > 100_000 else _kept
    return cached(seed, stream, epoch, count)


def _draw(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


_kept_briefly = lru_cache(maxsize=2)(_draw)
_kept = lru_cache(maxsize=256)(_draw)
