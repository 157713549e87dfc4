import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semisup_core.data.images import decode
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import SOURCES, digits, folder, prepare
from semisup_core.errors import DataError

ROOT = Path(__file__).parents[3]


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


def prepare_folder(path, stores, **options):
    return prepare("folder", path=path, image_size=8, stores=stores, progress=False, **options)


class TestDigits:
    def test_rows(self):
        source = digits().source()
        assert len(source) == 1797 and source.image_shape == (32, 32, 3)
        assert source.class_names == tuple("0123456789")
        image = source.load(3)
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        assert (image == image[..., :1]).all() and image.max() > 240 and image.min() == 0

    def test_original_size_keeps_the_original_values(self):
        from sklearn.datasets import load_digits

        np.testing.assert_array_equal(digits(8).source().load(5)[..., 0], np.rint(load_digits().images[5] * 255 / 16))

    def test_test_rows_are_fixed_and_stratified(self):
        source = digits(8).source()
        test = source.origins == Origin.TEST
        assert test.sum() == 400 and (source.origins[~test] == Origin.TRAIN).all()
        share = np.bincount(source.labels[test]) / np.bincount(source.labels)
        assert abs(share - 400 / 1797).max() < 1 / 170
        # Results of different versions are comparable only while these rows stay the same.
        assert np.flatnonzero(test)[:8].tolist() == [11, 13, 19, 28, 31, 36, 38, 39]
        assert np.flatnonzero(test).sum() == 357251

    def test_has_no_path(self):
        with pytest.raises(DataError, match="takes no path"):
            digits(path="/data")


class TestFolder:
    def test_train_unlabelled_test(self, tmp_path):
        make_folder(tmp_path, train_cat=2, train_dog=3, test_dog=1, unlabelled=1, unlabelled_deep_er=2)
        source = folder(tmp_path, 8).source()
        assert source.class_names == ("cat", "dog")
        assert source.labels.tolist() == [0, 0, 1, 1, 1, -1, -1, -1, 1]
        assert source.origins.tolist() == [0] * 5 + [1] * 3 + [2]
        assert source.names[0] == "train/cat/0.png" and "unlabelled/deep/er/1.png" in source.names
        assert source.skipped["not_images"] == 0

    def test_one_folder_of_classes(self, tmp_path):
        source = folder(make_folder(tmp_path, b=1, a=2, a_nested=1), 8).source()
        assert source.class_names == ("a", "b") and source.labels.tolist() == [0, 0, 0, 1]
        assert (source.origins == Origin.TRAIN).all()
        assert source.load(3).shape == (8, 8, 3)

    def test_relative_path_survives_a_change_of_folder(self, tmp_path, monkeypatch):
        make_folder(tmp_path / "data", a=1, b=1)
        monkeypatch.chdir(tmp_path)
        source = folder("data", 8).source()
        monkeypatch.chdir("/")
        source.load(0)

    def test_what_is_skipped(self, tmp_path):
        make_folder(tmp_path / "data", train_cat=1, train_dog=1, val_cat=1)
        root = tmp_path / "data"
        for name in (
            "README.md",
            "train/labels.csv",
            "train/cat/notes.txt",
            "train/cat/.DS_Store",
            "train/cat/noext",
        ):
            (root / name).write_text("")
        (root / "train" / ".git").mkdir()
        os.mkfifo(root / "train" / "cat" / "pipe.jpg")
        save(picture(), root / "train" / "loose.png")
        outside = save(picture(), tmp_path / "outside" / "x.png")
        (root / "train" / "cat" / "link.png").symlink_to(outside)
        (root / "train" / "links").symlink_to(outside.parent)
        (root / "train" / "cat" / "loop").symlink_to(root / "train")
        (root / "train" / "cat" / "dangling.png").symlink_to(root / "nothing.png")
        (root / "train" / "dog" / "inside.png").symlink_to(root / "train" / "dog" / "0.png")
        source = folder(root, 8).source()
        assert source.names == ["train/cat/0.png", "train/dog/0.png", "train/dog/inside.png"]
        assert source.skipped == {
            "not_images": 6,
            "hidden": 2,
            "refused_links": 3,
            "images_without_class": 1,
            "other_folders": 1,
        }

    def test_odd_names(self, tmp_path):
        odd = ["größe", "日本", "with space", "new\nline"]
        for name in odd:
            save(picture(), tmp_path / "data" / name / f"{name}.PNG")
        (tmp_path / "data" / "größe" / os.fsdecode(b"latin-\xe9.png")).write_bytes(
            (tmp_path / "data" / "größe" / "größe.PNG").read_bytes()
        )
        store = prepare_folder(tmp_path / "data", tmp_path / "stores")
        assert set(store.class_names) == set(odd) and len(store) == 5
        assert (
            "größe/größe.PNG" in store.names() and os.fsdecode(b"gr\xc3\xb6\xc3\x9fe/latin-\xe9.png") in store.names()
        )

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ({}, "expected at least two class folders in .*/data, found none; make one"),
            ({"a": 2}, "at least two class folders in .*/data, found only 'a'; if .* inside .*/data/a, give that path"),
            ({"nested_train_a": 1, "nested_train_b": 1}, "found only 'nested'; if the classes lie inside"),
            ({"train_a": 1, "test_a": 1, "unlabelled": 2}, "at least two class folders in .*/train, found only 'a'"),
            ({"a": 0, "b": 0}, "no images in"),
            ({"a": 1, "b": 0}, "class folder .*/b has no images"),
            ({"train": 2}, "expected at least two class folders in .*/train, found none"),
            ({"train_a": 1, "train_c": 1, "test_b": 1}, "class 'b' is in .*test, not in .*train"),
            ({"test_a": 1, "a": 1}, r"has \['test'\] but no train folder"),
            ({"unlabelled": 1, "a": 1}, r"has \['unlabelled'\] but no train folder"),
        ],
    )
    def test_refused_layouts(self, tmp_path, classes, message):
        make_folder(tmp_path / "data", **classes).mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            prepare_folder(tmp_path / "data", tmp_path / "stores")
        assert not (tmp_path / "stores").exists()

    @pytest.mark.parametrize(
        ("path", "message"), [("none", "nothing; check"), ("file", "a file"), (None, "needs a path")]
    )
    def test_missing_folder(self, tmp_path, path, message):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=message):
            prepare_folder(path and tmp_path / path, tmp_path / "stores")

    def test_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        make_folder(tmp_path, a=1)

        def refuse(place):
            raise PermissionError(13, "Permission denied", str(place))

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match="cannot list .*: Permission denied"):
            folder(tmp_path, 8)

    def test_american_spelling(self, tmp_path):
        source = folder(make_folder(tmp_path, train_a=1, train_b=1, unlabeled=2), 8).source()
        assert source.labels.tolist() == [0, 1, -1, -1]


