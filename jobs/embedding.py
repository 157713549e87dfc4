"""New images through a run's encoder, in bounded memory: what `python -m jobs.embed` writes."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jobs.embedding_table import Rows, table_writer
from jobs.storage import write_text
from jobs.text import printable
from jobs.trained import Trained
from semisup_core.data.images import SUFFIXES, decode
from semisup_core.errors import CorruptImage, DataError
from semisup_core.evaluation.embed import BATCH
from semisup_core.evaluation.knn import nearest
from semisup_core.evaluation.protocols import Predictor

_THREADS = min(16, 2 * (os.cpu_count() or 1))  # decoding leaves Python's lock


def embed_folder(
    trained: Trained, folder: Path, output: Path, protocol: str, neighbours: int, say: Callable[[str], Any]
) -> None:
    """Writes a row for each image below a folder, and `OUTPUT.bad.txt` where some cannot be read.

    Args:
        trained: the run.
        folder: holds image files at any depth.
        output: a .parquet or .csv file; it appears whole or not at all.
        protocol: predicts the class.
        neighbours: labelled images listed for each image, capped at how many there are.
        say: prints a line.

    Raises:
        ConfigError: the run has no encoder, or not the classifier that the protocol needs.
        DataError: no folder, or no image in it that can be read.
    """
    paths, others = _image_files(folder)
    predictor = trained.predictor(protocol)
    k = min(neighbours, len(trained.split.labelled))
    width = trained.features(trained.split.labelled).shape[1]
    facts = {"run": trained.folder.name, "encoder_sha256": trained.encoder_hash, "protocol": protocol}
    bad: list[str] = []
    with table_writer(output, k, width, facts) as write:
        for rows in _rows(trained, predictor, _decoded(folder, paths, trained.config.dataset.image_size, bad), k):
            write(rows)
        if len(bad) == len(paths):
            raise DataError(f"{folder}: none of its {len(paths):,} images can be read, the first: {bad[0]}")
    listed = output.with_name(f"{output.name}.bad.txt")
    if bad:
        write_text(listed, "".join(f"{line}\n" for line in bad))
    else:
        _forget(trained, listed)  # of an earlier table of this name
    note = f" ({predictor.note})" if predictor.note else ""
    say(f"{len(paths) - len(bad):,} images, predicted by {protocol}{note}: {trained.folder.shown(output)}")
    if bad:
        say(f"{len(bad):,} images cannot be read and are left out: {trained.folder.shown(listed)}")
    if others:
        say(f"{others:,} other files skipped")


def _forget(trained: Trained, file: Path) -> None:
    if file.is_relative_to(trained.folder.path):
        trained.folder.storage.remove(file)
    else:
        file.unlink(missing_ok=True)


def _rows(
    trained: Trained, predictor: Predictor, batches: Iterable[tuple[list[str], np.ndarray]], k: int
) -> Iterator[Rows]:
    """A table's batch for each batch of images."""
    bank, labels, names = trained.split.labelled, trained.store.labels, trained.store.class_names
    bank_features, stored = trained.features(bank), [readable(name) for name in trained.store.names()]
    for paths, images in batches:
        features = trained.encoder.images(images)
        classes, confidence = predictor.predict(features)
        near, cosines = nearest(bank_features, features, k)
        yield Rows(
            paths=paths,
            predicted=[names[label] for label in classes],
            confidence=confidence.astype(np.float32),
            neighbours=[[stored[row] for row in rows] for rows in bank[near]],
            classes=[[names[labels[row]] for row in rows] for rows in bank[near]],
            cosines=cosines,
            embeddings=features,
        )


def _image_files(folder: Path) -> tuple[list[str], int]:
    """The paths of the image files below a folder, relative and sorted, and how many other files there are."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}")
    paths, others = [], 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in files if not name.startswith(".")]
        images = [name for name in shown if name.lower().endswith(SUFFIXES)]
        paths += [os.path.relpath(os.path.join(place, name), folder) for name in images]
        others += len(shown) - len(images)
    if not paths:
        raise DataError(f"{folder}: expected images ending in {', '.join(SUFFIXES)}, found none among {others:,} files")
    return sorted(paths), others


def _decoded(folder: Path, paths: list[str], size: int, bad: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Batches of images that can be read, with their paths; the others are added to `bad` with the reason."""
    with ThreadPoolExecutor(_THREADS) as pool, tqdm(total=len(paths), unit=" images", disable=None) as bar:
        for start in range(0, len(paths), BATCH):
            chunk = paths[start : start + BATCH]
            tried = list(zip(chunk, pool.map(partial(_try, folder, size=size), chunk), strict=True))
            bad += [
                f"{readable(path)}\t{printable(str(found))}" for path, found in tried if isinstance(found, Exception)
            ]
            good = [(path, found) for path, found in tried if not isinstance(found, Exception)]
            bar.update(len(chunk))
            if good:
                yield [readable(path) for path, _ in good], np.stack([image for _, image in good])


def _try(folder: Path, path: str, size: int) -> np.ndarray | CorruptImage:
    try:
        return decode(folder / path, size)
    except CorruptImage as error:
        return error


def readable(path: str) -> str:
    """A path as valid text: bytes of a file name that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
