import numpy as np
import pytest
from PIL import Image

from semisup_core.data.manifest import Origin
from semisup_core.data.sources import Source, prepare
from semisup_core.data.writer import write_store
from semisup_core.errors import CorruptImage

SHAPE = (4, 5, 3)


def make_source(count=150, corrupt=(), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)

    def load(row):
        if row in corrupt:
            raise CorruptImage("damaged")
        return pixels[row]

    return Source(
        name="made",
        class_names=("a", "b"),
        labels=np.arange(count, dtype=np.int32) % 3 - 1,
        origins=np.full(count, Origin.TRAIN, np.int8),
        names=[f"image-{row}\n\udcff é" for row in range(count)],
        image_shape=SHAPE,
        items=lambda: range(count),
        load=load,
        skipped={"not_images": 2},
    ), pixels


def write_made(path, *args, quota=0.0, **kwargs):
    return write_store(path, make_source(*args, **kwargs)[0], corrupt_quota=quota, progress=False)


def picture(height=20, width=30, seed=0):
    """A smooth picture, so that lossy formats keep it nearly."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make_folder(root, **classes):
    """Writes n pictures for each train/CLASS=n; `_` in a keyword stands for `/`."""
    for number, (name, count) in enumerate(classes.items()):
        place = root / name.replace("_", "/")
        place.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            save(picture(seed=100 * number + index), place / f"{index}.png")
    return root


@pytest.fixture(name="make_source")
def make_source_fixture():
    """(count, corrupt, seed) -> a source of random images and its pixels."""
    return make_source


@pytest.fixture
def write():
    """(path, quota, what make_source takes) -> the store of a made source."""
    return write_made


@pytest.fixture(name="picture")
def picture_fixture():
    """(height, width, seed) -> a smooth PIL image."""
    return picture


@pytest.fixture(name="save")
def save_fixture():
    """(image, path, options of PIL) -> the path, its folders made."""
    return save


@pytest.fixture(name="make_folder")
def make_folder_fixture():
    """(root, CLASS=n, train_CLASS=n, ...) -> the root of a folder of pictures."""
    return make_folder


@pytest.fixture
def prepare_folder():
    """(path, stores, options) -> the store of a folder, of 8 x 8."""
    return lambda path, stores, **options: prepare(
        "folder", path=path, image_size=8, stores=stores, progress=False, **options
    )
