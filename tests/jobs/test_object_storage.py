"""Runs in an object store: a real S3 server on loopback, real commands."""

import dataclasses
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jobs import config, driver, object_storage, own_copy
from jobs.checkpoint import Spool
from jobs.errors import ConfigError, UnavailableError
from jobs.folder import RunFolder, find_run
from jobs.object_storage import cache_folder
from jobs.prepare import prepare_store
from jobs.storage import open_storage
from jobs.tracking import Tracker
from semisup_core.errors import DataError

SMALL = [
    "runtime=local",
    "encoder.width=8",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.steps_per_epoch=4",
    "trainer.epochs=2",
    "method.projection=[16]",
    "evaluation.protocols=[knn20]",
    "evaluation.monitor=knn20",
]

ENCODER = "s3://runs/trained/run/encoder.keras"

pytestmark = pytest.mark.xdist_group("object store")


@pytest.fixture
def another_machine(cloud, tmp_path, monkeypatch):
    """From here on, nothing is on this machine."""

    def move(name="another"):
        monkeypatch.setenv("SEMISUP_CACHE", str(tmp_path / name))

    return move


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_sent_is_fetched_elsewhere(another_machine, tmp_path):
    here = open_storage("s3://runs/files")
    here.check()
    run = here.root / "run"
    (run / "inner").mkdir(parents=True)
    (run / "a.txt").write_text("one")
    (run / "inner" / "b.bin").write_bytes(bytes(9 << 20))  # in several parts
    here.send(run)
    assert here.names(here.root) == ["run"] and here.names(run) == ["a.txt", "inner"]
    another_machine()
    there = open_storage("s3://runs/files")
    there.fetch(there.root / "run")
    assert tree(there.root / "run") == tree(run)
    (there.root / "run" / "a.txt").write_text("two")
    (there.root / "run" / "inner" / "b.bin").unlink()
    there.send(there.root / "run")
    here.fetch(run)
    assert tree(run) == {"a.txt": b"two"}
    here.move(run, here.root / "aside")
    assert here.names(here.root) == ["aside"] and tree(here.root / "aside") == {"a.txt": b"two"}
    here.remove(here.root / "aside")
    assert here.names(here.root) == [] and not (here.root / "aside").exists()


