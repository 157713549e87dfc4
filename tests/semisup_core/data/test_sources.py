import dataclasses
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semisup_core.data import SOURCE_SETTINGS, SOURCES
from semisup_core.data.folder_source import folder
from semisup_core.data.images import decode
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import number_classes, prepare
from semisup_core.errors import DataError

ROOT = Path(__file__).parents[3]


def test_entries_name_functions_that_take_their_settings():
    for name, entry in SOURCES.items():
        module, function = entry.function.split(":")
        parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
        assert set(parameters) == {*entry.settings, "image_size"}, name
        needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
        assert needed - {"image_size"} == set(entry.needs), name
    assert len(SOURCE_SETTINGS) == len(set(SOURCE_SETTINGS)) == 5


def test_settings_of_another_source(tmp_path):
    with pytest.raises(TypeError, match="path"):
        prepare("digits", path=tmp_path, image_size=8, stores=tmp_path)


def test_classes_without_names_are_their_numbers():
    names, labels = number_classes(np.array([10, -1, 2, 10, 7]))
    assert names == ("2", "7", "10") and labels.tolist() == [2, -1, 0, 2, 1] and labels.dtype == np.int32


def test_what_no_source_may_hand_over(make_source):
    source, _ = make_source(6)
    with pytest.raises(DataError, match=r"at least two classes in made, found \['a'\]"):
        dataclasses.replace(source, class_names=("a",))
    origins = np.where(source.labels < 0, Origin.TEST, Origin.TRAIN).astype(np.int8)
    with pytest.raises(DataError, match="none of the 2 test images of made has a label"):
        dataclasses.replace(source, origins=origins)
    dataclasses.replace(source, origins=np.full(6, Origin.TEST, np.int8))


class TestPrepare:
    def test_writes_once_then_opens(self, tmp_path, make_folder, prepare_folder):
        make_folder(tmp_path / "data", a=2, b=1)
        first = prepare_folder(tmp_path / "data", tmp_path / "stores")
        stamp = (first.path / "manifest.json").stat().st_mtime_ns
        again = prepare_folder(tmp_path / "data", tmp_path / "stores")
        assert (again.path, (again.path / "manifest.json").stat().st_mtime_ns) == (first.path, stamp)
        assert first.path.name.startswith("folder-8-") and len(first.path.name) == len("folder-8-") + 12

    def test_digits_that_are_there_do_not_import_scikit_learn(self, tmp_path):
        call = f"prepare('digits', image_size=8, stores={str(tmp_path)!r}, progress=False)"
        code = f"import sys; from semisup_core.data.sources import prepare; {call}; print('sklearn' in sys.modules)"
        outputs = [
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout for _ in "12"
        ]
        assert outputs == ["True\n", "False\n"]

    def test_changed_files_make_another_store(self, tmp_path, picture, save, make_folder):
        root = make_folder(tmp_path / "data", a=2, b=1)
        keys = {folder(root, 8).key, folder(root, 9).key}
        os.utime(root / "a" / "0.png", (1, 1))
        keys.add(folder(root, 8).key)
        save(picture(), root / "a" / "new.png")
        keys.add(folder(root, 8).key)
        (root / "b").rename(root / "c")
        keys.add(folder(root, 8).key)
        assert len(keys) == 5

    def test_equal_names_sizes_and_times_elsewhere_are_another_store(self, tmp_path, save, prepare_folder):
        stores = []
        for seed, name in enumerate(("one", "two")):
            for place in (tmp_path / name / "a", tmp_path / name / "b"):
                pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                os.utime(save(Image.fromarray(pixels), place / "0.bmp"), (0, 0))  # as a reproducible archive unpacks
            stores.append(prepare_folder(tmp_path / name, tmp_path / "stores"))
        assert stores[0].path != stores[1].path and stores[0].fingerprint != stores[1].fingerprint

    def test_the_same_folder_by_another_path_is_the_same_store(self, tmp_path, make_folder):
        root = make_folder(tmp_path / "data", a=2, b=1)
        (tmp_path / "link").symlink_to(root)
        assert folder(tmp_path / "link", 8).key == folder(root / ".." / "data", 8).key == folder(root, 8).key

    def test_corrupt_files_within_the_quota(self, tmp_path, make_folder, prepare_folder):
        root = make_folder(tmp_path / "data", a=6, b=3)
        (root / "a" / "1.png").write_bytes(b"")
        store = prepare_folder(root, tmp_path / "stores", corrupt_quota=0.2)
        assert len(store) == 8 and store.manifest.corrupt == ("a/1.png",)
        assert store.names()[:2] == ["a/0.png", "a/2.png"]
        np.testing.assert_array_equal(store.read([1])[0], decode(root / "a" / "2.png", 8))
        with pytest.raises(DataError, match="1 of 9 images are corrupt, expected at most 0.01 of them: a/1.png"):
            prepare_folder(root, tmp_path / "stores")

    def test_corrupt_files_over_the_quota(self, tmp_path, make_folder, prepare_folder):
        root = make_folder(tmp_path / "data", a=6, b=3)
        (root / "a" / "1.png").write_bytes(b"text")
        with pytest.raises(DataError, match=r"1 of 9 .*a/1.png \(its content is no image of JPEG"):
            prepare_folder(root, tmp_path / "stores")
        assert os.listdir(tmp_path / "stores") == []

    def test_file_that_vanishes_counts_as_corrupt(self, tmp_path, monkeypatch, make_folder, prepare_folder):
        root = make_folder(tmp_path / "data", a=2, b=1)
        found = folder(root, 8)
        (root / "a" / "1.png").unlink()
        monkeypatch.setattr("semisup_core.data.folder_source.folder", lambda **_: found)
        assert prepare_folder(root, tmp_path / "stores", corrupt_quota=0.5).manifest.corrupt == ("a/1.png",)

    def test_same_images_elsewhere_have_the_same_fingerprint(self, tmp_path, make_folder, prepare_folder):
        prints = {
            prepare_folder(make_folder(tmp_path / name, a=2, b=1), tmp_path / "stores").fingerprint
            for name in ("one", "two")
        }
        assert len(prints) == 1

    @pytest.mark.parametrize(("name", "size"), [("digit", 8), ("digits", 0)])
    def test_bad_arguments(self, tmp_path, name, size):
        with pytest.raises(ValueError, match=r"expected one of \['arrays', 'csv', 'digits', 'folder', "):
            prepare(name, image_size=size, stores=tmp_path)
