"""What a person sees of a run: progress lines, the final table, the curves and the gallery of views."""

from pathlib import Path
from typing import Any

import numpy as np

from jobs.figure import figure_file
from jobs.text import columns, duration, interval_text
from semisup_core.evaluation.protocols import DESCRIPTIONS


def epoch_line(
    epoch: int, epochs: int, loss: float, rate: float, validation: dict[str, float], seconds: float, left: float
) -> str:
    """One line an epoch: loss, images/s, validation accuracy, seconds, time left."""
    measured = "  ".join(f"{name} {value:.3f}" for name, value in validation.items())
    validated = f"  validation {measured}" if measured else ""
    return (
        f"epoch {epoch:>{len(str(epochs))}}/{epochs}  loss {loss:.4f}  {rate:,.0f} images/s{validated}"
        f"  {seconds:.1f} s  left {duration(left)}"
    )


def final_table(summary: dict[str, Any]) -> str:
    """Test accuracy under each protocol beside the same protocol on raw pixels, and where the run is."""
    rows = [["protocol", "test", "95 % interval", "raw pixels", ""]]
    for name, row in summary["test"].items():
        pixels = summary["pixels"].get(name)
        baseline = f"{pixels['accuracy']:.4f}" if pixels else "-"
        note = f"({row['note']})" if row["note"] else ""
        rows.append([name, f"{row['accuracy']:.4f}", interval_text(row.get("interval")), baseline, note])
    lines = [summary["run"], *columns(rows, left=(0, 4))]
    if not summary["test"]:
        lines.append("  no test images: dataset.test_fraction is 0")
    counts = summary["counts"]
    lines.append(
        f"  {counts['labelled']} labelled, {counts['unlabelled']} unlabelled, {counts['validation']} validation, "
        f"{counts['test']} test images; weights of epoch {summary['epoch']} ({summary['selected']})"
    )
    return "\n".join([*lines, f"  run folder: {summary['folder']}"])


def described(protocols: list[str]) -> dict[str, str]:
    """What each protocol is, for summary.json."""
    return {name: DESCRIPTIONS[name] for name in protocols}


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss against step, and validation accuracy against step, side by side.

    Args:
        rows: of metrics.jsonl.
        path: the PNG to write.
    """
    panels = (("train/loss", "training loss"), ("validation/", "validation"))
    with figure_file(path, (10, 4), columns=len(panels)) as (_, axes):
        for axis, (prefix, title) in zip(axes[0], panels, strict=True):
            for name in sorted({key for row in rows for key in row if key.startswith(prefix)}):
                points = [(row["step"], row[name]) for row in rows if name in row]
                axis.plot(*zip(*points, strict=True), label=name.removeprefix("validation/"))
            axis.set(title=title, xlabel="step")
            if axis.has_data():
                axis.legend()
            else:
                axis.set_axis_off()


def draw_gallery(columns: list[np.ndarray], path: Path) -> None:
    """Views side by side, a row an image.

    Args:
        columns: arrays (N, H, W, 3) in 0-255, drawn from left to right.
        path: the PNG to write.
    """
    from PIL import Image

    gap = 2
    tiles = [np.clip(np.rint(column), 0, 255).astype(np.uint8) for column in columns]
    padded = [np.pad(tile, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255) for tile in tiles]
    grid = np.concatenate([np.concatenate(list(column), axis=0) for column in padded], axis=1)
    scale = max(1, 64 // tiles[0].shape[1])
    Image.fromarray(grid).resize((grid.shape[1] * scale, grid.shape[0] * scale), Image.Resampling.NEAREST).save(path)
