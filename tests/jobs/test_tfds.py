"""Data sets of tfds by name, from the command line: prepared by tfds itself, trained on, and missing."""

import http.server
import json
import os
import threading
import time

import pytest

# Registered in every Python process whose PYTHONPATH holds the file, as an installed package of data sets would be.
BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class MadeBirds(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["kea", "weka, old"])
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        rows = {"train": (24, 0), "unlabelled": (40, 1), "test": (10, 2)}
        return {split: self._generate_examples(*given) for split, given in rows.items()}

    def _generate_examples(self, count, seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 36, 40, 3), dtype=np.uint8)
        for row in range(count):
            yield row, {"image": pixels[row], "label": -1 if seed == 1 else row % 2}
"""
BIRDS = ("dataset=tfds", "dataset.tfds_name=made_birds", "dataset.unlabelled_split=unlabelled", "dataset.image_size=32")
TINY = (
    "method=suncet",
    "encoder.width=8",
    "trainer.epochs=1",
    "trainer.steps_per_epoch=2",
    "trainer.unlabelled_batch=8",
    "trainer.labelled_batch=4",
    "evaluation.protocols=[knn20]",
    "evaluation.monitor=knn20",
)


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """The environment in which tfds knows `made_birds`."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "sitecustomize.py").write_text(BUILDER)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cli, registered):
    """A first run: tfds prepares the data, the store is written, two logical devices train. Its storage and output."""
    storage = tmp_path_factory.mktemp("storage")
    places = (f"storage={storage}", f"dataset.path={storage / 'tfds'}")
    devices = ("runtime=local", "debug.logical_devices=2", "name=first")
    return storage, cli("jobs.train", *BIRDS, *TINY, *places, *devices, **registered)


def test_training_on_a_data_set_that_tfds_prepares(trained):
    storage, done = trained
    assert done.returncode == 0, done.stderr
    summary = json.loads((storage / "first" / "summary.json").read_text())
    assert summary["counts"] == {"labelled": 24, "unlabelled": 64, "validation": 0, "test": 10}
    split = json.loads((storage / "first" / "split.json").read_text())
    assert split["class_names"] == ["kea", "weka, old"]
    assert split["counts"]["unlabelled"]["without_label"] == 40


def test_what_is_on_the_disk_needs_no_builder(trained, cli):
    """Read by name from the files alone, as another machine without the builder's code would."""
    storage, _ = trained
    done = cli("jobs.data", *BIRDS, f"storage={storage}", f"dataset.path={storage / 'tfds'}")
    assert done.returncode == 0, done.stderr
    assert "tfds made_birds/1.0.0, 74 images of 32 x 32 x 3" in done.stdout
    rows = {line.rsplit(maxsplit=4)[0]: line.split()[-4:] for line in done.stdout.splitlines() if line}
    assert rows["weka, old"] == ["12", "12", "0", "5"] and rows["(no label)"] == ["0", "40", "0", "0"]


def test_unknown_name(tmp_path, cli):
    done = cli("jobs.train", "dataset=tfds", "dataset.tfds_name=cifra10", f"storage={tmp_path / 'runs'}")
    assert (done.returncode, done.stdout) == (3, "") and done.stderr.startswith("error: ")
    assert "got 'cifra10'; did you mean cifar10?" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def proxy():
    """A host that answers every request with bytes that are no data set; gives its address."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"no data set")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fashion_mnist(cli, tmp_path, http_proxy):
    words = ("dataset=fashion_mnist", f"storage={tmp_path / 'runs'}", f"dataset.path={tmp_path / 'tfds'}")
    done = cli("jobs.data", *words, http_proxy=http_proxy, no_proxy="")
    assert done.returncode == 3 and done.stdout == "" and not (tmp_path / "runs").exists()
    assert "WARNING" not in done.stderr
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: fashion_mnist/3.0.1 is not in ") and "give that folder as dataset.path" in error
    return error


def test_no_network(tmp_path, cli):
    begun = time.monotonic()
    error = fashion_mnist(cli, tmp_path, "http://127.0.0.1:9")  # nobody listens there
    assert "no answer from fashion-mnist.s3-website" in error and time.monotonic() - begun < 60


def test_a_download_that_fails(tmp_path, cli, proxy):
    assert "NonMatchingChecksumError" in fashion_mnist(cli, tmp_path, proxy)