class TestPrepare:
    def test_writes_once_then_opens(self, tmp_path):
        make_folder(tmp_path / "data", a=2, b=1)
        first = prepare_folder(tmp_path / "data", tmp_path / "stores")
        stamp = (first.path / "manifest.json").stat().st_mtime_ns
        again = prepare_folder(tmp_path / "data", tmp_path / "stores")
        assert (again.path, (again.path / "manifest.json").stat().st_mtime_ns) == (first.path, stamp)
        assert first.path.name.startswith("folder-8-") and len(first.path.name) == len("folder-8-") + 12

    def test_digits_that_are_there_do_not_import_scikit_learn(self, tmp_path):
        call = f"prepare('digits', path=None, image_size=8, stores={str(tmp_path)!r}, progress=False)"
        code = f"import sys; from semisup_core.data.sources import prepare; {call}; print('sklearn' in sys.modules)"
        outputs = [
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout for _ in "12"
        ]
        assert outputs == ["True\n", "False\n"]

    def test_changed_files_make_another_store(self, tmp_path):
        root = make_folder(tmp_path / "data", a=2, b=1)
        keys = {folder(root, 8).key, folder(root, 9).key}
        os.utime(root / "a" / "0.png", (1, 1))
        keys.add(folder(root, 8).key)
        save(picture(), root / "a" / "new.png")
        keys.add(folder(root, 8).key)
        (root / "b").rename(root / "c")
        keys.add(folder(root, 8).key)
        assert len(keys) == 5

    def test_equal_names_sizes_and_times_elsewhere_are_another_store(self, tmp_path):
        stores = []
        for seed, name in enumerate(("one", "two")):
            for place in (tmp_path / name / "a", tmp_path / name / "b"):
                pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                os.utime(save(Image.fromarray(pixels), place / "0.bmp"), (0, 0))  # as a reproducible archive unpacks
            stores.append(prepare_folder(tmp_path / name, tmp_path / "stores"))
        assert stores[0].path != stores[1].path and stores[0].fingerprint != stores[1].fingerprint

    def test_the_same_folder_by_another_path_is_the_same_store(self, tmp_path):
        root = make_folder(tmp_path / "data", a=2, b=1)
        (tmp_path / "link").symlink_to(root)
        assert folder(tmp_path / "link", 8).key == folder(root / ".." / "data", 8).key == folder(root, 8).key

    def test_corrupt_files_within_the_quota(self, tmp_path):
        root = make_folder(tmp_path / "data", a=6, b=3)
        (root / "a" / "1.png").write_bytes(b"")
        store = prepare_folder(root, tmp_path / "stores", corrupt_quota=0.2)
        assert len(store) == 8 and store.manifest.corrupt == ("a/1.png",)
        assert store.names()[:2] == ["a/0.png", "a/2.png"]
        np.testing.assert_array_equal(store.read([1])[0], decode(root / "a" / "2.png", 8))
        with pytest.raises(DataError, match="1 of 9 images are corrupt, expected at most 0.01 of them: a/1.png"):
            prepare_folder(root, tmp_path / "stores")

    def test_corrupt_files_over_the_quota(self, tmp_path):
        root = make_folder(tmp_path / "data", a=6, b=3)
        (root / "a" / "1.png").write_bytes(b"text")
        with pytest.raises(DataError, match=r"1 of 9 .*a/1.png \(its content is no image of JPEG"):
            prepare_folder(root, tmp_path / "stores")
        assert os.listdir(tmp_path / "stores") == []

    def test_file_that_vanishes_counts_as_corrupt(self, tmp_path, monkeypatch):
        root = make_folder(tmp_path / "data", a=2, b=1)
        found = folder(root, 8)
        (root / "a" / "1.png").unlink()
        monkeypatch.setitem(SOURCES, "folder", lambda **_: found)
        assert prepare_folder(root, tmp_path / "stores", corrupt_quota=0.5).manifest.corrupt == ("a/1.png",)

    def test_same_images_elsewhere_have_the_same_fingerprint(self, tmp_path):
        prints = {
            prepare_folder(make_folder(tmp_path / name, a=2, b=1), tmp_path / "stores").fingerprint
            for name in ("one", "two")
        }
        assert len(prints) == 1

    @pytest.mark.parametrize(("name", "size"), [("digit", 8), ("digits", 0)])
    def test_bad_arguments(self, tmp_path, name, size):
        with pytest.raises(ValueError, match=r"expected one of \['digits', 'folder'\]"):
            prepare(name, path=None, image_size=size, stores=tmp_path)
