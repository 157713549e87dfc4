import os

import numpy as np
import pytest

from semisup_core.data.csv_source import csv_file
from semisup_core.data.images import decode
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import prepare
from semisup_core.errors import DataError


@pytest.fixture
def write(tmp_path, picture, save):
    """(lines) -> a CSV file beside the images 0.png .. 7.png of a folder `images`."""
    for index in range(8):
        save(picture(seed=index), tmp_path / "images" / f"{index}.png")

    def written(*lines, encoding="utf-8"):
        file = tmp_path / "list.csv"
        file.write_bytes("\r\n".join(lines).encode(encoding))
        return file

    return written


def test_splits_labels_and_paths(tmp_path, write, save, picture):
    elsewhere = save(picture(seed=9), tmp_path / "elsewhere" / "x.dat", format="PNG")
    file = write(
        "path,label,split,width",
        "images/0.png,weka,,30",
        "images/1.png, kea ,train,30",
        "images/2.png,,,30",
        "images/3.png,kiwi,unlabelled,30",
        "",
        f"{elsewhere},kea,TEST,30",
    )
    source = csv_file(file, 8).source()
    assert source.class_names == ("kea", "weka")
    assert source.labels.tolist() == [1, 0, -1, -1, 0]
    assert source.origins.tolist() == [Origin.TRAIN, Origin.TRAIN, Origin.UNLABELLED, Origin.UNLABELLED, Origin.TEST]
    store = prepare("csv", path=file, image_size=8, stores=tmp_path / "stores", progress=False)
    assert store.names() == [*(f"images/{row}.png" for row in range(4)), str(elsewhere)]
    np.testing.assert_array_equal(store.read([1])[0], decode(tmp_path / "images" / "1.png", 8))
    np.testing.assert_array_equal(store.read([4])[0], decode(elsewhere, 8))


def test_without_splits_everything_is_for_training(write):
    lines = ["a,images/0.png", "b,images/1.png", ",images/2.png", "-1,images/3.png"]
    source = csv_file(write("label,path", *lines), 8).source()
    assert source.origins.tolist() == [Origin.TRAIN, Origin.TRAIN, Origin.UNLABELLED, Origin.UNLABELLED]
    assert source.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "classes"), [(("10", "9", "-2"), ("-2", "9", "10")), (("10", "9", "b"), ("10", "9", "b"))]
)
def test_order_of_classes(write, labels, classes):
    lines = [f"images/{row}.png,{label}" for row, label in enumerate(labels)]
    assert csv_file(write("path,label", *lines), 8).source().class_names == classes


def test_odd_names_come_back_from_the_store(tmp_path, write, save, picture):
    save(picture(), tmp_path / "images" / "a, b.png")
    file = write(
        "path,label", '"images/a, b.png","red, ""shiny"""', 'images/0.png,"two\nlines"', "images/1.png,größe\u2028日本"
    )
    store = prepare("csv", path=file, image_size=8, stores=tmp_path / "stores", progress=False)
    assert set(store.class_names) == {'red, "shiny"', "two\nlines", "größe\u2028日本"}
    assert [store.class_names[label] for label in store.labels] == ['red, "shiny"', "two\nlines", "größe\u2028日本"]
    assert store.names()[0] == "images/a, b.png"


def test_a_spreadsheet_writes_a_byte_order_mark(write):
    file = write("Path,Label", "images/0.png,a", "images/1.png,b", encoding="utf-8-sig")
    assert csv_file(file, 8).source().class_names == ("a", "b")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["header with path,label"]),
        (["path,label"], ["names no image"]),
        (["path;label", "images/0.png;a"], ["header with path,label", "got path;label"]),
        (["path,labels", "images/0.png,a"], ["header with path,label", "got path,labels"]),
        (["path,label,splits", "images/0.png,a,test"], ["called splits", "did you mean split?"]),
        (["path,label", "images/0.png,a", "images/1.png,b,c"], ["line 3", "2 fields", "got 3", "double quotes"]),
        (["path,label,split", "images/0.png,a,valid"], ["line 2 (valid)", "train, test, unlabelled"]),
        (["path,label", "images/0.png,a", "images/./0.png,b"], ["line 3 (images/./0.png)", "again"]),
        (["path,label", "images/0.png,a", "images/nine.png,b"], ["line 3 (images/nine.png)", "not there"]),
        (["path,label", "images/0.png,a", "images,b"], ["line 3 (images)", "not there"]),
        (["path,label", "images/0.png,a", ",b"], ["line 3", "without a path"]),
        (["path,label,split", "images/0.png,a,", "images/1.png,,test"], ["line 3 (images/1.png)", "without a label"]),
        (["path,label,split", "images/0.png,a,", "images/1.png,b,test"], ["line 3 (b)", "no training image has"]),
        (["path,label", "images/0.png,a"], ["at least two classes in csv, found ['a']"]),
        (["path,label", 'images/0.png,"a'], ["cannot read", "unexpected end of data"]),
        (["path,label", *(f"none/{row},a" for row in range(7))], ["7 of its lines", "line 6 (none/4) and 2 more"]),
    ],
)
def test_what_is_refused(write, tmp_path, lines, words):
    with pytest.raises(DataError) as caught:
        prepare("csv", path=write(*lines), image_size=8, stores=tmp_path / "stores", progress=False)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "stores").exists()


def test_a_file_that_cannot_be_read(write, tmp_path):
    for place in (tmp_path / "nothing.csv", tmp_path, write("path,label", "images/0.png,größe", encoding="latin-1")):
        with pytest.raises(DataError, match="cannot read .* as a CSV file"):
            csv_file(place, 8)


def test_key_follows_the_file_and_its_images(write, tmp_path):
    file = write("path,label", "images/0.png,a", "images/1.png,b")
    first = csv_file(file, 8).key
    assert csv_file(file, 8).key == first != csv_file(file, 9).key
    os.utime(tmp_path / "images" / "2.png", (1, 1))
    assert csv_file(file, 8).key == first  # not in the file
    os.utime(tmp_path / "images" / "1.png", (1, 1))
    second = csv_file(file, 8).key
    assert len({first, second, csv_file(write("path,label", "images/0.png,b", "images/1.png,a"), 8).key}) == 3
