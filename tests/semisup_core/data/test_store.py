import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semisup_core.data import store as store_module
from semisup_core.data.sources import Source
from semisup_core.data.store import FORMAT_VERSION, Manifest, Origin, Shard, open_store, write_store
from semisup_core.errors import CorruptImage, DataError

ROOT = Path(__file__).parents[3]
SHAPE = (4, 5, 3)


def make_source(count=150, corrupt=(), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)

    def load(row):
        if row in corrupt:
            raise CorruptImage(f"image-{row} (damaged)")
        return pixels[row]

    return Source(
        name="made",
        key="k",
        class_names=("a", "b"),
        labels=np.arange(count, dtype=np.int32) % 3 - 1,
        origins=np.full(count, Origin.TRAIN, np.int8),
        names=[f"image-{row}\n\udcff é" for row in range(count)],
        image_shape=SHAPE,
        load=load,
        skipped={"not_images": 2},
    ), pixels


def write(path, *args, quota=0.0, **kwargs):
    return write_store(path, make_source(*args, **kwargs)[0], corrupt_quota=quota, progress=False)


def test_round_trip(tmp_path):
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


def test_read_returns_a_plain_copy(tmp_path):
    images = write(tmp_path / "s").read([0])
    assert type(images) is np.ndarray and images.dtype == np.uint8
    images[:] = 0


@pytest.mark.parametrize("rows", [[150], [-1], [0, 151], [0.5], [[0]], [True]])
def test_read_refuses_rows(tmp_path, rows):
    with pytest.raises(IndexError, match="rows"):
        write(tmp_path / "s").read(rows)


def test_read_of_no_rows(tmp_path):
    assert write(tmp_path / "s").read([]).shape == (0, *SHAPE)


def test_pickles_as_a_path(tmp_path):
    store = write(tmp_path / "s")
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed).read([7]), store.read([7]))


