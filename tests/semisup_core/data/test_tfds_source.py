"""Data sets that tfds itself writes to the disk and that are read back by name."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from semisup_core.data.images import from_pixels
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import prepare
from semisup_core.data.tfds_source import tfds
from semisup_core.errors import DataError

ROOT = Path(__file__).parents[3]
NAMES = ["kea", "weka, große"]


def examples(count, seed, label):
    """Random colour pictures of 24 x 20, with a feature that nobody asks for."""
    random = np.random.default_rng(seed)
    return [
        {"image": random.integers(0, 256, (24, 20, 3), dtype=np.uint8), "label": label(row), "note": f"row {row}"}
        for row in range(count)
    ]


SPLITS = {
    "train": examples(12, 0, lambda row: row % 2),
    "unlabelled": examples(7, 1, lambda row: -1),
    "test": examples(4, 2, lambda row: row % 2),
}


def write(data_dir, name="birds", splits=None, image=None, label=None, file_format="tfrecord", **features):
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    image = image or tfds.features.Image(shape=(24, 20, 3), encoding_format="png")
    label = label or tfds.features.ClassLabel(names=NAMES)
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        config=None,
        version="1.0.0",
        data_dir=data_dir,
        split_datasets={split: list(enumerate(rows)) for split, rows in (splits or SPLITS).items()},
        features=tfds.features.FeaturesDict(
            {"image": image, "label": label, "note": tfds.features.Text(), **features},
        ),
        file_format=file_format,
        disable_shuffling=True,
    )
    return data_dir


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """The data_dir of a data set `birds` in TFRecord files; copy it before changing it."""
    return write(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def prepare_birds(tmp_path):
    """(data_dir, settings) -> the store of its birds, in the size they have."""

    def prepared(path, tfds_name="birds", train_split="train", image_size=20, **settings):
        settings = {"tfds_name": tfds_name, "train_split": train_split, "path": path, **settings}
        return prepare("tfds", image_size=image_size, stores=tmp_path / "stores", progress=False, **settings)

    return prepared


def test_reads_back_what_tfds_wrote(birds, prepare_birds):
    store = prepare_birds(birds, unlabelled_split="unlabelled", test_split="test")
    assert store.class_names == tuple(NAMES) and store.manifest.source == "tfds birds/1.0.0"
    assert store.labels.tolist() == [0, 1] * 6 + [-1] * 7 + [0, 1] * 2
    assert store.origins.tolist() == [Origin.TRAIN] * 12 + [Origin.UNLABELLED] * 7 + [Origin.TEST] * 4
    written = [row["image"] for split in ("train", "unlabelled", "test") for row in SPLITS[split]]
    np.testing.assert_array_equal(store.read(np.arange(23)), [from_pixels(image, 20) for image in written])
    assert store.names()[11:13] == ["train/11", "unlabelled/0"]


def test_reading_imports_no_tensorflow(birds, tmp_path):
    code = f"""
import sys
from semisup_core.data.sources import prepare
settings = dict(tfds_name="birds", train_split="train", test_split="test", path={str(birds)!r})
print(len(prepare("tfds", image_size=20, stores={str(tmp_path)!r}, progress=False, **settings)))
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("16\nFalse\n", "")


def test_slices_and_sums(birds, prepare_birds):
    settings = {"train_split": "train[:25%]+test", "unlabelled_split": "train[4:6]", "test_split": "train[50%:]"}
    store = prepare_birds(birds, **settings)
    assert store.labels.tolist() == [0, 1, 0] + [0, 1] * 2 + [-1] * 2 + [0, 1] * 3
    rows = [*SPLITS["train"][:3], *SPLITS["test"], *SPLITS["train"][4:6], *SPLITS["train"][6:]]
    np.testing.assert_array_equal(store.read(np.arange(15)), [from_pixels(row["image"], 20) for row in rows])
    assert store.names()[0] == "train[:25%]+test/0"


