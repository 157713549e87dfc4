"""A random-access store of uint8 images: checked when opened, read by row number.

A store is a folder: ``manifest.json``, shards of raw pixels, a file each of labels, origins and row names.
`writer.write_store` makes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semisup_core.data.manifest import (
    FORMAT_VERSION,
    LABEL_DTYPE,
    MANIFEST,
    ORIGIN_DTYPE,
    Manifest,
    Shard,
    expected_sizes,
    fingerprint,
)
from semisup_core.errors import DataError

if TYPE_CHECKING:
    from hashlib import _Hash

HASH_BLOCK = 2**20


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
        sizes = expected_sizes(manifest)
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


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"the store {path} cannot be used: {what}; delete that folder and run again to rebuild it")


def _hash_file(path: Path, hashes: Sequence[_Hash]) -> None:
    with open(path, "rb") as file:
        for block in iter(partial(file.read, HASH_BLOCK), b""):
            for one in hashes:
                one.update(block)
