import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semisup_core.data import writer
from semisup_core.data.writer import write_store
from semisup_core.errors import DataError, StorageError

ROOT = Path(__file__).parents[3]


def test_corrupt_rows_are_left_out(tmp_path, make_source):
    source, pixels = make_source(corrupt=(0, 70, 149))
    store = write_store(tmp_path / "s", source, corrupt_quota=0.02, progress=False)
    kept = np.setdiff1d(np.arange(150), [0, 70, 149])
    np.testing.assert_array_equal(store.read(np.arange(147)), pixels[kept])
    np.testing.assert_array_equal(store.labels, source.labels[kept])
    assert store.names() == [source.names[row] for row in kept]
    assert store.manifest.corrupt == tuple(source.names[row] for row in (0, 70, 149))


def test_too_many_corrupt_rows(tmp_path, write):
    with pytest.raises(
        DataError, match=r"(?s)20 of 150 .* at most 0.1 .*image-0.*damaged.*image-9.*; \.\.\.\."
    ) as info:
        write(tmp_path / "stores" / "s", corrupt=range(20), quota=0.1)
    assert "image-10 " not in str(info.value)
    assert os.listdir(tmp_path / "stores") == []


def test_nothing_to_store(tmp_path, write):
    with pytest.raises(DataError, match="no image that can be decoded"):
        write(tmp_path / "stores" / "s", corrupt=range(150), quota=1)
    assert os.listdir(tmp_path / "stores") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_any_failure_leaves_nothing(tmp_path, error, make_source):
    def load(row):
        raise error("stop")

    source = dataclasses.replace(make_source()[0], load=load)
    with pytest.raises(error):
        write_store(tmp_path / "stores" / "s", source, corrupt_quota=1, progress=False)
    assert os.listdir(tmp_path / "stores") == []


def test_disk_known_to_be_too_small(tmp_path, monkeypatch, write):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"not enough space.* needs 1\d,\d{3} bytes, .* 5,000 free"):
        write(tmp_path / "stores" / "s")
    assert os.listdir(tmp_path / "stores") == []


@pytest.fixture
def pictures(tmp_path):
    for row in range(90):
        place = tmp_path / "data" / f"class-{row % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (row, 0, 0)).save(place / f"{row}.png")
    return tmp_path / "data"


def test_disk_that_fills_while_writing(tmp_path, pictures, write):
    # A limit on the size of files makes write() itself fail, as on a full disk.
    code = f"""
import resource
from semisup_core.data.sources import prepare
from semisup_core.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    stores = {str(tmp_path / "stores")!r}
    prepare("folder", path={str(pictures)!r}, image_size=64, stores=stores, progress=False)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot write the store" in done.stdout and "free; make room" in done.stdout
    assert os.listdir(tmp_path / "stores") == []


def test_place_that_cannot_hold_a_store(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the store"):
        write(tmp_path / "file" / "s")


def test_two_processes_at_once(tmp_path, pictures):
    # Neither passes its first row before both have a temporary folder, so both really write.
    code = f"""
import dataclasses, pathlib, time
from semisup_core.data.folder_source import folder
from semisup_core.data.writer import write_store
stores, source = pathlib.Path({str(tmp_path / "stores")!r}), folder({str(pictures)!r}, 8).source()
def load(name):
    while name == source.names[0] and len(list(stores.iterdir())) < 2:
        time.sleep(0.005)
    return source.load(name)
store = write_store(stores / "s", dataclasses.replace(source, load=load), corrupt_quota=0, progress=False)
store.verify()
print(store.fingerprint)
"""
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(set(answers)) == 1 and len(answers[0]) == 65
    assert os.listdir(tmp_path / "stores") == ["s"]


def test_loser_of_a_race_opens_the_winner(tmp_path, make_source, write):
    source, _ = make_source()

    def load(row):
        write(tmp_path / "s", seed=1)
        return source.load(row)

    store = write_store(tmp_path / "s", dataclasses.replace(source, load=load), corrupt_quota=0, progress=False)
    assert store.fingerprint == write(tmp_path / "other", seed=1).fingerprint
    assert sorted(os.listdir(tmp_path)) == ["other", "s"]


def test_remains_of_a_killed_process(tmp_path, write):
    old, fresh = (tmp_path / f".{name}{writer.TEMPORARY_SUFFIX}" for name in ("old", "fresh"))
    old.mkdir()
    fresh.mkdir()
    past = time.time() - writer.ABANDONED_SECONDS - 60
    os.utime(old, (past, past))
    write(tmp_path / "s")
    assert not old.exists() and fresh.exists()


def test_rows_in_flight_are_bounded(tmp_path, monkeypatch, make_source):
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


def test_a_stream_is_read_a_few_items_ahead(tmp_path, monkeypatch, make_source):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    source, pixels = make_source(5000)
    given, while_waiting = [], []

    def items():
        for row in range(5000):
            given.append(row)
            yield row

    def load(row):
        if row == 0:
            time.sleep(0.2)
            while_waiting.append(len(given))
        return source.load(row)

    streamed = dataclasses.replace(source, items=items, load=load)
    store = write_store(tmp_path / "s", streamed, corrupt_quota=0, progress=False)
    np.testing.assert_array_equal(store.read(np.arange(5000)), pixels)
    assert 64 <= while_waiting[0] <= 6 * 64


def test_a_stream_that_ends_early_leaves_nothing(tmp_path, make_source):
    source = dataclasses.replace(make_source()[0], items=lambda: iter(range(149)))
    with pytest.raises(DataError, match="made lists 150 images and its data end before them"):
        write_store(tmp_path / "stores" / "s", source, corrupt_quota=1, progress=False)
    assert os.listdir(tmp_path / "stores") == []


def test_existing_store_is_opened_not_rewritten(tmp_path, write):
    first = write(tmp_path / "s")
    assert write(tmp_path / "s", seed=1).fingerprint == first.fingerprint


def test_bar_goes_to_stderr(tmp_path, capsys, make_source):
    write_store(tmp_path / "s", make_source()[0], corrupt_quota=0, progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "preparing made: 100%" in captured.err and "150/150" in captured.err
