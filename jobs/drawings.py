"""Which curves, points and neighbours `python -m jobs.plot` draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config import load
from jobs.curves import read_test_curves
from jobs.errors import ConfigError
from jobs.folder import RunFolder
from jobs.pictures import Curve, Strip, draw_accuracy, draw_confusion, draw_map, draw_strips
from jobs.schema import PROTOCOLS
from jobs.tracking import read_rows
from jobs.trained import Trained
from semisup_core.evaluation.knn import nearest
from semisup_core.evaluation.maps import pca_map, tsne_map
from semisup_core.evaluation.scores import confusion

_STRIPS, _NEIGHBOURS = 8, 7
_SMALLEST_MAP = 4  # points that t-SNE needs


def draw_runs(folders: Sequence[RunFolder], protocols: Sequence[str], path: Path, needed: bool) -> Path | None:
    """Accuracy against epoch of several runs.

    Args:
        folders: of the runs.
        protocols: a panel each; none for all that some run has test curves of, else validation curves.
        path: the PNG to write.
        needed: whether it is an error that no run has any.

    Returns:
        The path, or None when there was nothing to draw.

    Raises:
        ConfigError: there is nothing to draw, and it is needed.
    """
    curves = [pair for folder, label in zip(folders, _labels(folders), strict=True) for pair in _curves(folder, label)]
    tested = {protocol for protocol, curve in curves if curve.intervals is not None}
    shown = protocols or [name for name in PROTOCOLS if name in (tested or {protocol for protocol, _ in curves})]
    panels = {name: [curve for protocol, curve in curves if protocol == name] for name in shown}
    if not any(panels.values()):
        if not needed:
            return None
        names = ", ".join(folder.name for folder in folders)
        raise ConfigError(
            f"{names}: expected accuracies of {', '.join(shown) or 'any protocol'} by epoch, found none; measure them "
            "with python -m jobs.evaluate RUN --every-epoch"
        )
    draw_accuracy(panels, path)
    return path


def draw_learned(
    folder: RunFolder, protocols: Sequence[str], output: Path, points: int, seed: int, data_path: str | None
) -> list[Path]:
    """Confusion, embedding map and nearest neighbours of one run.

    Args:
        folder: of the run.
        protocols: the first one is that of the confusion; none for the one the run was selected by.
        output: the folder to write into.
        points: at most so many in the map.
        seed: of what is drawn by chance.
        data_path: where the data are now, if they have moved.

    Returns:
        The files.
    """
    trained = Trained(folder, data_path)
    pool = "test" if len(trained.split.test) else "validation"
    protocol = protocols[0] if protocols else trained.config.evaluation.monitor
    written = [output / "map.png"]
    _draw_map(trained, points, seed, written[0])
    if len(rows := getattr(trained.split, pool)):
        written += [output / f"confusion_{protocol}.png", output / "neighbours.png"]
        title = f"{folder.name}, {protocol}, {pool}"
        predicted, _ = trained.predictor(protocol).predict(trained.features(rows))
        names = trained.store.class_names
        draw_confusion(confusion(trained.store.labels[rows], predicted, len(names)), names, title, written[1])
        draw_strips(_strips(trained, rows, seed), f"{folder.name}: {pool} images, nearest labelled ones", written[2])
    return written


def _curves(folder: RunFolder, label: str) -> list[tuple[str, Curve]]:
    """The curves of one run with their protocols: test, then validation."""
    curves = []
    tested = read_test_curves(folder.path)
    for protocol in dict.fromkeys(row["protocol"] for row in tested):
        rows = [row for row in tested if row["protocol"] == protocol]
        columns = [[row[key] for row in rows] for key in ("epoch", "accuracy", "interval")]
        curves.append((protocol, Curve(label, *columns)))
    epochs = [row for row in read_rows(folder.metrics) if "epoch" in row]
    for protocol in PROTOCOLS:
        points = [(row["epoch"], row[key]) for row in epochs if (key := f"validation/{protocol}") in row]
        if points:
            reached, accuracies = zip(*points, strict=True)
            curves.append((protocol, Curve(label, reached, accuracies, None)))
    return curves


def _labels(folders: Sequence[RunFolder]) -> list[str]:
    """Runs are called by their methods where that tells them apart, else by their names, else by their folders."""
    methods = [load([], str(folder.path / "config.yaml")).method.name for folder in folders]
    names = [folder.name for folder in folders]
    distinct = (labels for labels in (methods, names) if len(set(labels)) == len(folders))
    return next(distinct, [folder.url for folder in folders])


def _draw_map(trained: Trained, points: int, seed: int, path: Path) -> None:
    """Labelled and test images by class, and as many again of the unlabelled pool."""
    split, rng = trained.split, np.random.default_rng(seed)
    with_class = np.union1d(split.labelled, split.test)
    without = np.setdiff1d(split.unlabelled, split.labelled)
    rows = np.sort(_some(rng, with_class, points - min(len(without), points // 2)))
    gray = np.sort(_some(rng, without, points - len(rows)))
    features = trained.features(np.concatenate([rows, gray]))
    if len(features) < _SMALLEST_MAP:
        raise ConfigError(f"points: expected at least {_SMALLEST_MAP} images for a map, the run has {len(features)}")
    labels = np.concatenate([trained.store.labels[rows], np.full(len(gray), -1)])
    maps = {"PCA": pca_map(features), "t-SNE": tsne_map(features, seed)}
    draw_map(maps, labels, trained.store.class_names, f"{trained.folder.name}: labelled and test images", path)


def _strips(trained: Trained, rows: np.ndarray, seed: int) -> list[Strip]:
    queries = np.sort(_some(np.random.default_rng(seed), np.arange(len(rows)), _STRIPS))
    bank, store = trained.split.labelled, trained.store
    near, cosines = nearest(trained.features(bank), trained.features(rows)[queries], _NEIGHBOURS)
    return [_strip(store, rows[query], bank[near[i]], cosines[i]) for i, query in enumerate(queries)]


def _strip(store: Any, query: int, neighbours: np.ndarray, cosines: np.ndarray) -> Strip:
    rows = np.concatenate([[query], neighbours])
    labels = store.labels[rows]
    return Strip(store.read(rows), [store.class_names[label] for label in labels], labels[1:] == labels[0], cosines)


def _some(rng: np.random.Generator, rows: np.ndarray, most: int) -> np.ndarray:
    return rng.choice(rows, min(most, len(rows)), replace=False)
