"""What `python -m jobs.data` prints of a store and its split."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.text import printable
from semisup_core.data.splits import POOLS, Split, duplicates
from semisup_core.data.store import Store

FINGERPRINT_CHARACTERS = 12
NAMED_CORRUPT = 10
NAMED_DUPLICATES = 5
# Of more classes the table shows the smallest, the largest and the median.
LISTED_CLASSES = 30
CLASS_CHARACTERS = 32

Row = tuple[str, NDArray[np.number]]


def describe_store(store: Store) -> str:
    """Says what the store holds, where it is, and which files of the source are not in it."""
    manifest = store.manifest
    size = _size(sum(file.bytes for file in manifest.files))
    skipped = [f"{count:,} {kind.replace('_', ' ')}" for kind, count in manifest.skipped.items() if count]
    corrupt = _first([printable(name) for name in manifest.corrupt], NAMED_CORRUPT)
    facts = {
        "data set": f"{manifest.source}, {len(store):,} images of {' x '.join(map(str, store.image_shape))}",
        "store": f"{printable(str(store.path))}, {size}",
        "fingerprint": store.fingerprint[:FINGERPRINT_CHARACTERS],
        "files skipped": ", ".join(skipped) or "none",
        "corrupt images": f"{len(manifest.corrupt):,}, left out: {', '.join(corrupt)}" if corrupt else "none",
    }
    return "\n".join(f"{name + ':':16}{fact}" for name, fact in facts.items())


def describe_pools(store: Store, split: Split) -> str:
    """A table of classes by pools, and how far the classes are from balanced.

    Args:
        store: gives the true classes, of unlabelled images too where the source knows them.
        split: gives the pools.
    """
    labels = [store.labels[getattr(split, pool)] for pool in POOLS]
    counts = np.stack([np.bincount(rows[rows >= 0], minlength=len(store.class_names)) for rows in labels], axis=1)
    without_class = np.array([(rows < 0).sum() for rows in labels])
    training = counts[:, POOLS.index("unlabelled")]
    names = [printable(name)[:CLASS_CHARACTERS] for name in store.class_names]
    rows: list[Row] = list(zip(names, counts, strict=True))
    if len(rows) > LISTED_CLASSES:
        extremes = {"smallest": np.argmin(training), "largest": np.argmax(training)}
        rows = [(f"{kind}: {names[label]}", counts[label]) for kind, label in extremes.items()]
        rows.append((f"median of {len(names):,} classes", np.median(counts, axis=0)))
    if without_class.any():
        rows.append(("(no label)", without_class))
    rows.append(("total", counts.sum(axis=0) + without_class))
    return "\n".join(
        [
            *_table(rows),
            f"Split of seed {split.seed}. The unlabelled pool holds the labelled images too, never validation or test.",
            _balance(names, training),
        ]
    )


def describe_balance(store: Store, split: Split, balanced: bool) -> str:
    """Says what unequal classes mean for the labelled batches and for what is measured; empty if all are equal.

    Args:
        store: gives the classes.
        split: gives the labelled and the test images.
        balanced: whether every labelled batch holds equal shares of its classes (``dataset.balanced``).
    """
    labelled, test = (
        np.bincount(store.labels[getattr(split, pool)], minlength=len(store.class_names))
        for pool in ("labelled", "test")
    )
    lines = []
    few, many = int(np.argmin(labelled)), int(np.argmax(labelled))
    if labelled[few] < labelled[many]:
        small, large = (f"{printable(store.class_names[label])} ({labelled[label]:,})" for label in (few, many))
        ratio = f"{labelled[many] / labelled[few]:.1f}"
        lines.append(
            f"Labelled batches hold equal shares of their classes: an image of {small} is drawn {ratio} times as often "
            f"as one of {large}; dataset.balanced=false draws all equally often"
            if balanced
            else f"Labelled batches hold the classes as they are: {ratio} times as many of {large} as of {small}; "
            "dataset.balanced=true gives each class an equal share"
        )
    if len(split.test) and test.min() < test.max():
        lines.append(
            "Accuracies count test images, so large classes weigh more; python -m jobs.evaluate gives the mean over "
            "classes (balanced accuracy) too"
        )
    return "\n".join(lines)


def describe_duplicates(store: Store, split: Split) -> str:
    """Counts pairs of a held-out image and an equal one, pixel for pixel, in another pool, and names some."""
    pairs = duplicates(store, split)
    if not pairs:
        return "Exact duplicates across splits: none"
    names = store.names()
    named = [" = ".join(f"{printable(names[row])} ({_pool(split, row)})" for row in pair) for pair in pairs]
    return "\n  ".join([f"Exact duplicates across splits: {len(pairs):,}", *_first(named, NAMED_DUPLICATES)])


def _balance(names: Sequence[str], training: NDArray[np.int64]) -> str:
    few, many = int(np.argmin(training)), int(np.argmax(training))
    if training[few] == training[many]:
        return f"Training images: {training[few]:,} of every class"
    ratio = training[many] / training[few]
    return (
        f"Training images: {training[few]:,} of {names[few]} to {training[many]:,} of {names[many]}, {ratio:.1f} to 1"
    )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _first(texts: Sequence[str], most: int) -> list[str]:
    more = [f"and {len(texts) - most:,} more"] if len(texts) > most else []
    return [*texts[:most], *more]


def _table(rows: Sequence[Row]) -> list[str]:
    cells = [["class", *POOLS]] + [[name, *(f"{value:,.10g}" for value in values)] for name, values in rows]
    width = max(len(name) for name, *_ in cells)
    return ["  ".join([name.ljust(width), *(cell.rjust(10) for cell in values)]) for name, *values in cells]


def _pool(split: Split, row: int) -> str:
    return next((pool for pool in ("test", "validation", "labelled") if row in getattr(split, pool)), "unlabelled")