def test_several_shards(tmp_path):
    source, pixels = make_source()
    store = write_store(tmp_path / "s", source, corrupt_quota=0, progress=False)
    (first,) = store.manifest.shards
    raw, cut, shards = pixels.tobytes(), 60 * 60, []
    for name, part in (("p0", raw[:cut]), ("p1", raw[cut:])):
        (store.path / name).write_bytes(part)
        shards.append(Shard(name, len(part) // 60, len(part), store_module.hashlib.sha256(part).hexdigest()))
    manifest = dataclasses.replace(store.manifest, shards=tuple(shards))
    (store.path / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    (store.path / first.name).unlink()
    split = open_store(store.path)
    rows = np.random.default_rng(0).permutation(150)
    np.testing.assert_array_equal(split.read(rows), pixels[rows])
    split.verify()


def test_fingerprint_is_of_the_content(tmp_path):
    first = write(tmp_path / "one").fingerprint
    assert write(tmp_path / "two").fingerprint == first
    assert write(tmp_path / "three", seed=1).fingerprint != first
    relabelled = dataclasses.replace(make_source()[0], class_names=("a", "c"))
    assert write_store(tmp_path / "f", relabelled, corrupt_quota=0, progress=False).fingerprint != first


def test_corrupt_rows_are_left_out(tmp_path):
    source, pixels = make_source(corrupt=(0, 70, 149))
    store = write_store(tmp_path / "s", source, corrupt_quota=0.02, progress=False)
    kept = np.setdiff1d(np.arange(150), [0, 70, 149])
    np.testing.assert_array_equal(store.read(np.arange(147)), pixels[kept])
    np.testing.assert_array_equal(store.labels, source.labels[kept])
    assert store.names() == [source.names[row] for row in kept]
    assert store.manifest.corrupt == tuple(source.names[row] for row in (0, 70, 149))


def test_too_many_corrupt_rows(tmp_path):
    with pytest.raises(
        DataError, match=r"20 of 150 .* at most 0.1 .*image-0 .damaged.*image-9 .*; \.\.\.\."
    ) as info:
        write(tmp_path / "stores" / "s", corrupt=range(20), quota=0.1)
    assert "image-10 " not in str(info.value)
    assert os.listdir(tmp_path / "stores") == []


def test_nothing_to_store(tmp_path):
    with pytest.raises(DataError, match="no image that can be decoded"):
        write(tmp_path / "stores" / "s", corrupt=range(150), quota=1)
    assert os.listdir(tmp_path / "stores") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_any_failure_leaves_nothing(tmp_path, error):
    def load(row):
        raise error("stop")

    source = dataclasses.replace(make_source()[0], load=load)
    with pytest.raises(error):
        write_store(tmp_path / "stores" / "s", source, corrupt_quota=1, progress=False)
    assert os.listdir(tmp_path / "stores") == []


def test_disk_known_to_be_too_small(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"not enough space.* needs 1\d,\d{3} bytes, .* 5,000 free"):
        write(tmp_path / "stores" / "s")
    assert os.listdir(tmp_path / "stores") == []


@pytest.fixture
def pictures(tmp_path):
    for row in range(90):
        place = tmp_path / "data" / f"class-{row % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (row, 0, 0)).save(place / f"{row}.png")
    return tmp_path / "data"


def test_disk_that_fills_while_writing(tmp_path, pictures):
    # A limit on the size of files makes write() itself fail, as on a full disk.
    code = f"""
import resource
from semisup_core.data.sources import prepare
from semisup_core.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    stores = {str(tmp_path / "stores")!r}
    prepare("folder", path={str(pictures)!r}, image_size=64, stores=stores, progress=False)
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot write the store" in done.stdout and "free; make room" in done.stdout
    assert os.listdir(tmp_path / "stores") == []


def test_place_that_cannot_hold_a_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the store"):
        write(tmp_path / "file" / "s")


def test_two_processes_at_once(tmp_path, pictures):
    # Neither passes its first row before both have a temporary folder, so both really write.
    code = f"""
import dataclasses, pathlib, time
from semisup_core.data.sources import folder
from semisup_core.data.store import write_store
stores, source = pathlib.Path({str(tmp_path / "stores")!r}), folder({str(pictures)!r}, 8)
def load(row):
    while row == 0 and len(list(stores.iterdir())) < 2:
        time.sleep(0.005)
    return source.load(row)
store = write_store(stores / "s", dataclasses.replace(source, load=load), corrupt_quota=0, progress=False)
store.verify()
print(store.fingerprint)
"""
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(answers)) == 1 and len(answers[0]) == 65
    assert os.listdir(tmp_path / "stores") == ["s"]


def test_loser_of_a_race_opens_the_winner(tmp_path):
    source, _ = make_source()

    def load(row):
        write(tmp_path / "s", seed=1)
        return source.load(row)

    store = write_store(
        tmp_path / "s", dataclasses.replace(source, load=load), corrupt_quota=0, progress=False
    )
    assert store.fingerprint == write(tmp_path / "other", seed=1).fingerprint
    assert sorted(os.listdir(tmp_path)) == ["other", "s"]


def test_remains_of_a_killed_process(tmp_path):
    old, fresh = (tmp_path / f".{name}{store_module.TEMPORARY_SUFFIX}" for name in ("old", "fresh"))
    old.mkdir()
    fresh.mkdir()
    past = time.time() - store_module.ABANDONED_SECONDS - 60
    os.utime(old, (past, past))
    write(tmp_path / "s")
    assert not old.exists() and fresh.exists()


def test_rows_in_flight_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    source, _ = make_source(5000)
    loaded, while_waiting = [], []

    def load(row):
        loaded.append(row)
        if row == 0:
            time.sleep(0.2)
            while_waiting.append(max(loaded))
        return source.load(row)

    write_store(tmp_path / "s", dataclasses.replace(source, load=load), corrupt_quota=0, progress=False)
    assert 64 <= while_waiting[0] < 5 * 64


def test_existing_store_is_opened_not_rewritten(tmp_path):
    first = write(tmp_path / "s")
    assert write(tmp_path / "s", seed=1).fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["pixels-00000.raw", "labels.i32", "origins.i8", "names.jsonl"])
def test_damaged_files(tmp_path, name):
    store = write(tmp_path / "s")
    file = store.path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"{name} should hash .* delete that folder"):
        open_store(store.path).verify()
    file.write_bytes(content[:-1])
    with pytest.raises(
        DataError, match=f"expected {len(content)} bytes in {name}.* found {len(content) - 1}"
    ):
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
def test_manifest_that_does_not_match(tmp_path, change, message):
    path = write(tmp_path / "s").path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        open_store(path.parent)


def test_changed_class_name_is_found_by_verify(tmp_path):
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


def test_manifest_survives_json(tmp_path):
    manifest = write(tmp_path / "s").manifest
    assert Manifest.from_json(json.loads(json.dumps(dataclasses.asdict(manifest)))) == manifest


def test_huge_store_opens_at_once(tmp_path):
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


def test_bar_goes_to_stderr(tmp_path, capsys):
    write_store(tmp_path / "s", make_source()[0], corrupt_quota=0, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "preparing made: 100%" in captured.err and "150/150" in captured.err
