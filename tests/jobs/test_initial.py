"""What `encoder.init` may mean, and how it counts in a run's identity."""

import pytest

from jobs import config
from jobs.errors import ConfigError
from jobs.identity import identity
from jobs.initial import content, initial_encoder


@pytest.fixture
def storage(tmp_path):
    """A storage with a finished run of width 8."""
    run = tmp_path / "earlier-run"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml(config.load(["encoder.width=8"])))
    (run / "encoder.keras").write_bytes(b"weights")
    return tmp_path


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
        ("encoder.width=16", "encoder.width is 8 there and 16 here"),
        ("encoder=resnet18", "encoder.name is conv there and resnet18 here"),
    ],
)
def test_another_structure_is_refused_before_anything_starts(storage, word, differs):
    with pytest.raises(ConfigError, match=differs):
        initial_encoder(load(storage, "earlier-run", word))


def test_it_counts_by_content(storage):
    file = storage / "earlier-run" / "encoder.keras"
    first = identity(load(storage, "earlier-run"), {"encoder.init": content(file)})
    same = identity(load(storage, file), {"encoder.init": content(file)})
    file.write_bytes(b"other weights")
    other = identity(load(storage, file), {"encoder.init": content(file)})
    assert first == same != other


def test_a_wrong_one_is_exit_code_2(cli, storage):
    done = cli("jobs.train", "runtime=local", f"storage={storage}", "encoder.init=earlier-ron")
    assert done.returncode == 2 and "did you mean earlier-run" in done.stderr
