"""Splits of a store's rows into labelled, unlabelled, validation and test: a function of the seed alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semisup_core.data.manifest import Origin
from semisup_core.errors import DataError

if TYPE_CHECKING:
    from semisup_core.data.store import Store

FORMAT_VERSION = 1
POOLS = ("labelled", "unlabelled", "validation", "test")
READ_BYTES = 2**25

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Four pools of rows, each sorted (n,) int64.

    Attributes:
        labelled: training rows whose labels may be used.
        unlabelled: every training row, the labelled ones among them; never validation or test.
        validation: labelled rows that select models, a label budget of their own.
        test: labelled rows that are read once, at the end.
        seed: what the rows were drawn from.
    """

    labelled: Rows
    unlabelled: Rows
    validation: Rows
    test: Rows
    seed: int

    @property
    def hash(self) -> str:
        """SHA-256 over the four pools."""
        return hashlib.sha256("".join(self.to_hashes().values()).encode()).hexdigest()

    def to_json(self, store: Store) -> dict[str, Any]:
        """Describes the split for ``split.json``: enough to rebuild it and to recognise another."""
        return {
            "format_version": FORMAT_VERSION,
            "seed": self.seed,
            "hash": self.hash,
            "store_fingerprint": store.fingerprint,
            "class_names": list(store.class_names),
            "unlabelled_contains_labelled": True,
            "counts": {pool: _counts(store, getattr(self, pool)) for pool in POOLS},
            "rows": {"labelled": self.labelled.tolist(), "validation": self.validation.tolist()},
            "sha256": self.to_hashes(),
        }

    def to_hashes(self) -> dict[str, str]:
        """SHA-256 of each pool's rows."""
        return {pool: _rows_hash(getattr(self, pool)) for pool in POOLS}


def make_split(
    labels: NDArray[np.int32],
    origins: NDArray[np.int8],
    *,
    class_names: Sequence[str],
    seed: int,
    labels_per_class: int | None,
    label_fraction: float | None,
    validation_per_class: int,
    test_fraction: float,
) -> Split:
    """Draws a stratified split.

    Each class has one random order of its training rows. Test, then validation rows are taken from its start,
    labelled rows from its end: a smaller label budget is contained in a larger one of the same seed, and
    another number of validation rows leaves the labelled rows of ``labels_per_class`` as they are.

    Args:
        labels: (N,) class of each row, -1 = no label.
        origins: (N,) `Origin` of each row.
        class_names: name of each class.
        seed: what all draws depend on, 0 or more.
        labels_per_class: labelled rows of each class; None = by fraction, or all that are left.
        label_fraction: in (0, 1], of each class's rows left after test and validation, rounded, at least one.
        validation_per_class: validation rows of each class.
        test_fraction: in [0, 1), of the labelled training rows; used only when no row has `Origin.TEST`.

    Raises:
        DataError: a class has too few labelled training images; the message names it.
        ValueError: both kinds of label budget, or a number out of range.
    """
    _check_request(labels_per_class, label_fraction, validation_per_class, test_fraction)
    orders = _orders(labels, origins, len(class_names), seed)
    sizes = np.array([len(order) for order in orders], np.int64)
    given_test = np.flatnonzero(origins == Origin.TEST)
    n_test = apportion(sizes, 0 if len(given_test) else int(test_fraction * sizes.sum() + 0.5))
    asked = validation_per_class + (1 if labels_per_class is None else labels_per_class)
    _check_enough(class_names, sizes, n_test, asked, validation_per_class)
    left = sizes - n_test - validation_per_class
    first_labelled = sizes - _label_budget(left, labels_per_class, label_fraction)
    n_held = n_test + validation_per_class
    test, validation = _run(orders, np.zeros_like(n_test), n_test), _run(orders, n_test, n_held)
    unlabelled = np.setdiff1d(np.flatnonzero(origins != Origin.TEST), np.concatenate([test, validation]))
    if len(given_test):
        test = given_test[labels[given_test] >= 0]
    return Split(_run(orders, first_labelled, sizes), unlabelled, validation, test, seed)


def apportion(counts: NDArray[Any], total: int) -> Rows:
    """Shares ``total`` out in proportion to ``counts`` by the largest remainder, ties to the earlier class.

    Args:
        counts: (C,) integers.
        total: at most their sum.

    Returns:
        (C,) int64 that sum to ``total``, none above its count.
    """
    scaled = np.asarray(counts, np.int64) * total
    whole = max(1, int(np.sum(counts)))
    shares = scaled // whole
    shares[np.argsort(-(scaled % whole), kind="stable")[: total - shares.sum()]] += 1
    return shares


