"""What a search leaves when its trials have ended: best.yaml, trials.csv, pictures, and the words to print."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jobs.config import to_dict
from jobs.report import final_table
from jobs.schema import RunConfig
from jobs.search_config import Search
from jobs.search_pictures import draw_learning, draw_objective, draw_parallel, draw_progress
from jobs.search_table import Row, best_first, standard_error, table
from jobs.storage import write_text
from jobs.tracking import read_rows

BEST, TRIALS, RESULT = "best.yaml", "trials.csv", "search.json"
_SHOWN = 12


def write_trials(rows: Sequence[Row], path: Path) -> None:
    """One line a trial, the best first."""
    keys = [*rows[0].values]
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["trial", *keys, "state", "epoch", "validation", "seconds", "error"])
    for row in best_first(rows):
        values = [row.values.get(key) for key in keys]
        lines.writerow([row.trial, *values, row.state, row.epoch, row.objective, f"{row.seconds:.1f}", row.error])
    write_text(path, out.getvalue())


def write_best(config: RunConfig, path: Path, why: str) -> None:
    """The configuration of the best trial, for `jobs.train --config`.

    Args:
        config: of the trial.
        path: the file.
        why: a comment.
    """
    plain = to_dict(config) | {"name": None}
    write_text(path, f"# {why}\n" + OmegaConf.to_yaml(OmegaConf.create(plain)))


def draw(search: Search, rows: Sequence[Row], folder: Path) -> None:
    """The four pictures; nothing when no trial was measured."""
    measured = [row for row in rows if row.objective is not None]
    if not measured:
        return
    draw_objective(measured, search.space, folder / "objective.png")
    draw_parallel(measured, search.space, folder / "parallel.png")
    draw_progress(measured, folder / "progress.png")
    key = f"validation/{search.config.evaluation.monitor}"
    logs = {row.trial: read_rows(folder / row.trial / "metrics.jsonl") for row in measured}
    curves = {trial: [(line["epoch"], line[key]) for line in log if key in line] for trial, log in logs.items()}
    draw_learning(curves, measured, folder / "learning.png")


def write_result(
    search: Search, rows: Sequence[Row], summary: dict[str, Any], images: int, labels: dict[str, int], folder: Path
) -> dict[str, Any]:
    """`search.json`: with it, a search is finished.

    Args:
        search: the search.
        rows: its trials.
        summary: of the measured winner.
        images: of validation.
        labels: how many images of each kind had a label to give.
        folder: of the search.

    Returns:
        What was written.
    """
    result = {
        "objective": f"validation/{search.config.evaluation.monitor}",
        "validation_images": images,
        "labels": labels,
        "trials": [row._asdict() for row in best_first(rows)],
        "winner": summary,
    }
    write_text(folder / RESULT, json.dumps(result, indent=1))
    return result


def result_text(result: dict[str, Any], url: str, epochs: int) -> str:
    """The table of the best trials, the winner's test result, and what to do with it."""
    rows = [Row(**row) for row in result["trials"]]
    images, best, labels = result["validation_images"], rows[0], result["labels"]
    counted = {state: sum(row.state == state for row in rows) for state in ("finished", "stopped", "failed")}
    objective = best.objective or 0.0
    error = standard_error(objective, images)
    close = sum(row.objective is not None and row.objective > objective - error for row in rows[1:] if not row.error)
    trained = sum(row.epoch for row in rows)
    values = " ".join(f"{key}={value}" for key, value in best.values.items())
    lines = [
        *table(rows, images, _SHOWN),
        f"  {', '.join(f'{number} {state}' for state, number in counted.items())}; {trained} epochs trained of "
        f"{epochs * len(rows)}",
        f"  labels used: {labels['labelled']} to train, {labels['validation']} to choose by",
        f"  chosen by {result['objective']}: {values}",
        f"  {objective:.4f} ± {error:.4f} (standard error of {images} images); {close} other trials lie within it",
        "the best trial, measured on test once:",
        final_table(result["winner"]),
        f"  train it anew: python -m jobs.train --config {url}/{BEST}",
        f"  all trials and pictures: {url}",
    ]
    return "\n".join(lines)
