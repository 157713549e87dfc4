"""What a store holds: the manifest that describes and vouches for its files."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hashlib import _Hash

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LABEL_DTYPE = np.dtype("<i4")
ORIGIN_DTYPE = np.dtype("i1")


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


def expected_sizes(manifest: Manifest) -> list[int]:
    """Bytes of `Manifest.files` as they follow from the number of rows."""
    rows = sum(shard.rows for shard in manifest.shards)
    if not rows == manifest.count > 0:
        raise ValueError(f"{manifest.count} rows, of which the shards hold {rows}")
    height, width, channels = manifest.image_shape
    pixels = [shard.rows * height * width * channels for shard in manifest.shards]
    return [*pixels, rows * LABEL_DTYPE.itemsize, rows * ORIGIN_DTYPE.itemsize, manifest.names.bytes]
