"""Stores much larger than a test has time to write: their pixels are a hole in a file, all else is real."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from semisup_core.data.manifest import LABEL_DTYPE, MANIFEST
from semisup_core.data.sources import prepare
from semisup_core.data.store import open_store

LIMIT = 3 * 2**30  # bytes of its own that a process may have, pages of files left out


def small_store(folder, side):
    images = np.random.default_rng(0).integers(0, 256, (40, side, side, 3), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(40) % 2)
    return prepare("arrays", image_size=side, stores=folder / "stores", path=str(folder / "images.npz"), progress=False)


def inflate(store, rows):
    """Makes the store one of so many rows: black images, without labels beyond its own."""
    fields = json.loads((store.path / MANIFEST).read_text())
    first = fields["count"]
    labels = np.full(rows, -1, LABEL_DTYPE)
    labels[:first] = store.labels
    (store.path / fields["labels"]["name"]).write_bytes(labels.tobytes())
    (store.path / fields["origins"]["name"]).write_bytes(np.resize(store.origins, rows).tobytes())
    (store.path / fields["names"]["name"]).write_text("".join(f'"{i}"\n' for i in range(rows)))
    (shard,) = fields["shards"]
    with open(store.path / shard["name"], "r+b") as pixels:
        pixels.truncate(shard["bytes"] // first * rows)
    fields["count"] = rows
    for file in (shard, fields["labels"], fields["origins"], fields["names"]):
        file |= {"rows": rows, "bytes": (store.path / file["name"]).stat().st_size}
    (store.path / MANIFEST).write_text(json.dumps(fields))


def test_a_million_rows_open_in_less_than_a_second(tmp_path):
    store = small_store(tmp_path, 32)
    inflate(store, 1_000_000)
    begun = time.perf_counter()
    opened = open_store(store.path)
    rows = opened.read([0, 999_999])
    assert time.perf_counter() - begun < 1.0
    assert len(opened) == 1_000_000 and rows[0].any() and not rows[1].any()


@pytest.mark.slow
def test_a_store_larger_than_memory_trains(tmp_path):
    """Twice the machine's memory, read at random, by a process that may have 3 GiB of its own."""
    store = small_store(tmp_path, 128)
    inflate(store, 2 * psutil.virtual_memory().total // (128 * 128 * 3))
    words = ["dataset=arrays", f"dataset.path={tmp_path / 'images.npz'}", "dataset.image_size=128", "runtime=local"]
    words += ["encoder.width=8", "trainer.unlabelled_batch=256", "trainer.epochs=2", "trainer.steps_per_epoch=20"]
    command = [sys.executable, "-m", "jobs.train", f"storage={tmp_path}", "name=large", *words]
    limited = ["sh", "-c", 'ulimit -d "$0" && exec "$@"', str(LIMIT // 1024), *command]
    done = subprocess.run(limited, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "large" / "summary.json").read_text())
    pixels = next(store.path.glob("pixels*")).stat().st_size
    assert summary["counts"]["unlabelled"] > 100_000 and pixels > psutil.virtual_memory().total
    assert 0 < summary["anonymous_mib"] < LIMIT / 2**20
