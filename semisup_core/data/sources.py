"""Where images come from: a source lists rows and loads one at a time; `prepare` turns it into a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semisup_core.data import SOURCES
from semisup_core.data.manifest import Origin
from semisup_core.data.store import Store, open_store
from semisup_core.data.writer import check_quota, write_store
from semisup_core.errors import DataError

ORIGINS = {"train": Origin.TRAIN, "test": Origin.TEST, "unlabelled": Origin.UNLABELLED}


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A listed data set.

    What takes long is left to `load`, which several threads call at once; `items` may read a stream.

    Attributes:
        name: what the user calls it.
        class_names: name of label 0, 1, ...
        labels: (N,) int32, -1 = no label.
        origins: (N,) int8 `Origin` values.
        names: N names for messages, for a folder the path relative to it.
        image_shape: (H, W, C) of every row.
        items: gives the N things that `load` takes, in order of the rows; one thread reads them, a few at a time.
        load: an item -> (H, W, C) uint8; raises `CorruptImage`. Called from several threads.
        skipped: files that are no images of the data set, counted by reason; always has "not_images".
    """

    name: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int32]
    origins: NDArray[np.int8]
    names: Sequence[str]
    image_shape: tuple[int, int, int]
    items: Callable[[], Iterable[Any]]
    load: Callable[[Any], NDArray[np.uint8]]
    skipped: dict[str, int]

    def __post_init__(self) -> None:
        """Checks what no source may hand over.

        Raises:
            DataError: fewer than two classes, or test images none of which has a label.
        """
        if len(self.class_names) < 2:
            raise DataError(f"expected at least two classes in {self.name}, found {list(self.class_names)}; add others")
        test = self.labels[self.origins == Origin.TEST]
        if len(test) and test.max() < 0:
            raise DataError(
                f"none of the {len(test):,} test images of {self.name} has a label, so nothing can be measured on "
                "them; leave them out, or make them unlabelled images"
            )

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


def number_classes(values: NDArray[np.integer]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Names classes that have only numbers: in their order, without gaps, -1 = no label.

    Args:
        values: (N,) integers.

    Returns:
        The names of labels 0 .. C-1, and the (N,) labels.
    """
    numbers = np.unique(values[values >= 0])
    labels = np.where(values < 0, -1, np.searchsorted(numbers, values)).astype(np.int32)
    return tuple(map(str, numbers.tolist())), labels


def prepare(
    name: str,
    *,
    image_size: int,
    stores: str | Path,
    corrupt_quota: float = 0.01,
    progress: bool = True,
    fetch: Callable[[Path], Any] | None = None,
    **settings: Any,
) -> Store:
    """Opens the store of a data set, writing it first where it is new or its files have changed or moved.

    Args:
        name: a key of `SOURCES`.
        image_size: height and width of the stored images.
        stores: folder that holds the stores, each in ``<name>-<image_size>-<key>``.
        corrupt_quota: largest fraction of images that may fail to decode.
        progress: draw a bar on stderr while writing.
        fetch: called with the store's folder, to bring it here if it exists elsewhere.
        **settings: the source's own, such as ``path``; see its entry in `SOURCES`.

    Raises:
        DataError: see the source and `write_store`.
        ValueError: unknown ``name`` or no positive ``image_size``.
        TypeError: settings that the source does not take, or needs and did not get.
    """
    if name not in SOURCES or image_size < 1:
        raise ValueError(f"expected one of {sorted(SOURCES)} and a size above 0, got {name!r}, {image_size}")
    module, function = SOURCES[name].function.split(":")
    found = getattr(import_module(module), function)(image_size=image_size, **settings)
    place = Path(stores) / f"{name}-{image_size}-{found.key[:12]}"
    if fetch:
        fetch(place)
    if place.exists():
        store = open_store(place)
    else:
        store = write_store(place, found.source(), corrupt_quota=corrupt_quota, progress=progress)
    # A store that was there may have been written under a larger quota than this run allows.
    check_quota(store.manifest.corrupt, len(store) + len(store.manifest.corrupt), corrupt_quota)
    return store
