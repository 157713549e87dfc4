import os

import pytest

from semisup_core.data.folder_source import folder
from semisup_core.data.manifest import Origin
from semisup_core.errors import DataError


class TestFolder:
    def test_train_unlabelled_test(self, tmp_path, make_folder):
        make_folder(tmp_path, train_cat=2, train_dog=3, test_dog=1, unlabelled=1, unlabelled_deep_er=2)
        source = folder(tmp_path, 8).source()
        assert source.class_names == ("cat", "dog")
        assert source.labels.tolist() == [0, 0, 1, 1, 1, -1, -1, -1, 1]
        assert source.origins.tolist() == [0] * 5 + [1] * 3 + [2]
        assert source.names[0] == "train/cat/0.png" and "unlabelled/deep/er/1.png" in source.names
        assert source.skipped["not_images"] == 0

    def test_one_folder_of_classes(self, tmp_path, make_folder):
        source = folder(make_folder(tmp_path, b=1, a=2, a_nested=1), 8).source()
        assert source.class_names == ("a", "b") and source.labels.tolist() == [0, 0, 0, 1]
        assert (source.origins == Origin.TRAIN).all()
        assert source.load(source.names[3]).shape == (8, 8, 3)

    def test_relative_path_survives_a_change_of_folder(self, tmp_path, monkeypatch, make_folder):
        make_folder(tmp_path / "data", a=1, b=1)
        monkeypatch.chdir(tmp_path)
        source = folder("data", 8).source()
        monkeypatch.chdir("/")
        assert source.load(source.names[0]).shape == (8, 8, 3)

    def test_what_is_skipped(self, tmp_path, picture, save, make_folder):
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

    def test_odd_names(self, tmp_path, picture, save, prepare_folder):
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
    def test_refused_layouts(self, tmp_path, classes, message, make_folder, prepare_folder):
        make_folder(tmp_path / "data", **classes).mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            prepare_folder(tmp_path / "data", tmp_path / "stores")
        assert not (tmp_path / "stores").exists()

    @pytest.mark.parametrize(("path", "message"), [("none", "nothing; check"), ("file", "a file")])
    def test_missing_folder(self, tmp_path, path, message, prepare_folder):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=message):
            prepare_folder(tmp_path / path, tmp_path / "stores")

    def test_folder_that_cannot_be_listed(self, tmp_path, monkeypatch, make_folder):
        make_folder(tmp_path, a=1)

        def refuse(place):
            raise PermissionError(13, "Permission denied", str(place))

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match="cannot list .*: Permission denied"):
            folder(tmp_path, 8)

    def test_american_spelling(self, tmp_path, make_folder):
        source = folder(make_folder(tmp_path, train_a=1, train_b=1, unlabeled=2), 8).source()
        assert source.labels.tolist() == [0, 1, -1, -1]
