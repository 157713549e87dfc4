"""What a full disk costs: the saves that meet it, and no more. The limit is the kernel's, on this process's files."""

import resource
import shutil
from contextlib import contextmanager

import pytest
from small_jobs import SMALL, clean

from jobs import config, driver
from jobs.checkpoint import Checkpoints
from jobs.leader import Leader
from jobs.tracking import read_rows
from semisup_core.errors import StorageError


@contextmanager
def full_disk(room):
    """No file may grow beyond `room` bytes; Python turns the signal off that would come with it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def full_at(monkeypatch):
    """full_at(steps): the disk is full when a checkpoint of one of these steps is written for the first time."""
    real = Checkpoints.save

    def patch(steps):
        def save(self, state, meta, spool):
            if meta["step"] not in steps:
                return real(self, state, meta, spool)
            steps.remove(meta["step"])
            with full_disk(200_000):  # more than anything but a checkpoint has
                return real(self, state, meta, spool)

        monkeypatch.setattr(Checkpoints, "save", save)

    return patch


def line(storage, *more):
    return config.load([f"storage={storage}", "name=run", *SMALL, "encoder.width=64", "trainer.epochs=4", *more])


def test_a_failed_save_is_made_up_for_by_the_next(tmp_path, full_at, capsys):
    full_at({4, 12})
    summary = driver.train(line(tmp_path))
    assert summary["complete"]
    said = capsys.readouterr().out
    assert said.count("could not be written") == 2 and said.count("training goes on") == 2
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert "step-000000016" in names and all(name.startswith("step-") for name in names)
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row] == [
        *range(1, 17)
    ]


def test_too_many_failures_in_a_row_end_the_run_and_it_resumes(tmp_path, full_at, monkeypatch):
    driver.train(line(tmp_path / "straight"))
    full_at({8, 12})
    with pytest.raises(StorageError, match="step 12.*the last good one is step-00000000[48].*resumes"):
        driver.train(line(tmp_path, "checkpoint.failures=2"))
    monkeypatch.undo()
    assert driver.train(line(tmp_path))["complete"]
    files = [folder / "run" / "metrics.jsonl" for folder in (tmp_path, tmp_path / "straight")]
    assert clean(read_rows(files[0])) == clean(read_rows(files[1]))


def test_too_little_room_is_said_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    driver.train(line(tmp_path, "debug.steps=1"))  # the store is there
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="expected room for 4 checkpoints .* found 1 MB"):
        driver.train(line(tmp_path, "resume=false"))


def test_the_best_weights_are_saved_later_when_their_own_save_failed(tmp_path, full_at, monkeypatch):
    best = iter([0.1, 0.9, 0.2, 0.3])
    real = Leader._validate
    monkeypatch.setattr(Leader, "_validate", lambda *args: dict.fromkeys(real(*args), next(best)))
    full_at({8})
    summary = driver.train(line(tmp_path, "checkpoint.keep=1"))
    assert summary["selected"] == "best validation, linear 0.900" and summary["epoch"] == 2
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["step-000000008", "step-000000016"]
    # From the one that was made up for, a run goes on with every row once.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / names[1])
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.undo()
    assert driver.train(line(tmp_path, "checkpoint.keep=1"))["complete"]
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == [*range(1, 17)]
