"""All protocols on one pool of a finished run: evaluation.json, confusion pictures, and the words to print."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.evaluation_report import evaluation_text
from jobs.pictures import draw_confusion
from jobs.storage import write_text
from jobs.trained import Trained
from semisup_core.errors import DataError
from semisup_core.evaluation.protocols import DESCRIPTIONS, Predictor, score
from semisup_core.evaluation.scores import class_scores, confusion

# A larger confusion matrix would be most of the file; its largest entries are printed.
_LARGEST_CONFUSION = 100


def evaluate(trained: Trained, protocols: Sequence[str], pool: str) -> str:
    """Measures, and writes `evaluation.json` (of validation: `evaluation-validation.json`) and the pictures.

    Args:
        trained: the run.
        protocols: names; none for all that the run has. The first one given, or the one that the run was selected by,
            is shown class by class.
        pool: "test" or "validation".

    Returns:
        What to print.

    Raises:
        DataError: the pool has no images.
    """
    rows = getattr(trained.split, pool)
    if not len(rows):
        raise DataError(f"{trained.folder.name}: expected {pool} images, its split has none")
    predictors = [trained.predictor(name) for name in protocols or trained.protocols]
    labels, names = np.asarray(trained.store.labels[rows]), trained.store.class_names
    results: dict[str, Any] = {}
    for predictor in predictors:
        predicted, _ = predictor.predict(trained.features(rows))
        counts = confusion(labels, predicted, len(names))
        results[predictor.protocol] = _result(predictor, predicted, labels, len(names)) | {"confusion": counts}
        draw_confusion(counts, names, _title(trained, predictor, pool), _picture(trained, predictor.protocol, pool))
    shown = protocols[0] if protocols else trained.config.evaluation.monitor
    file = trained.folder.path / ("evaluation.json" if pool == "test" else f"evaluation-{pool}.json")
    write_text(file, json.dumps(_as_json(trained, pool, results), indent=1))
    pictures = trained.folder.shown(_picture(trained, "", pool).parent)
    where = f"{trained.folder.shown(file)} and confusion_*.png in {pictures}"
    return evaluation_text(trained.folder.name, pool, names, results, shown, where)


def _result(predictor: Predictor, predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    measured = score(predictor, predicted, labels, num_classes)._asdict()
    return {**measured, "description": DESCRIPTIONS[predictor.protocol]} | {
        "classes": class_scores(labels, predicted, num_classes)
    }


def _as_json(trained: Trained, pool: str, results: dict[str, Any]) -> dict[str, Any]:
    names = trained.store.class_names
    protocols = {}
    for protocol, result in results.items():
        columns = {key: values.tolist() for key, values in result["classes"]._asdict().items()}
        per_class = [
            {"class": name} | {key: values[i] for key, values in columns.items()} for i, name in enumerate(names)
        ]
        counts = result["confusion"].tolist() if len(names) <= _LARGEST_CONFUSION else None
        protocols[protocol] = {**result, "classes": per_class, "confusion": counts}
    return {
        "run": trained.folder.name,
        "pool": pool,
        "encoder_sha256": trained.encoder_hash,
        "split_hash": trained.split.hash,
        "store_fingerprint": trained.store.fingerprint,
        "labelled_images": len(trained.split.labelled),
        "protocols": protocols,
    }


def _title(trained: Trained, predictor: Predictor, pool: str) -> str:
    return f"{trained.folder.name}, {predictor.protocol}, {pool}"


def _picture(trained: Trained, protocol: str, pool: str) -> Path:
    end = "" if pool == "test" else f"_{pool}"
    return trained.folder.path / "pictures" / f"confusion_{protocol}{end}.png"
