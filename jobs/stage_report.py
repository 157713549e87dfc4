"""What a person sees of a pipeline: the table of its stages and their curves."""

from pathlib import Path
from typing import Any

import numpy as np

from jobs.figure import figure_file
from jobs.text import columns


def stage_table(summaries: dict[str, dict[str, Any]]) -> str:
    """Test accuracy of each stage under each protocol, with its epochs and minutes."""
    protocols = list(dict.fromkeys(name for summary in summaries.values() for name in summary["test"]))
    table = [["stage", *protocols, "epochs", "minutes", ""]]
    for stage, summary in summaries.items():
        cells = [f"{row['accuracy']:.4f}" if (row := summary["test"].get(name)) else "-" for name in protocols]
        minutes = sum(summary["phases_seconds"].values()) / 60
        note = "" if summary["complete"] else f"(stopped: {summary['stopped']})"
        table.append([stage, *cells, str(summary["epoch"]), f"{minutes:.1f}", note])
    return "\n".join(columns(table, left=(0, len(table[0]) - 1), indent=""))


def draw_stages(rows: dict[str, list[dict[str, Any]]], steps_per_epoch: dict[str, int], path: Path) -> None:
    """Loss and accuracies of several runs against the epoch, a panel a quantity.

    Args:
        rows: stage -> rows of its metrics.jsonl.
        steps_per_epoch: stage -> how many steps make an epoch.
        path: the PNG to write.
    """
    panels = {
        "training loss": ("train/loss",),
        "accuracy on augmented labelled images": ("train/labelled_accuracy", "train/probe_accuracy"),
    }
    protocols = sorted({key for stage in rows.values() for row in stage for key in row if "validation/" in key})
    panels |= {key.replace("/", " "): (key,) for key in protocols}
    curves = {title: _stage_curves(rows, steps_per_epoch, keys) for title, keys in panels.items()}
    curves = {title: lines for title, lines in curves.items() if lines}
    with figure_file(path, (5 * len(curves), 4), columns=len(curves)) as (_, axes):
        for axis, (title, lines) in zip(axes[0], curves.items(), strict=True):
            for stage, points in lines.items():
                axis.plot(list(points), list(points.values()), marker=".", label=stage)
            axis.set(title=title, xlabel="epoch")
            axis.legend()


def _stage_curves(
    rows: dict[str, list[dict[str, Any]]], steps_per_epoch: dict[str, int], keys: tuple[str, ...]
) -> dict[str, dict[int, float]]:
    """Stage -> epoch -> mean over the epoch's rows of the first key that they have."""
    curves: dict[str, dict[int, float]] = {}
    for stage, values in rows.items():
        by_epoch: dict[int, list[float]] = {}
        for row in values:
            for key in keys:
                if key in row:
                    by_epoch.setdefault(-(-row["step"] // steps_per_epoch[stage]), []).append(row[key])
        if by_epoch:
            curves[stage] = {epoch: float(np.mean(points)) for epoch, points in sorted(by_epoch.items())}
    return curves