def test_a_label_of_minus_one_in_training_is_an_unlabelled_image(birds, prepare_birds):
    store = prepare_birds(birds, train_split="train+unlabelled")
    assert store.origins.tolist() == [Origin.TRAIN] * 12 + [Origin.UNLABELLED] * 7


def test_gray_images_and_labels_without_names(tmp_path, prepare_birds):
    import tensorflow_datasets as tfds

    rows = [{"image": row["image"][..., :1], "label": 5 + row["label"], "note": ""} for row in SPLITS["train"]]
    gray = tfds.features.Image(shape=(None, None, 1))
    write(tmp_path, splits={"train": rows}, image=gray, label=tfds.features.Scalar(np.int64))
    store = prepare_birds(tmp_path)
    assert store.class_names == ("5", "6") and store.labels.tolist() == [0, 1] * 6
    np.testing.assert_array_equal(store.read([3])[0], from_pixels(rows[3]["image"], 20))


def test_array_records_hold_the_same(birds, tmp_path, prepare_birds):
    write(tmp_path, file_format="array_record")
    settings = {"train_split": "train[2:]", "unlabelled_split": "unlabelled", "test_split": "test"}
    assert prepare_birds(tmp_path, **settings).fingerprint == prepare_birds(birds, **settings).fingerprint


def test_key_follows_files_and_splits(birds, tmp_path):
    copy = shutil.copytree(birds, tmp_path / "copy")

    def key(size=20, path=copy, train_split="train", **settings):
        return tfds("birds", train_split, size, path=path, **settings).key

    first = key()
    others = {
        key(21),
        key(path=birds),
        key(test_split="test"),
        key(unlabelled_split="test"),
        key(train_split="train[:4]"),
    }
    (labels,) = Path(copy).rglob("label.labels.txt")
    labels.write_text("kea\nkaka\n")
    assert key() == key() and len({first, key(), *others}) == 7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tfds_name": "brids"}, ["got 'brids'", "did you mean birds?"]),
        ({"tfds_name": "fashion_mnst"}, ["did you mean fashion_mnist?"]),
        ({"tfds_name": "a b"}, ["cannot open 'a b'"]),
        ({"tfds_name": "birds:2.0.0"}, ["birds"]),
        ({"train_split": "training"}, ["dataset.train_split", "'training'", "expected train, unlabelled, test"]),
        ({"test_split": "train["}, ["dataset.test_split", "'train['"]),
        ({"unlabelled_split": "test[:0]"}, ["dataset.unlabelled_split", "no images"]),
        ({"test_split": "train[10:]"}, ["train and train[10:] share images", "label_fraction"]),
        ({"unlabelled_split": "train[:10%]+unlabelled"}, ["share images"]),
        ({"test_split": "unlabelled"}, ["none of the 7 test images", "has a label"]),
        ({"path": "gs://bucket/data"}, ["folder of this machine"]),
    ],
)
def test_what_is_refused(birds, tmp_path, prepare_birds, settings, words):
    with pytest.raises(DataError) as caught:
        prepare_birds(**{"path": birds, **settings})
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "stores").exists()


def test_features_that_are_no_image_and_label(tmp_path, prepare_birds):
    import tensorflow_datasets as tfds

    rows = [{**row, "label": "text"} for row in SPLITS["test"]]
    write(tmp_path, splits={"train": rows}, label=tfds.features.Text())
    with pytest.raises(DataError, match=r"its features are image \(Image\), label \(Text\), note"):
        prepare_birds(tmp_path)


@pytest.mark.parametrize("part", ["train", "unlabelled"])
def test_a_file_that_was_cut_off(birds, tmp_path, prepare_birds, part):
    copy = shutil.copytree(birds, tmp_path / "copy")
    (file,) = Path(copy).rglob(f"*{part}.tfrecord*")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"birds/1.0.0 in .* are damaged or incomplete \(.*ends within a record"):
        prepare_birds(copy, unlabelled_split="unlabelled")
    stores = tmp_path / "stores"
    assert not stores.exists() or list(stores.iterdir()) == []
