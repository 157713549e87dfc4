import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from semisup_core.data.manifest import FORMAT_VERSION, Shard
from semisup_core.data.store import open_store
from semisup_core.data.writer import write_store
from semisup_core.errors import DataError

ROOT = Path(__file__).parents[3]
SHAPE = (4, 5, 3)


def test_round_trip(tmp_path, make_source):
    source, pixels = make_source()
    store = write_store(tmp_path / "s", source, corrupt_quota=0, progress=False)
    assert len(store) == store.manifest.count == 150
    assert (store.image_shape, store.class_names) == (SHAPE, ("a", "b"))
    assert store.manifest.skipped == {"not_images": 2} and store.manifest.corrupt == ()
    np.testing.assert_array_equal(store.read(np.arange(150)), pixels)
    np.testing.assert_array_equal(store.read([149, 0, 0]), pixels[[149, 0, 0]])
    np.testing.assert_array_equal(store.labels, source.labels)
    np.testing.assert_array_equal(store.origins, source.origins)
    assert store.labels.dtype == np.int32 and store.origins.dtype == np.int8
    assert store.names() == source.names
    assert os.listdir(tmp_path) == ["s"]
    store.verify()


def test_read_returns_a_plain_copy(tmp_path, write):
    images = write(tmp_path / "s").read([0])
    assert type(images) is np.ndarray and images.dtype == np.uint8
    images[:] = 0


@pytest.mark.parametrize("rows", [[150], [-1], [0, 151], [0.5], [[0]], [True]])
def test_read_refuses_rows(tmp_path, rows, write):
    with pytest.raises(IndexError, match="rows"):
        write(tmp_path / "s").read(rows)


def test_read_of_no_rows(tmp_path, write):
    assert write(tmp_path / "s").read([]).shape == (0, *SHAPE)


def test_pickles_as_a_path(tmp_path, write):
    store = write(tmp_path / "s")
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed).read([7]), store.read([7]))


def test_several_shards(tmp_path, make_source):
    source, pixels = make_source()
    store = write_store(tmp_path / "s", source, corrupt_quota=0, progress=False)
    (first,) = store.manifest.shards
    raw, cut, shards = pixels.tobytes(), 60 * 60, []
    for name, part in (("p0", raw[:cut]), ("p1", raw[cut:])):
        (store.path / name).write_bytes(part)
        shards.append(Shard(name, len(part) // 60, len(part), hashlib.sha256(part).hexdigest()))
    manifest = dataclasses.replace(store.manifest, shards=tuple(shards))
    (store.path / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    (store.path / first.name).unlink()
    split = open_store(store.path)
    rows = np.random.default_rng(0).permutation(150)
    np.testing.assert_array_equal(split.read(rows), pixels[rows])
    split.verify()


def test_fingerprint_is_of_the_content(tmp_path, make_source, write):
    first = write(tmp_path / "one").fingerprint
    assert write(tmp_path / "two").fingerprint == first
    assert write(tmp_path / "three", seed=1).fingerprint != first
    relabelled = dataclasses.replace(make_source()[0], class_names=("a", "c"))
    assert write_store(tmp_path / "f", relabelled, corrupt_quota=0, progress=False).fingerprint != first


@pytest.mark.parametrize("name", ["pixels-00000.raw", "labels.i32", "origins.i8", "names.jsonl"])
def test_damaged_files(tmp_path, name, write):
    store = write(tmp_path / "s")
    file = store.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{name} should hash .* delete that folder"):
        open_store(store.path).verify()
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"expected {len(content)} bytes in {name}.* found {len(content) - 1}"):
        open_store(store.path)
    file.unlink()
    with pytest.raises(DataError, match=f"{name}.* found no file"):
        open_store(store.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, "expected format version 1, got 2"),
        ({"encoding": "jpeg"}, "expected encoding raw, got jpeg"),
        ({"count": 7}, "7 rows, of which the shards hold 150"),
        ({"image_shape": [4, 5]}, "expected the manifest.json"),
        ({"image_shape": [4, 5, 4]}, "expected 12000 bytes in pixels"),
        ({"unknown": 1}, "unexpected keyword"),
        ({"labels": {}}, "missing"),
    ],
)
def test_manifest_that_does_not_match(tmp_path, change, message, write):
    path = write(tmp_path / "s").path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        open_store(path.parent)


def test_changed_class_name_is_found_by_verify(tmp_path, write):
    path = write(tmp_path / "s").path / "manifest.json"
    path.write_text(path.read_text().replace('"b"', '"z"'))
    with pytest.raises(DataError, match="fingerprint"):
        open_store(path.parent).verify()


@pytest.mark.parametrize("content", [None, "", "[]", '{"count": 3}', "\x00"])
def test_no_manifest(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="expected the manifest.json of a store"):
        open_store(tmp_path)


def test_huge_store_opens_at_once(tmp_path, write):
    # 200 GB of pixels as holes in files: opening must not read them.
    rows, row_bytes = 10**6, 224 * 224 * 3
    store = write(tmp_path / "s")
    manifest = dataclasses.replace(
        store.manifest,
        count=rows,
        image_shape=(224, 224, 3),
        shards=(dataclasses.replace(store.manifest.shards[0], rows=rows, bytes=rows * row_bytes),),
        labels=dataclasses.replace(store.manifest.labels, rows=rows, bytes=rows * 4),
        origins=dataclasses.replace(store.manifest.origins, rows=rows, bytes=rows),
    )
    for file in manifest.files:
        os.truncate(store.path / file.name, file.bytes)
    (store.path / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    start = time.perf_counter()
    huge = open_store(store.path)
    assert huge.read([rows - 1]).shape == (1, 224, 224, 3)
    assert time.perf_counter() - start < 0.5


def test_import_is_light():
    heavy = "{'keras', 'tensorflow', 'sklearn', 'PIL', 'tqdm'}"
    code = f"import sys, semisup_core.data.store; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
