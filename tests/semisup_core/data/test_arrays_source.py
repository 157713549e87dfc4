import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from semisup_core.data.arrays_source import array_source, arrays
from semisup_core.data.images import from_pixels
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import prepare
from semisup_core.data.writer import write_store
from semisup_core.errors import DataError

ROOT = Path(__file__).parents[3]
LABELS = np.array([3, 1, -1, 3, 1, 1])
SPLITS = np.array(["train", "train", "train", "unlabelled", "test", "train"])


def images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(6, 12, 9, 3), (6, 12, 9), (6, 12, 9, 1)])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_reads_back(tmp_path, shape, save):
    given = images(*shape)
    save(tmp_path / "a.npz", images=given, labels=LABELS, splits=SPLITS, more=np.zeros(3))
    store = prepare("arrays", path=tmp_path / "a.npz", image_size=8, stores=tmp_path / "stores", progress=False)
    assert store.class_names == ("1", "3")
    assert store.labels.tolist() == [1, 0, -1, -1, 0, 0]
    train, test, unlabelled = Origin.TRAIN, Origin.TEST, Origin.UNLABELLED
    assert store.origins.tolist() == [train, train, unlabelled, unlabelled, test, train]
    np.testing.assert_array_equal(store.read(np.arange(6)), [from_pixels(image, 8) for image in given])
    assert store.names()[4] == "images[4]"


def test_memory_and_file_make_the_same_store(tmp_path):
    given = {"images": images(6, 8, 8, 3), "labels": LABELS, "class_names": ["a", "b, c", "ü", "\n"], "splits": SPLITS}
    np.savez(tmp_path / "a.npz", **given)
    read = prepare("arrays", path=tmp_path / "a.npz", image_size=8, stores=tmp_path / "stores", progress=False)
    made = write_store(tmp_path / "made", array_source(image_size=8, **given), corrupt_quota=0, progress=False)
    assert made.fingerprint == read.fingerprint and made.class_names == ("a", "b, c", "ü", "\n")
    np.testing.assert_array_equal(made.read([0, 5]), given["images"][[0, 5]])


def test_without_splits_everything_is_for_training():
    source = array_source(images(6, 8, 8), LABELS, 8)
    assert source.origins.tolist() == [0, 0, Origin.UNLABELLED, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((6, 8, 8), np.float32)}, ["uint8", "got float32", "255 * images"]),
        ({"images": images(6, 3, 8, 8)}, ["(6, 3, 8, 8)", "channels last"]),
        ({"images": images(0, 8, 8, 3), "labels": LABELS[:0]}, ["one or more"]),
        ({"labels": LABELS[:5]}, ["labels: expected 6 integers", "(5,)"]),
        ({"labels": LABELS.astype(float)}, ["labels: expected 6 integers", "float64"]),
        ({"labels": LABELS - 1}, ["labels: expected -1", "got -2"]),
        ({"splits": SPLITS[:2]}, ["splits: expected 6 texts"]),
        ({"splits": np.where(SPLITS == "test", "valid", SPLITS)}, ["train, test, unlabelled", "got 'valid'"]),
        ({"splits": np.full(6, "test")}, ["1 images for test without a label", "images[2]"]),
        ({"class_names": ["a", "b", "c"]}, ["label from 0 to 3", "got 3 names"]),
        ({"class_names": ["a", "b", "a", "c"]}, ["got 4 names, 3 of them different"]),
        ({"splits": np.full(6, "unlabelled")}, ["at least two classes in arrays"]),
        ({"labels": None}, ["has no array labels"]),
        ({"images": None}, ["images.npy"]),
        ({"images": np.asfortranarray(images(6, 8, 8))}, ["ascontiguousarray"]),
        ({"labels": np.array([{}] * 6)}, ["allow_pickle"]),
    ],
)
def test_what_is_refused(tmp_path, change, words):
    given = {"images": images(6, 8, 8, 3), "labels": LABELS, "splits": SPLITS} | change
    np.savez(tmp_path / "a.npz", **{name: value for name, value in given.items() if value is not None})
    with pytest.raises(DataError) as caught:
        prepare("arrays", path=tmp_path / "a.npz", image_size=8, stores=tmp_path / "stores", progress=False)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "stores").exists()


def test_no_npz_file(tmp_path):
    np.save(tmp_path / "a.npy", images(6, 8, 8))
    for name in ("nothing.npz", "a.npy", "."):
        with pytest.raises(DataError, match=r"expected an \.npz file with the arrays images and labels at"):
            arrays(tmp_path / name, 8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_leaves_nothing(tmp_path, save):
    save(tmp_path / "a.npz", images=images(50, 40, 40, 3), labels=np.arange(50) % 2)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        place = archive.getinfo("images.npy").header_offset + 100_000
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[place : place + 8] = bytes(byte ^ 255 for byte in content[place : place + 8])
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        prepare("arrays", path=tmp_path / "a.npz", image_size=8, stores=tmp_path / "stores", progress=False)
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_large_file_is_read_piece_by_piece(tmp_path):
    count, side = 300, 600
    np.savez(tmp_path / "a.npz", images=np.zeros((count, side, side, 3), np.uint8), labels=np.arange(count) % 2)
    code = f"""
import resource
from semisup_core.data.sources import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare("arrays", path={str(tmp_path / "a.npz")!r}, image_size=128, stores={str(tmp_path / "stores")!r}, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # what a unit of ru_maxrss is
    assert int(done.stdout) * unit < count * side * side * 3 / 2