def test_what_another_machine_did_not_change_is_not_fetched_again(another_machine):
    here = open_storage("s3://runs/again")
    run = here.root / "run"
    run.mkdir(parents=True)
    (run / "a.bin").write_bytes(bytes(2 << 20))
    here.send(run)
    another_machine()
    there = open_storage("s3://runs/again")
    there.fetch(there.root / "run")
    file = there.root / "run" / "a.bin"
    before = file.stat().st_ino
    there.fetch(there.root / "run")
    assert file.stat().st_ino == before
    assert file.stat().st_mtime_ns == (run / "a.bin").stat().st_mtime_ns


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run in a folder, from start to end."""
    storage = tmp_path_factory.mktemp("straight")
    driver.train(config.load([f"storage={storage}", "name=run", *SMALL]))
    return storage / "run"


@pytest.fixture(scope="module")
def trained(cloud, straight):
    """The same in an object store, stopped in mid-epoch and resumed with an empty cache."""
    line = ["storage=s3://runs/trained", "name=run", *SMALL]
    assert driver.train(config.load([*line, "debug.steps=3"])) is None
    shutil.rmtree(open_storage("s3://runs/trained").root)
    return driver.train(config.load(line))


def test_a_run_resumes_from_the_object_store(trained, straight):
    run = find_run("run", "s3://runs/trained")
    ours, theirs = (each.checkpoints.newest() for each in (run, find_run(str(straight), "")))
    assert ours.step == theirs.step == 8
    ours, theirs = ours.state(), theirs.state()
    assert not [name for name in theirs if not np.array_equal(ours[name], theirs[name])]
    summary = json.loads((straight / "summary.json").read_text())
    assert trained["test"] == summary["test"] and trained["folder"] == "s3://runs/trained/run"
    assert set(run.storage.names(run.path)) == {path.name for path in straight.iterdir()}


def test_commands_work_on_it_from_another_machine(trained, another_machine, cli, tmp_path, digits):
    another_machine()
    storage = "storage=s3://runs/trained"
    listed = cli("jobs.runs", storage)
    assert "finished" in listed.stdout, listed.stderr
    measured = cli("jobs.evaluate", "run", "protocols=knn20", storage)
    assert f"{trained['test']['knn20']['accuracy']:.4f}" in measured.stdout, measured.stderr
    run = find_run("run", "s3://runs/trained")
    assert "evaluation.json" in run.storage.names(run.path)
    again = cli("jobs.train", "storage=s3://runs/trained", "name=run", *SMALL)
    assert again.returncode == 0 and "is finished" in again.stdout, again.stderr


def test_the_command_that_a_list_shows_goes_on_with_a_run_from_another_machine(trained, another_machine, cli):
    another_machine()
    shown = cli("jobs.runs", "storage=s3://runs/trained").stdout.splitlines()
    (words,) = [line.split() for line in shown if "--config" in line]
    assert "s3://runs/trained/run/config.yaml" in words
    again = cli(*words[2:])
    assert again.returncode == 0 and "is finished" in again.stdout, again.stderr


def test_who_looks_on_changes_nothing_of_a_run_that_goes_on(trained, command):
    storage = open_storage("s3://runs/trained")
    run, log = storage.root / "run", storage.root / "run" / "metrics.jsonl"
    storage.fetch(run)
    assert command("jobs.evaluate", "run", "protocols=linear", "storage=s3://runs/trained").code == 0
    earlier = storage.read(run / "evaluation.json")
    reader = find_run("run", "s3://runs/trained")  # begins before the next one ends
    longer = log.read_bytes() + b'{"step": 9}\n'
    log.write_bytes(longer)  # worker 0 is writing
    (run / "new.txt").write_text("not sent yet")
    assert command("jobs.runs", "storage=s3://runs/trained").code == 0
    assert command("jobs.evaluate", "run", "protocols=knn20", "storage=s3://runs/trained").code == 0
    assert log.read_bytes() == longer and (run / "new.txt").exists()
    storage.send(log)
    reader.send_added()
    reader.storage.fetch(reader.path)
    assert storage.read(log) == longer == reader.metrics.read_bytes()
    assert b"knn20" in storage.read(run / "evaluation.json") != earlier  # and so is not put back
    (run / "new.txt").unlink()
    log.write_bytes(longer[: -len(b'{"step": 9}\n')])
    storage.send(log)


def test_a_store_whose_sending_was_interrupted_is_sent_again(cloud, another_machine, digits):
    line = config.load(["storage=s3://runs/half", *SMALL])
    storage, sent = open_storage("s3://runs/half"), prepare_store(line)
    (manifest,) = [sent.path / "manifest.json"]
    storage._files.delete_file(storage._there(manifest))
    assert prepare_store(line).fingerprint == digits.fingerprint and storage.read(manifest)  # it is still here
    storage._files.delete_file(storage._there(manifest))
    another_machine()
    assert prepare_store(line).fingerprint == digits.fingerprint and storage.read(manifest)  # made anew


def test_a_machine_without_the_data_takes_the_store_that_was_made_of_them(cloud, another_machine, tmp_path, capsys):
    np.savez(tmp_path / "birds.npz", images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(40) % 2)
    words = ["storage=s3://runs/apart", "dataset=arrays", f"dataset.path={tmp_path / 'birds.npz'}", "encoder=resnet18"]
    line = config.load([*words, "dataset.image_size=8", "dataset.labels_per_class=5"])
    made = prepare_store(line)
    assert "taking the store" not in capsys.readouterr().out
    another_machine()
    (tmp_path / "birds.npz").unlink()
    assert prepare_store(line).fingerprint == made.fingerprint
    said = capsys.readouterr().out
    assert f"birds.npz is not on this machine: taking the store {made.path.name}, made of it on " in said
    assert said.endswith(", 40 images\n")
    for other in ({"image_size": 9}, {"path": "birds.npz"}):
        with pytest.raises(DataError, match=r"birds.npz.*, or run python -m jobs.data .*storage=s3://runs/apart"):
            prepare_store(dataclasses.replace(line, dataset=dataclasses.replace(line.dataset, **other)))
    storage = open_storage("s3://runs/apart")
    storage.remove(storage.root / "stores" / made.path.name)
    with pytest.raises(DataError, match="or run python -m jobs.data"):
        prepare_store(line)


def test_a_file_that_grows_while_it_is_sent_is_sent_as_it_was(cloud, monkeypatch):
    storage = open_storage("s3://runs/growing")
    file = storage.root / "run" / "wandb" / "run.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"first")

    def grows(path, mode):
        with open(file, "ab") as out:
            out.write(b" second")
        return open(path, mode)

    monkeypatch.setattr(object_storage, "open", grows, raising=False)
    storage.send(file)
    assert storage.read(file) == b"first"
    monkeypatch.undo()
    storage.send(file)
    assert storage.read(file) == b"first second"


def test_the_log_is_whole_in_the_store_as_soon_as_a_run_resumes(cloud):
    storage = open_storage("s3://runs/log")
    folder = RunFolder(storage.root / "run", storage)
    folder.path.mkdir(parents=True)
    rows = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": 1.0}]
    saved = folder.checkpoints.save({"a": np.zeros(1)}, {"step": 2}, Spool(0, rows))
    Tracker(config.load(SMALL), folder, saved, print)
    assert len(storage.read(folder.metrics).splitlines()) == 2


def test_what_a_run_held_out_is_known_of_its_encoder_by_address_too(trained):
    other = config.load(["storage=s3://runs/other", *SMALL, "dataset.split_seed=3", "encoder.init=" + ENCODER])
    with pytest.raises(ConfigError, match="encoder.init: its run held out other"):
        driver.train(other)


def test_a_run_that_was_deleted_in_the_store_begins_anew(cloud):
    line = config.load(["storage=s3://runs/deleted", "name=run", *SMALL, "debug.steps=1"])
    driver.train(line)
    storage = open_storage("s3://runs/deleted")
    storage._delete_there(storage.root / "run")
    driver.train(line)
    assert "identity.json" in storage.names(storage.root / "run")


def test_copies_of_processes_that_are_gone_are_removed(cloud):
    place = cache_folder()
    script = "import os, sys; from jobs.storage import open_storage; open_storage(sys.argv[1], True); {}"
    for end in ("os._exit(0)", "pass"):
        subprocess.run([sys.executable, "-c", script.format(end), "s3://runs/x"], check=True)
        assert len(set(place.glob("own-*")) - ours(place)) == (end != "pass")
    mine = open_storage("s3://runs/x", own_copy=True).root
    assert mine.is_dir() and set(place.glob("own-*")) == ours(place)


def ours(place):
    return {folder for folder, _ in own_copy._kept if folder.parent == place}


def test_no_secret_is_written(trained):
    storage = open_storage("s3://runs/trained")
    storage.fetch(storage.root)
    assert not [name for name, content in tree(storage.root).items() if b"a-secret-that" in content]


def test_resume_false_moves_the_old_run_aside(trained):
    line = ["storage=s3://runs/trained", "name=run", *SMALL, "resume=false", "debug.steps=1"]
    driver.train(config.load(line))
    storage = open_storage("s3://runs/trained")
    assert {"run", "run.old-1"} <= set(storage.names(storage.root))
    assert "summary.json" in storage.names(storage.root / "run.old-1")
    assert "summary.json" not in storage.names(storage.root / "run")


@pytest.mark.parametrize(
    "place, words",
    [
        ("ftp://a/b", ["s3://", "ftp"]),
        ("s3://", ["s3://BUCKET"]),
        ("s3:/runs/x", ["s3://BUCKET"]),
        ("s3://key:secret@bucket/x", ["without a key", "environment"]),
        ("az://container/x", ["AZURE_STORAGE_ACCOUNT"]),
    ],
)
def test_addresses_that_cannot_be(place, words):
    with pytest.raises(ConfigError) as caught:
        config.load([f"storage={place}"])
    assert all(word in str(caught.value) for word in words) and "key:secret" not in str(caught.value)


def test_a_bucket_that_cannot_be_found(monkeypatch):
    def unknown(url):
        raise OSError("When resolving region for bucket 'runs': could not resolve hostname. Details: many")

    monkeypatch.setattr(object_storage, "fs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=unknown)))
    with pytest.raises(UnavailableError, match="storage=s3://runs/x: cannot find it: .*; check the network"):
        open_storage("s3://runs/x")


def test_a_bucket_that_is_not_there_and_a_server_that_does_not_answer(cloud, cli, monkeypatch):
    with pytest.raises(UnavailableError, match="s3://nobody/x.*does not exist"):
        open_storage("s3://nobody/x").check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = cli("jobs.train", "storage=s3://runs/x", *SMALL)
    assert done.returncode == 5 and "s3://runs/x" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
