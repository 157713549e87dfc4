"""What `python -m jobs.evaluate` prints."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.text import columns, interval_text, printable
from semisup_core.evaluation.scores import ClassScores, most_confused

# Of more classes, the table shows those with the lowest recall, and pairs stand for the confusion matrix.
LISTED_CLASSES = 30
MATRIX_CLASSES = 20
CONFUSED_PAIRS = 15
CLASS_CHARACTERS = 32


def evaluation_text(
    run: str, pool: str, class_names: Sequence[str], results: dict[str, Any], shown: str, where: str
) -> str:
    """Accuracies under every protocol; per class, and confused, under one.

    Args:
        run: its name.
        pool: what was measured on.
        class_names: C names.
        results: protocol -> accuracy, interval, balanced_accuracy, images, note, classes (`ClassScores`), confusion.
        shown: the protocol whose classes are shown; the first one where it is not among the results.
        where: what was written.
    """
    names = [printable(name)[:CLASS_CHARACTERS] for name in class_names]
    shown = shown if shown in results else next(iter(results))
    rows = [["protocol", "accuracy", "95 % interval", "balanced", ""]]
    for protocol, result in results.items():
        numbers = [f"{result['accuracy']:.4f}", interval_text(result["interval"]), f"{result['balanced_accuracy']:.4f}"]
        rows.append([protocol, *numbers, f"({result['note']})" if result["note"] else ""])
    images = results[shown]["images"]
    return "\n".join(
        [
            f"{run}: {images:,} {pool} images of {len(names):,} classes",
            *columns(rows, left=(0, 4)),
            f"\nEach class under {shown}",
            *_class_lines(names, results[shown]["classes"]),
            f"\nConfusion under {shown}",
            *_confusion_lines(names, results[shown]["confusion"]),
            f"\nwritten: {where}",
        ]
    )


def _class_lines(names: Sequence[str], scores: ClassScores) -> list[str]:
    order = np.arange(len(names))
    more = []
    if len(names) > LISTED_CLASSES:
        order = np.argsort(scores.recall, kind="stable")[:LISTED_CLASSES]
        more = [f"  the {LISTED_CLASSES} classes with the lowest recall; evaluation.json has all {len(names):,}"]
    rows = [["class", "precision", "recall", "F1", "images"]]
    for i in order.tolist():
        values = [f"{column[i]:.3f}" for column in (scores.precision, scores.recall, scores.f1)]
        rows.append([names[i], *values, f"{scores.images[i]:,}"])
    return [*columns(rows), *more]


def _confusion_lines(names: Sequence[str], counts: np.ndarray) -> list[str]:
    if len(names) > MATRIX_CLASSES:
        pairs = most_confused(counts, CONFUSED_PAIRS)
        rows = [["true class", "taken for", "images"], *([names[a], names[b], f"{n:,}"] for a, b, n in pairs)]
        return columns(rows) if pairs else ["  none"]
    heads = [f"{i} {name}" for i, name in enumerate(names)]
    cells = [
        [head, *(f"{count:,}" if count else "." for count in row)] for head, row in zip(heads, counts, strict=True)
    ]
    return columns([["true class \\ predicted", *map(str, range(len(names)))], *cells])
