"""The handwritten digits of scikit-learn: real images that need no download."""

from __future__ import annotations

from functools import partial

import numpy as np

from semisup_core.data.images import DECODE_VERSION, from_pixels
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import Found, Source
from semisup_core.data.splits import apportion

VERSION = 1
TEST_ROWS = 400
# The test images are the same whatever the seed of a run.
TEST_SEED = 1797


def digits(image_size: int = 32) -> Found:
    """Handwritten digits: the 1,797 images of 8x8 that ship with scikit-learn, as RGB of ``image_size``.

    400 rows, stratified and the same for every run, are `Origin.TEST`; the other 1,397 are `Origin.TRAIN`.
    """
    return Found(f"v{VERSION}.{DECODE_VERSION}", partial(_source, image_size))


def _source(image_size: int) -> Source:
    from sklearn.datasets import load_digits  # takes 3 s

    data = load_digits()
    labels = data.target.astype(np.int32)
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    origins = np.full(len(labels), Origin.TRAIN, np.int8)
    for digit, rows in enumerate(apportion(np.bincount(labels), TEST_ROWS)):
        order = np.random.default_rng([TEST_SEED, digit]).permutation(np.flatnonzero(labels == digit))
        origins[order[:rows]] = Origin.TEST
    return Source(
        name="digits",
        class_names=tuple(map(str, data.target_names)),
        labels=labels,
        origins=origins,
        names=[f"digits/{row}" for row in range(len(labels))],
        image_shape=(image_size, image_size, 3),
        items=lambda: pixels,
        load=partial(from_pixels, image_size=image_size),
        skipped={"not_images": 0},
    )
