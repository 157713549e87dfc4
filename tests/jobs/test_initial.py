"""What `encoder.init` may mean, and how it counts in a run's identity."""

import json
import zipfile

import numpy as np
import pytest

from jobs import config
from jobs.errors import ConfigError
from jobs.identity import identity
from jobs.initial import check_held_out, content, initial_encoder
from semisup_core.data.splits import Split


@pytest.fixture
def storage(tmp_path):
    """A storage with a finished run of width 8."""
    run = tmp_path / "earlier-run"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml(config.load(["encoder.width=8"])))
    save(run / "encoder.keras", "weights")
    return tmp_path


def save(file, weights, written="now"):
    """An archive as Keras writes it."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata.json", written)
        archive.writestr("model.weights.h5", weights)


def load(storage, init, *words):
    return config.load([f"storage={storage}", f"encoder.init={init}", "encoder.width=8", *words])


def test_nothing_by_default(storage):
    assert initial_encoder(config.load([f"storage={storage}"])) is None


def test_a_run_by_name_by_folder_and_a_file(storage):
    file = storage / "earlier-run" / "encoder.keras"
    for init in ("earlier-run", storage / "earlier-run", file):
        assert initial_encoder(load(storage, init)) == file


@pytest.mark.parametrize(
    "init, words",
    [
        ("earlier-ron", "did you mean earlier-run"),
        ("missing.keras", "expected a .keras file, found none at missing.keras"),
    ],
)
def test_what_is_not_there_is_named(storage, init, words):
    with pytest.raises(ConfigError, match=words):
        initial_encoder(load(storage, init))


def test_a_run_that_is_not_finished_is_refused(storage):
    (storage / "earlier-run" / "encoder.keras").unlink()
    with pytest.raises(ConfigError, match="has no encoder.keras"):
        initial_encoder(load(storage, "earlier-run"))


@pytest.mark.parametrize(
    "word, differs",
    [
        ("encoder.width=16", "encoder.width is 8 there and 16 here; expected the same: add encoder.width=8$"),
        ("encoder=resnet18", "encoder.name is conv there and resnet18 here.*: add encoder=conv"),
    ],
)
def test_another_structure_is_refused_before_anything_starts(storage, word, differs):
    with pytest.raises(ConfigError, match=differs):
        initial_encoder(load(storage, "earlier-run", word))


def test_what_is_no_model_is_refused(storage):
    (storage / "earlier-run" / "encoder.keras").write_bytes(b"weights")
    with pytest.raises(ConfigError, match="expected a model that Keras saved"):
        initial_encoder(load(storage, "earlier-run"))


def make_split(validation, test, seed=0):
    rows = [np.array(rows, np.int64) for rows in ([0], [0, 1], validation, test)]
    return Split(*rows, seed)


def test_an_encoder_that_may_have_seen_held_out_images_is_refused(storage):
    file = storage / "earlier-run" / "encoder.keras"
    check_held_out(file, make_split([5], [7]), "store")  # nothing is known of a bare file
    recorded = {"sha256": make_split([5], [7]).to_hashes(), "store_fingerprint": "store", "seed": 3}
    (file.parent / "split.json").write_text(json.dumps(recorded))
    check_held_out(file, make_split([5], [7]), "store")
    check_held_out(file, make_split([], []), "store")  # nothing is measured
    check_held_out(file, make_split([6], [8]), "another store")
    for split, pool in ((make_split([6], [7]), "validation"), (make_split([5], [8]), "test")):
        with pytest.raises(ConfigError, match=rf"held out other {pool} images.*there 3, here 0"):
            check_held_out(file, split, "store")


def test_it_counts_by_content(storage):
    file = storage / "earlier-run" / "encoder.keras"
    first = identity(load(storage, "earlier-run"), {"encoder.initial_weights": content(file)})
    same = identity(load(storage, file), {"encoder.initial_weights": content(file)})
    save(file, "weights", written="later")
    assert identity(load(storage, file), {"encoder.initial_weights": content(file)}) == first
    save(file, "other weights")
    other = identity(load(storage, file), {"encoder.initial_weights": content(file)})
    assert first == same != other


def test_a_wrong_one_is_exit_code_2(cli, storage):
    done = cli("jobs.train", "runtime=local", f"storage={storage}", "encoder.init=earlier-ron")
    assert done.returncode == 2 and "did you mean earlier-run" in done.stderr