def duplicates(store: Store, split: Split) -> list[tuple[int, int]]:
    """Finds held-out images that stand, pixel for pixel, in another pool too.

    Reads every row once; memory grows with the held-out rows only.

    Returns:
        Pairs (held-out row, equal row), sorted: a validation or test row with the first equal training row,
        and a test row with the first equal validation row.
    """
    held: dict[bytes, list[int]] = {}
    for row, digest in _digests(store, split.validation):
        held.setdefault(digest, []).append(row)
    twins = [(row, digest) for row, digest in _digests(store, split.test)]
    pairs = [(row, held[digest][0]) for row, digest in twins if digest in held]
    for row, digest in twins:
        held.setdefault(digest, []).append(row)
    for row, digest in _digests(store, np.union1d(split.labelled, split.unlabelled)):
        pairs += [(twin, row) for twin in held.pop(digest, ())]
    return sorted(pairs)


def _check_request(per_class: int | None, fraction: float | None, validation: int, test_fraction: float) -> None:
    if per_class is not None and fraction is not None:
        raise ValueError(f"give labels_per_class ({per_class}) or label_fraction ({fraction}), not both")
    if (per_class or 0) < 0 or validation < 0:
        raise ValueError(f"expected 0 or more a class, got labels {per_class}, validation {validation}")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"expected label_fraction in (0, 1], got {fraction}")
    if not 0 <= test_fraction < 1:
        raise ValueError(f"expected test_fraction in [0, 1), got {test_fraction}")


def _orders(labels: NDArray[np.int32], origins: NDArray[np.int8], classes: int, seed: int) -> list[Rows]:
    """Permutes the labelled training rows of each class, each by its own generator."""
    rows = np.flatnonzero((origins == Origin.TRAIN) & (labels >= 0))
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    ends = np.cumsum(np.bincount(labels[rows], minlength=classes))
    runs = np.split(by_class, ends[:-1]) if classes else []
    return [np.random.default_rng([seed, label]).permutation(run) for label, run in enumerate(runs)]


def _run(orders: list[Rows], starts: Rows, ends: Rows) -> Rows:
    chosen = [order[start:end] for order, start, end in zip(orders, starts, ends, strict=True)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))


def _check_enough(class_names: Sequence[str], sizes: Rows, n_test: Rows, asked: int, validation: int) -> None:
    left = sizes - n_test
    short = [f"{class_names[label]!r} has {left[label]}" for label in np.flatnonzero(left < asked).tolist()]
    if short:
        kept = " beside those kept for test by dataset.test_fraction" if n_test.any() else ""
        raise DataError(
            f"expected {asked} or more labelled training images of every class "
            f"(dataset.validation_per_class={validation} and {asked - validation} labelled){kept}, "
            f"class {', '.join(short[:10])}{', ...' if len(short) > 10 else ''}; "
            "lower dataset.labels_per_class or dataset.validation_per_class, or add images"
        )


def _label_budget(left: Rows, per_class: int | None, fraction: float | None) -> Rows:
    if per_class is not None:
        return np.full_like(left, per_class)
    if fraction is None:
        return left
    # Rounded class by class: shares by largest remainder can shrink as the total grows, but budgets nest.
    share: Rows = np.floor(left * fraction + 0.5).astype(np.int64)
    return share.clip(min=1)


def _counts(store: Store, rows: Rows) -> dict[str, Any]:
    labels = store.labels[rows]
    per_class = np.bincount(labels[labels >= 0], minlength=len(store.class_names))
    return {
        "total": len(rows),
        "without_label": int((labels < 0).sum()),
        "per_class": dict(zip(store.class_names, per_class.tolist(), strict=True)),
    }


def _rows_hash(rows: Rows) -> str:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()


def _digests(store: Store, rows: Rows) -> Iterator[tuple[int, bytes]]:
    step = max(1, READ_BYTES // int(np.prod(store.image_shape)))
    for start in range(0, len(rows), step):
        chosen = rows[start : start + step]
        for row, image in zip(chosen.tolist(), store.read(chosen), strict=True):
            yield row, hashlib.blake2b(image.data, digest_size=16).digest()
