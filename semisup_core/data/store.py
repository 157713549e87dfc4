"""A random-access store of uint8 images: written once, checked when opened, read by row number.

A store is a folder: ``manifest.json``, shards of raw pixels, a file each of labels, origins and row names.
It appears whole or not at all: it is built in a temporary folder beside its place and renamed into it.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semisup_core.errors import CorruptImage, DataError

if TYPE_CHECKING:
    from hashlib import _Hash

    from semisup_core.data.sources import Source

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LABEL_DTYPE = np.dtype("<i4")
ORIGIN_DTYPE = np.dtype("i1")
HASH_BLOCK = 2**20
# Rows are decoded in tasks of about this many bytes of pixels: small images would drown in the cost of a task
# each, and two tasks a thread bound the memory in flight.
TASK_BYTES = 2**20
TEMPORARY_SUFFIX = ".semisup-tmp"
# A killed process cannot remove its temporary folder; the next one does after this long without a write.
ABANDONED_SECONDS = 24 * 3600
NAMED_CORRUPT = 10


class Origin(enum.IntEnum):
    """Where the source put a row."""

    TRAIN = 0
    UNLABELLED = 1
    TEST = 2


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a store: ``rows`` rows in ``bytes`` bytes."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a store holds, saved as ``manifest.json``.

    Attributes:
        format_version: layout of the folder; a reader refuses any other than its own.
        source: name of the source, for example "digits".
        image_shape: (H, W, C) of every row.
        count: rows stored, corrupt images not among them.
        class_names: name of label 0, 1, ...
        encoding: "raw" = uint8 pixels in C order.
        shards: files of pixels, in row order.
        labels: file of int32 labels, -1 = no label.
        origins: file of int8 `Origin` values.
        names: file of row names, one JSON string a line.
        fingerprint: SHA-256 of shape, class names, pixels, labels and origins: of content, not of paths.
        skipped: files of the source that are no images of the data set, counted by reason.
        corrupt: names of the images that could not be decoded and are left out.
    """

    format_version: int
    source: str
    image_shape: tuple[int, int, int]
    count: int
    class_names: tuple[str, ...]
    encoding: str
    shards: tuple[Shard, ...]
    labels: Shard
    origins: Shard
    names: Shard
    fingerprint: str
    skipped: dict[str, int]
    corrupt: tuple[str, ...]

    @property
    def files(self) -> tuple[Shard, ...]:
        """Every file that the manifest vouches for."""
        return (*self.shards, self.labels, self.origins, self.names)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Manifest:
        """Rebuilds a manifest from the parsed ``manifest.json``.

        Raises:
            KeyError, TypeError, ValueError: fields are missing, unknown or of the wrong kind.
        """
        rebuilt: dict[str, Any] = {key: Shard(**fields[key]) for key in ("labels", "origins", "names")}
        rebuilt |= {key: tuple(fields[key]) for key in ("class_names", "corrupt", "image_shape")}
        rebuilt["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        return cls(**{**fields, **rebuilt})


class Store:
    """An opened store; `open_store` makes one.

    Attributes:
        path: folder of the store.
        manifest: what it holds.
        labels: (N,) int32, -1 = no label; read-only.
        origins: (N,) int8 `Origin` values; read-only.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Maps the files of ``manifest``, whose sizes must have been checked."""
        self.path, self.manifest = path, manifest
        self.labels: NDArray[np.int32] = self._map(manifest.labels, LABEL_DTYPE)
        self.origins: NDArray[np.int8] = self._map(manifest.origins, ORIGIN_DTYPE)
        self._pixels = [self._map(shard, np.dtype("u1"), self.image_shape) for shard in manifest.shards]
        self._starts = np.cumsum([0] + [shard.rows for shard in manifest.shards])

    def _map(self, shard: Shard, dtype: np.dtype[Any], row_shape: tuple[int, ...] = ()) -> NDArray[Any]:
        return np.asarray(np.memmap(self.path / shard.name, dtype, "r", shape=(shard.rows, *row_shape)))

    def __reduce__(self) -> tuple[Callable[[Path], Store], tuple[Path]]:
        """Pickles as its path, or a worker would be sent every pixel."""
        return open_store, (self.path,)

    def __len__(self) -> int:
        """Number of rows."""
        return self.manifest.count

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of label 0, 1, ..."""
        return self.manifest.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every row."""
        return self.manifest.image_shape

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content, independent of the folder."""
        return self.manifest.fingerprint

    def names(self) -> list[str]:
        """Reads the name of every row, for a folder the path relative to it."""
        with open(self.path / self.manifest.names.name, encoding="ascii") as lines:
            return [json.loads(line) for line in lines]

    def read(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """Gathers rows.

        Args:
            indices: (n,) integers in 0 .. N-1, in any order, repeats allowed.

        Returns:
            (n, H, W, C) uint8, a copy.

        Raises:
            IndexError: an index is no integer or lies outside the store.
        """
        rows = np.asarray(indices)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise IndexError(f"expected a 1-D array of integer rows, got {rows.dtype} of shape {rows.shape}")
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must lie in 0 .. {len(self) - 1}, got {rows.min()} .. {rows.max()}")
        rows = rows.astype(np.int64, copy=False)
        if len(self._pixels) == 1:
            return self._pixels[0].take(rows, axis=0)
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        images = np.empty((len(rows), *self.image_shape), np.uint8)
        for shard in np.unique(shard_of):
            chosen = shard_of == shard
            images[chosen] = self._pixels[shard].take(rows[chosen] - self._starts[shard], axis=0)
        return images

    def verify(self) -> None:
        """Hashes every file again.

        Raises:
            DataError: a file, or the manifest itself, differs from what was written; the message names it.
        """
        pixels = hashlib.sha256()
        for file in self.manifest.files:
            own = hashlib.sha256()
            _hash_file(self.path / file.name, [own, pixels] if file in self.manifest.shards else [own])
            if own.hexdigest() != file.sha256:
                raise _damaged(self.path, f"{file.name} should hash to {file.sha256}, is {own.hexdigest()}")
        found = fingerprint(pixels, self.manifest)
        if found != self.fingerprint:
            raise _damaged(self.path, f"{MANIFEST} states fingerprint {self.fingerprint}, it is {found}")


def fingerprint(pixels: _Hash, manifest: Manifest) -> str:
    """Hashes the content of a store, whatever its folder, row names and division into shards.

    Args:
        pixels: SHA-256 over the pixels of all shards in order.
        manifest: gives shape, class names and the hashes of labels and origins.
    """
    content = [
        list(manifest.image_shape),
        list(manifest.class_names),
        pixels.hexdigest(),
        manifest.labels.sha256,
        manifest.origins.sha256,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def open_store(path: str | Path) -> Store:
    """Opens a store and checks that every file is there with its size; `Store.verify` checks the bytes.

    Raises:
        DataError: it is no store, has another format version, or a file is missing or of another size.
    """
    path = Path(path).absolute()
    try:
        fields = json.loads((path / MANIFEST).read_text())
        if fields["format_version"] != FORMAT_VERSION:
            raise _damaged(path, f"expected format version {FORMAT_VERSION}, got {fields['format_version']}")
        manifest = Manifest.from_json(fields)
        sizes = _expected_sizes(manifest)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"expected the {MANIFEST} of a store, got {error!r}") from error
    if manifest.encoding != "raw":
        raise _damaged(path, f"expected encoding raw, got {manifest.encoding}")
    for file, size in zip(manifest.files, sizes, strict=True):
        found = (path / file.name).stat().st_size if (path / file.name).is_file() else "no file"
        if not size == file.bytes == found:
            what = f"expected {size} bytes in {file.name}, the manifest lists {file.bytes}, found {found}"
            raise _damaged(path, what)
    return Store(path, manifest)


def _expected_sizes(manifest: Manifest) -> list[int]:
    """Bytes of `Manifest.files` as they follow from the number of rows."""
    rows = sum(shard.rows for shard in manifest.shards)
    if not rows == manifest.count > 0:
        raise ValueError(f"{manifest.count} rows, of which the shards hold {rows}")
    height, width, channels = manifest.image_shape
    pixels = [shard.rows * height * width * channels for shard in manifest.shards]
    return [*pixels, rows * LABEL_DTYPE.itemsize, rows * ORIGIN_DTYPE.itemsize, manifest.names.bytes]


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"the store {path} cannot be used: {what}; delete that folder and run again to rebuild it")


def _hash_file(path: Path, hashes: Sequence[_Hash]) -> None:
    with open(path, "rb") as file:
        for block in iter(partial(file.read, HASH_BLOCK), b""):
            for one in hashes:
                one.update(block)


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
        DataError: too many corrupt images, not enough space, or a folder that cannot be written.
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
            f"{'; '.join(corrupt[:NAMED_CORRUPT])}{more}. Repair or remove them, or raise the quota"
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
        self._file.flush()
        os.fsync(self._file.fileno())
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
    _sync_folder(folder)


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
    tasks = (range(start, min(start + step, len(source))) for start in range(0, len(source), step))
    pending: deque[Future[tuple[NDArray[np.uint8], dict[int, str]]]] = deque()
    bar = tqdm(total=len(source), desc=f"preparing {source.name}", unit="img", disable=not progress)
    with bar, ThreadPoolExecutor(threads) as pool:
        try:
            for rows in tasks:
                pending.append(pool.submit(_decode_rows, source, rows))
                while len(pending) > (2 * threads if rows.stop < len(source) else 0):
                    images, corrupt = pending.popleft().result()
                    bar.update(len(images) + len(corrupt))
                    yield images, corrupt
        finally:
            pool.shutdown(cancel_futures=True)


def _decode_rows(source: Source, rows: range) -> tuple[NDArray[np.uint8], dict[int, str]]:
    images = np.empty((len(rows), *source.image_shape), np.uint8)
    corrupt: dict[int, str] = {}
    for row in rows:
        try:
            images[row - rows.start - len(corrupt)] = source.load(row)
        except CorruptImage as error:
            corrupt[row] = str(error)
    return images[: len(rows) - len(corrupt)], corrupt


def _rename_unless_there(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, as fsync of a file covers only its bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _cannot_write(path: Path, source: Source, why: str) -> DataError:
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    return DataError(
        f"cannot write the store {path}: {why}. It needs {_needed_bytes(source):,} bytes, its disk has "
        f"{shutil.disk_usage(existing).free:,} free; make room or choose another storage folder"
    )
