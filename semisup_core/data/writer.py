"""Writes a store: decodes every row of a source in bounded memory; the folder appears whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semisup_core.data.manifest import (
    FORMAT_VERSION,
    LABEL_DTYPE,
    MANIFEST,
    ORIGIN_DTYPE,
    Manifest,
    Shard,
    fingerprint,
)
from semisup_core.data.store import Store, open_store
from semisup_core.durable import flush, flush_folder
from semisup_core.errors import CorruptImage, DataError, StorageError

if TYPE_CHECKING:
    from semisup_core.data.sources import Source

# Rows are decoded in tasks of about this many bytes of pixels: small images would drown in the cost of a task
# each, and two tasks a thread bound the memory in flight.
TASK_BYTES = 2**20
TEMPORARY_SUFFIX = ".semisup-tmp"
# A killed process cannot remove its temporary folder; the next one does after this long without a write.
ABANDONED_SECONDS = 24 * 3600
NAMED_CORRUPT = 10


def write_store(path: str | Path, source: Source, *, corrupt_quota: float, progress: bool) -> Store:
    """Decodes every row of ``source`` into a new store, or opens the one that is there.

    The store appears whole by a rename; whatever fails, nothing is left. Of two processes that write the same
    store at once the first to finish wins, and the other opens its store.

    Args:
        path: folder of the store to be.
        source: names, labels and origins of the rows, and how to load one.
        corrupt_quota: largest fraction of rows that may fail to decode; those are left out and named.
        progress: draw a bar with the time left on stderr.

    Raises:
        DataError: too many corrupt images.
        StorageError: not enough space, or a folder that cannot be written.
    """
    path = Path(path).absolute()
    if path.exists():
        return open_store(path)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        _check_space(path, source)
        temporary.mkdir()
        _fill(temporary, source, corrupt_quota, progress)
        _rename_unless_there(temporary, path)
    except OSError as error:
        raise _cannot_write(path, source, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_store(path)


def check_quota(corrupt: Sequence[str], total: int, quota: float) -> None:
    """Refuses a data set with too many corrupt images.

    Args:
        corrupt: one text for each, starting with its name.
        total: rows listed by the source.
        quota: largest fraction that may be corrupt.

    Raises:
        DataError: names the first ten.
    """
    if len(corrupt) > quota * total:
        more = "; ..." if len(corrupt) > NAMED_CORRUPT else ""
        raise DataError(
            f"{len(corrupt)} of {total} images are corrupt, expected at most {quota:g} of them: "
            f"{'; '.join(corrupt[:NAMED_CORRUPT])}{more}. Repair or remove them, or raise dataset.corrupt_quota"
        )


class _HashedFile:
    """Writes a file and hashes it on the way; `finish` has it on the disk before it says what was written."""

    def __init__(self, path: Path) -> None:
        self._file, self._name = open(path, "wb"), path.name
        self.sha256 = hashlib.sha256()

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.sha256.update(data)

    def finish(self, rows: int) -> Shard:
        flush(self._file)
        return Shard(self._name, rows, self._file.tell(), self.sha256.hexdigest())


def _fill(folder: Path, source: Source, corrupt_quota: float, progress: bool) -> None:
    """Writes every file of a store, the manifest last."""
    kept = np.ones(len(source), bool)
    corrupt: dict[int, str] = {}
    with _HashedFile(folder / "pixels-00000.raw") as pixels:
        for images, failed in _decoded(source, progress):
            pixels.write(images.data)
            corrupt.update(failed)
        check_quota(list(corrupt.values()), len(source), corrupt_quota)
        kept[list(corrupt)] = False
        shard = pixels.finish(int(kept.sum()))
    if not shard.rows:
        raise DataError(f"the source {source.name} has no image that can be decoded, expected at least one")
    rows, names = shard.rows, np.asarray(source.names, object)
    labels, origins = source.labels[kept].astype(LABEL_DTYPE), source.origins[kept].astype(ORIGIN_DTYPE)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=source.name,
        image_shape=source.image_shape,
        count=rows,
        class_names=source.class_names,
        encoding="raw",
        shards=(shard,),
        labels=_write_rows(folder / "labels.i32", [labels.tobytes()], rows),
        origins=_write_rows(folder / "origins.i8", [origins.tobytes()], rows),
        names=_write_rows(folder / "names.jsonl", (f"{json.dumps(n)}\n".encode() for n in names[kept]), rows),
        fingerprint="",
        skipped=dict(source.skipped),
        corrupt=tuple(names[sorted(corrupt)]),
    )
    manifest = dataclasses.replace(manifest, fingerprint=fingerprint(pixels.sha256, manifest))
    _write_rows(folder / MANIFEST, [json.dumps(dataclasses.asdict(manifest), indent=1).encode()], 1)
    flush_folder(folder)


def _write_rows(path: Path, blocks: Iterable[bytes], rows: int) -> Shard:
    with _HashedFile(path) as file:
        for block in blocks:
            file.write(block)
        return file.finish(rows)


def _decoded(source: Source, progress: bool) -> Iterator[tuple[NDArray[np.uint8], dict[int, str]]]:
    """Yields (images, reason of each corrupt row) of consecutive runs of rows, decoded by a thread pool."""
    from tqdm import tqdm  # only whoever writes needs it

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    step = max(1, min(64, TASK_BYTES // int(np.prod(source.image_shape))))
    items = iter(source.items())
    pending: deque[Future[tuple[NDArray[np.uint8], dict[int, str]]]] = deque()
    bar = tqdm(total=len(source), desc=f"preparing {source.name}", unit="img", disable=not progress)
    with bar, ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(source), step):
                rows = range(start, min(start + step, len(source)))
                pending.append(pool.submit(_decode_rows, source, rows, _take(source, items, len(rows))))
                while len(pending) > (2 * threads if rows.stop < len(source) else 0):
                    images, corrupt = pending.popleft().result()
                    bar.update(len(images) + len(corrupt))
                    yield images, corrupt
        finally:
            pool.shutdown(cancel_futures=True)


def _take(source: Source, items: Iterator[Any], count: int) -> list[Any]:
    taken = list(islice(items, count))
    if len(taken) < count:
        why = f"the source {source.name} lists {len(source):,} images and its data end before them"
        raise DataError(f"{why}; they are damaged or incomplete: get or make them again")
    return taken


def _decode_rows(source: Source, rows: range, items: list[Any]) -> tuple[NDArray[np.uint8], dict[int, str]]:
    images = np.empty((len(rows), *source.image_shape), np.uint8)
    corrupt: dict[int, str] = {}
    for row, item in zip(rows, items, strict=True):
        try:
            images[row - rows.start - len(corrupt)] = source.load(item)
        except CorruptImage as error:
            corrupt[row] = f"{source.names[row]} ({error})"
    return images[: len(rows) - len(corrupt)], corrupt


def _rename_unless_there(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    flush_folder(path.parent)


def _remove_abandoned(stores: Path) -> None:
    for folder in stores.glob(f".*{TEMPORARY_SUFFIX}"):
        try:
            newest = max(file.stat().st_mtime for file in [folder, *folder.iterdir()])
        except FileNotFoundError:  # its owner has just finished
            continue
        if time.time() - newest > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _needed_bytes(source: Source) -> int:
    row = int(np.prod(source.image_shape)) + LABEL_DTYPE.itemsize + ORIGIN_DTYPE.itemsize
    return len(source) * row + sum(map(len, source.names))


def _check_space(path: Path, source: Source) -> None:
    if _needed_bytes(source) > shutil.disk_usage(path.parent).free:
        raise _cannot_write(path, source, "not enough space")


def _cannot_write(path: Path, source: Source, why: str) -> StorageError:
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    return StorageError(
        f"cannot write the store {path}: {why}. It needs {_needed_bytes(source):,} bytes, its disk has "
        f"{shutil.disk_usage(existing).free:,} free; make room or choose another storage folder"
    )
