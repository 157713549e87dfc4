"""Pictures of a search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.figure import figure_file
from jobs.search_space import Dimension
from jobs.search_table import Row, best_first, short_names, value_text

_PANELS_A_ROW = 3
_STYLES = {"finished": ("o", "C0"), "stopped": ("v", "C1"), "failed": ("x", "C3")}


def draw_objective(rows: Sequence[Row], space: Sequence[Dimension], path: Path) -> None:
    """Validation accuracy against each searched key."""
    names = short_names([each.key for each in space])
    columns = min(len(space), _PANELS_A_ROW)
    with figure_file(path, (4.2 * columns, 3.6 * -(-len(space) // columns)), -(-len(space) // columns), columns) as (
        _,
        axes,
    ):
        for axis in axes.ravel()[len(space) :]:
            axis.set_axis_off()
        for axis, each in zip(axes.ravel(), space, strict=False):
            places, ticks = _places(each, rows)
            for state, (marker, colour) in _STYLES.items():
                points = [(place, row.objective) for place, row in zip(places, rows, strict=True) if _shown(row, state)]
                if points:
                    axis.scatter(*zip(*points, strict=True), marker=marker, color=colour, label=state, alpha=0.8)
            axis.set(xlabel=names[each.key], ylabel="validation accuracy")
            if each.kind == "loguniform":
                axis.set_xscale("log")
            if ticks:
                axis.set_xticks(range(len(ticks)), ticks)
            axis.grid(alpha=0.3)
        axes[0][0].legend(fontsize=8)


def draw_parallel(rows: Sequence[Row], space: Sequence[Dimension], path: Path) -> None:
    """A line a trial through its values, coloured by its validation accuracy."""
    shown = [row for row in reversed(best_first(rows)) if row.objective is not None]
    names = short_names([each.key for each in space])
    scaled = np.array([_scaled(each, shown) for each in space])  # (keys, trials)
    accuracies = np.array([row.objective for row in shown], float)
    span = float(np.ptp(accuracies)) or 1.0
    last = (accuracies - accuracies.min()) / span
    with figure_file(path, (2.2 * (len(space) + 1) + 2, 4)) as (figure, axes):
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        axis, colours = axes[0][0], colormaps["viridis"]
        for trial, accuracy in enumerate(last):
            axis.plot([*scaled[:, trial], accuracy], color=colours(accuracy), alpha=0.8)
        labels = [f"{names[each.key]}\n{_ends(each)}" for each in space]
        axis.set_xticks(range(len(space) + 1), [*labels, "validation"])
        axis.set_yticks([])
        axis.grid(axis="x")
        scale = ScalarMappable(Normalize(accuracies.min(), accuracies.min() + span), colours)
        figure.colorbar(scale, ax=axis, label="validation accuracy")


def draw_progress(rows: Sequence[Row], path: Path) -> None:
    """The best validation accuracy so far against the time at which trials ended."""
    timed = [(row.ended, row.seconds, row.objective) for row in rows if row.ended and row.objective is not None]
    began = min(ended - seconds for ended, seconds, _ in timed)
    points = sorted(((ended - began) / 60, accuracy) for ended, _, accuracy in timed)
    minutes, accuracies = np.array(points, float).T
    with figure_file(path, (6, 4)) as (_, axes):
        axes[0][0].scatter(minutes, accuracies, color="C0", alpha=0.6, label="trial")
        axes[0][0].step(minutes, np.maximum.accumulate(accuracies), where="post", color="C1", label="best so far")
        axes[0][0].set(xlabel="minutes", ylabel="validation accuracy")
        axes[0][0].grid(alpha=0.3)
        axes[0][0].legend()


def draw_learning(curves: dict[str, list[tuple[float, float]]], rows: Sequence[Row], path: Path) -> None:
    """Validation accuracy against the epoch of every trial; stopped ones end in a mark.

    Args:
        curves: trial -> (epoch, accuracy) pairs.
        rows: the trials.
        path: the PNG to write.
    """
    best = best_first(rows)[0].trial
    with figure_file(path, (7, 4.5)) as (_, axes):
        for row in rows:
            if not (points := curves.get(row.trial)):
                continue
            epochs, accuracies = zip(*points, strict=True)
            chosen = {"color": "C1", "linewidth": 2.5, "zorder": 3, "label": "the best"}
            axes[0][0].plot(epochs, accuracies, **(chosen if row.trial == best else {"color": "C0", "alpha": 0.45}))
            if row.state != "finished":
                marker, colour = _STYLES.get(row.state, _STYLES["stopped"])
                axes[0][0].plot(epochs[-1], accuracies[-1], marker, color=colour)
        for state in ("stopped", "failed"):
            axes[0][0].plot([], [], _STYLES[state][0], color=_STYLES[state][1], label=state)
        axes[0][0].set(xlabel="epoch", ylabel="validation accuracy")
        axes[0][0].grid(alpha=0.3)
        axes[0][0].legend()


def _shown(row: Row, state: str) -> bool:
    return row.state == state and row.objective is not None


def _places(each: Dimension, rows: Sequence[Row]) -> tuple[list[Any], list[str]]:
    """Where each trial's value lies on its axis, and the words under a list of values."""
    if each.kind not in ("choice", "grid"):
        return [row.values[each.key] for row in rows], []
    values = list(each.values)
    return [values.index(_hashable(row.values[each.key])) for row in rows], [value_text(value) for value in values]


def _scaled(each: Dimension, rows: Sequence[Row]) -> np.ndarray:
    """The values of the trials in 0 … 1."""
    places, ticks = _places(each, rows)
    if ticks:
        return np.array(places, float) / max(len(ticks) - 1, 1)
    low, high, values = *map(float, each.values[:2]), np.array(places, float)
    if each.kind == "loguniform":
        low, high, values = np.log(low), np.log(high), np.log(values)
    return (values - low) / (high - low)


def _ends(each: Dimension) -> str:
    ends = [each.values[0], each.values[-1 if each.kind in ("choice", "grid") else 1]]
    return " … ".join(map(value_text, ends))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
