"""Where images come from: a source lists rows and loads one at a time; `prepare` turns it into a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semisup_core.data.folders import Listing, list_images
from semisup_core.data.images import DECODE_VERSION, decode
from semisup_core.data.manifest import Origin
from semisup_core.data.splits import apportion
from semisup_core.data.store import Store, open_store
from semisup_core.data.writer import check_quota, write_store
from semisup_core.errors import CorruptImage, DataError

DIGITS_VERSION = 1
DIGITS_TEST_ROWS = 400
# The test images of digits are the same whatever the seed of a run.
DIGITS_TEST_SEED = 1797


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A listed data set.

    Attributes:
        name: what the user calls it.
        class_names: name of label 0, 1, ...
        labels: (N,) int32, -1 = no label.
        origins: (N,) int8 `Origin` values.
        names: N names for messages, for a folder the path relative to it.
        image_shape: (H, W, C) of every row.
        load: row number -> (H, W, C) uint8; raises `CorruptImage`. Called from several threads.
        skipped: files that are no images of the data set, counted by reason; always has "not_images".
    """

    name: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int32]
    origins: NDArray[np.int8]
    names: Sequence[str]
    image_shape: tuple[int, int, int]
    load: Callable[[int], NDArray[np.uint8]]
    skipped: dict[str, int]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.names)


class Found(NamedTuple):
    """A data set that is there; its key alone says whether its store is.

    Attributes:
        key: identifies the content without reading the images (for files, by where they are too); part of the name
            of the store's folder.
        source: makes the source, which may take seconds.
    """

    key: str
    source: Callable[[], Source]


def digits(image_size: int = 32, path: str | Path | None = None) -> Found:
    """Handwritten digits: the 1,797 images of 8x8 that ship with scikit-learn, as RGB of ``image_size``.

    400 rows, stratified and the same for every run, are `Origin.TEST`; the other 1,397 are `Origin.TRAIN`.

    Raises:
        DataError: a ``path`` is given, which this source does not have.
    """
    if path is not None:
        raise DataError(f"digits ships with scikit-learn and takes no path, got {path}; use folder for it")
    return Found(f"v{DIGITS_VERSION}.{DECODE_VERSION}", partial(_digits_source, image_size))


def _digits_source(image_size: int) -> Source:
    from sklearn.datasets import load_digits  # takes 3 s

    data = load_digits()
    labels = data.target.astype(np.int32)
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    origins = np.full(len(labels), Origin.TRAIN, np.int8)
    for digit, rows in enumerate(apportion(np.bincount(labels), DIGITS_TEST_ROWS)):
        order = np.random.default_rng([DIGITS_TEST_SEED, digit]).permutation(np.flatnonzero(labels == digit))
        origins[order[:rows]] = Origin.TEST

    def load(row: int) -> NDArray[np.uint8]:
        image = Image.fromarray(pixels[row]).resize((image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(image.convert("RGB"))

    return Source(
        name="digits",
        class_names=tuple(map(str, data.target_names)),
        labels=labels,
        origins=origins,
        names=[f"digits/{row}" for row in range(len(labels))],
        image_shape=(image_size, image_size, 3),
        load=load,
        skipped={"not_images": 0},
    )


def folder(path: str | Path | None, image_size: int) -> Found:
    """Image files in class folders.

    Either ``path/train/CLASS/*``, with optional ``path/unlabelled/*`` and ``path/test/CLASS/*``, or
    ``path/CLASS/*``, all of which is `Origin.TRAIN`. Files may lie at any depth inside a class folder. Images
    are JPEG, PNG, BMP, GIF (first frame) and WebP, by extension. Other files, hidden files and folders, links
    that leave the folder, images outside class folders and folders beside the three are counted in
    ``skipped``. See `images.decode` for what becomes of an image.

    Raises:
        DataError: no such folder, fewer than two class folders, no image, a training class without images, or a
            test class that is not in training.
    """
    if path is None:
        raise DataError("the source folder needs a path: a folder of class folders, or one with train/CLASS/*")
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise DataError(f"expected a folder of class folders at {path}, found {found}; check the path")
    listing = list_images(root, image_size)
    return Found(listing.key, partial(_folder_source, root, listing, image_size))


def _folder_source(root: Path, listing: Listing, image_size: int) -> Source:
    def load(row: int) -> NDArray[np.uint8]:
        try:
            return decode(root / listing.names[row], image_size)
        except CorruptImage as error:
            raise CorruptImage(f"{listing.names[row]} ({error})") from error

    return Source(
        name="folder",
        class_names=listing.class_names,
        labels=np.array(listing.labels, np.int32),
        origins=np.array(listing.origins, np.int8),
        names=listing.names,
        image_shape=(image_size, image_size, 3),
        load=load,
        skipped=listing.skipped,
    )


SOURCES: dict[str, Callable[..., Found]] = {"digits": digits, "folder": folder}


def prepare(
    name: str,
    *,
    path: str | Path | None,
    image_size: int,
    stores: str | Path,
    corrupt_quota: float = 0.01,
    progress: bool = True,
) -> Store:
    """Opens the store of a data set, writing it first where it is new or its files have changed or moved.

    Args:
        name: a key of `SOURCES`.
        path: folder of the data; None for a source that ships with a package.
        image_size: height and width of the stored images.
        stores: folder that holds the stores, each in ``<name>-<image_size>-<key>``.
        corrupt_quota: largest fraction of images that may fail to decode.
        progress: draw a bar on stderr while writing.

    Raises:
        DataError: see the source and `write_store`.
        ValueError: unknown ``name`` or no positive ``image_size``.
    """
    if name not in SOURCES or image_size < 1:
        raise ValueError(f"expected one of {sorted(SOURCES)} and a size above 0, got {name!r}, {image_size}")
    found = SOURCES[name](path=path, image_size=image_size)
    place = Path(stores) / f"{name}-{image_size}-{found.key[:12]}"
    if place.exists():
        store = open_store(place)
    else:
        store = write_store(place, found.source(), corrupt_quota=corrupt_quota, progress=progress)
    # A store that was there may have been written under a larger quota than this run allows.
    check_quota(store.manifest.corrupt, len(store) + len(store.manifest.corrupt), corrupt_quota)
    return store
