"""Image files in class folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semisup_core.data.folders import Listing, list_images
from semisup_core.data.images import decode
from semisup_core.data.sources import Found, Source
from semisup_core.errors import DataError


def folder(path: str | Path, image_size: int) -> Found:
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
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise DataError(f"expected a folder of class folders at {root}, found {found}; check the path")
    listing = list_images(root, image_size)
    return Found(listing.key, partial(_source, root, listing, image_size))


def _source(root: Path, listing: Listing, image_size: int) -> Source:
    def load(name: str) -> NDArray[np.uint8]:
        return decode(root / name, image_size)

    return Source(
        name="folder",
        class_names=listing.class_names,
        labels=np.array(listing.labels, np.int32),
        origins=np.array(listing.origins, np.int8),
        names=listing.names,
        image_shape=(image_size, image_size, 3),
        items=lambda: listing.names,
        load=load,
        skipped=listing.skipped,
    )
