"""Pictures of results: curves, confusion matrix, embedding map, nearest neighbours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jobs.figure import figure_file
from jobs.text import printable

_PANELS_A_ROW = 3
_NAMED_CLASSES = 30  # more names on an axis or in a legend cannot be read
_NUMBERED_CLASSES = 20
_NAME_CHARACTERS = 18
_RIGHT, _WRONG, _GRAY = "#2a9d3a", "#d62728", "#bbbbbb"


class Curve(NamedTuple):
    """Accuracy of one run under one protocol.

    Attributes:
        label: names the run.
        epochs: (E,).
        accuracies: (E,).
        intervals: (E, 2), or None for a curve that is drawn dashed (validation).
    """

    label: str
    epochs: Sequence[float]
    accuracies: Sequence[float]
    intervals: Sequence[Sequence[float]] | None


def draw_accuracy(panels: dict[str, list[Curve]], path: Path) -> None:
    """Accuracy against epoch: a panel a protocol, a colour a run; test with its interval, validation dashed."""
    labels = list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves))
    columns = min(len(panels), _PANELS_A_ROW)
    rows = -(-len(panels) // columns)
    with figure_file(path, (5.2 * columns, 4 * rows), rows, columns) as (_, axes):
        for axis in axes.ravel()[len(panels) :]:
            axis.set_axis_off()
        for axis, (protocol, curves) in zip(axes.ravel(), panels.items(), strict=False):
            for curve in curves:
                colour, test = f"C{labels.index(curve.label) % 10}", curve.intervals is not None
                name = f"{_words(curve.label)}, {'test' if test else 'validation'}"
                style = "o-" if test else "--"
                axis.plot(curve.epochs, curve.accuracies, style, color=colour, label=name, markersize=3)
                if curve.intervals is not None:
                    low, high = np.transpose(curve.intervals)
                    axis.fill_between(curve.epochs, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.set(title=_words(protocol), xlabel="epoch", ylabel="accuracy")
            axis.locator_params(axis="x", integer=True)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)


def draw_confusion(counts: np.ndarray, class_names: Sequence[str], title: str, path: Path) -> None:
    """A confusion matrix, each row as shares of its true class, with counts where they can be read.

    Args:
        counts: (C, C), row = true class.
        class_names: C names.
        title: over the picture.
        path: the PNG to write.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(3 + 0.45 * len(counts), 12)
    with figure_file(path, (side + 1, side)) as (figure, axes):
        axis = axes[0][0]
        figure.colorbar(axis.imshow(shares, cmap="Blues", vmin=0, vmax=1), ax=axis, label="share of the true class")
        axis.set(title=_words(title), xlabel="predicted", ylabel="true class")
        if len(counts) <= _NAMED_CLASSES:
            names = [_words(name)[:_NAME_CHARACTERS] for name in class_names]
            axis.set_xticks(range(len(names)), names, rotation=90)
            axis.set_yticks(range(len(names)), names)
        if len(counts) <= _NUMBERED_CLASSES:
            for (i, j), count in np.ndenumerate(counts):
                colour = "white" if shares[i, j] > 0.5 else "black"
                axis.text(j, i, f"{count:,}", ha="center", va="center", fontsize=7, color=colour)


def draw_map(
    maps: dict[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str], title: str, path: Path
) -> None:
    """Embeddings in two dimensions, coloured by class, those without a label in gray underneath.

    Args:
        maps: name of the map -> (N, 2).
        labels: (N,) int, -1 = no label.
        class_names: C names.
        title: over the picture.
        path: the PNG to write.
    """
    colours = _colours(len(class_names))
    with figure_file(path, (6.5 * len(maps), 6), columns=len(maps)) as (figure, axes):
        for axis, (name, points) in zip(axes[0], maps.items(), strict=True):
            gray = points[labels < 0]
            axis.scatter(*gray.T, s=5, color=_GRAY, label=f"unlabelled ({len(gray):,})")
            for label, class_name in enumerate(class_names):
                chosen = points[labels == label]
                axis.scatter(*chosen.T, s=10, color=colours[label], label=_words(class_name)[:_NAME_CHARACTERS])
            axis.set(title=name, xticks=[], yticks=[])
        figure.suptitle(_words(title))
        if len(class_names) <= _NAMED_CLASSES:
            axes[0][-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, markerscale=2)


def _colours(count: int) -> list[Any]:
    import matplotlib

    few = ["C0", "C1", "C2", "C3", "C4", "C5", "C6", "black", "C8", "C9"]  # C7 is gray, as what has no label
    return few if count <= len(few) else [matplotlib.colormaps["gist_rainbow"](i / (count - 1)) for i in range(count)]


class Strip(NamedTuple):
    """A query and its nearest labelled images.

    Attributes:
        images: (1 + k, H, W, 3) uint8, the query first.
        names: 1 + k class names.
        right: (k,) bool, whether a neighbour is of the query's class.
        cosines: (k,).
    """

    images: np.ndarray
    names: Sequence[str]
    right: np.ndarray
    cosines: np.ndarray


def draw_strips(strips: Sequence[Strip], title: str, path: Path) -> None:
    """A row a query: the query, then its neighbours, framed by whether they are of its class."""
    columns = len(strips[0].images)
    with figure_file(path, (1.3 * columns, 1.55 * len(strips) + 0.4), len(strips), columns) as (figure, axes):
        figure.suptitle(_words(title))
        for row, strip in zip(axes, strips, strict=True):
            frames = ["black", *np.where(strip.right, _RIGHT, _WRONG)]
            captions = ["", *(f"{cosine:.2f}" for cosine in strip.cosines)]
            for axis, image, name, frame, caption in zip(row, strip.images, strip.names, frames, captions, strict=True):
                axis.imshow(image)
                axis.set_title(_words(name)[:_NAME_CHARACTERS], fontsize=8)
                axis.set_xlabel(caption, fontsize=7, labelpad=2)
                axis.set(xticks=[], yticks=[])
                for side in axis.spines.values():
                    side.set(color=frame, linewidth=2.5)


def _words(name: str) -> str:
    """A name as Matplotlib shows it, letter by letter: a dollar sign would begin mathematics."""
    return printable(name).replace("$", r"\$")
