import numpy as np
import pytest

from semisup_core.data.manifest import Origin
from semisup_core.data.sources import Source
from semisup_core.data.writer import write_store
from semisup_core.errors import CorruptImage

SHAPE = (4, 5, 3)


def make_source(count=150, corrupt=(), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)

    def load(row):
        if row in corrupt:
            raise CorruptImage(f"image-{row} (damaged)")
        return pixels[row]

    return Source(
        name="made",
        class_names=("a", "b"),
        labels=np.arange(count, dtype=np.int32) % 3 - 1,
        origins=np.full(count, Origin.TRAIN, np.int8),
        names=[f"image-{row}\n\udcff é" for row in range(count)],
        image_shape=SHAPE,
        load=load,
        skipped={"not_images": 2},
    ), pixels


def write_made(path, *args, quota=0.0, **kwargs):
    return write_store(path, make_source(*args, **kwargs)[0], corrupt_quota=quota, progress=False)


@pytest.fixture(name="make_source")
def make_source_fixture():
    """(count, corrupt, seed) -> a source of random images and its pixels."""
    return make_source


@pytest.fixture
def write():
    """(path, quota, what make_source takes) -> the store of a made source."""
    return write_made
