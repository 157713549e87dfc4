"""Whole runs in this process and from the command line: what they leave, how they resume, how they fail."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from small_jobs import SMALL, clean

from jobs import config, driver
from jobs.checkpoint import Checkpoints
from jobs.errors import ConfigError
from jobs.prepare import split_of
from jobs.tracking import read_rows
from semisup_core.errors import NumericalError
from semisup_core.evaluation.protocols import measure


def small(storage, name, *overrides):
    return config.load([f"storage={storage}", f"name={name}", *SMALL, *overrides])


def arrays(run):
    return Checkpoints(run / "checkpoints").newest().state()


@pytest.fixture(scope="module")
def finished(storage):
    """A finished run; `straight` is what every resumed one must equal."""
    driver.train(small(storage, "straight"))
    return storage / "straight"


def test_run_folder_is_what_a_person_can_use(finished):
    files = {path.name for path in finished.iterdir()}
    assert files == {
        "config.yaml",
        "identity.json",
        "environment.json",
        "split.json",
        "metrics.jsonl",
        "checkpoints",
        "encoder.keras",
        "summary.json",
        "curves.png",
        "gallery.png",
    }
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["complete"] and summary["steps"] == 12
    assert set(summary["test"]) == set(summary["pixels"]) == set(summary["protocols"]) == {"knn20", "linear"}
    assert summary["counts"] == {"labelled": 100, "unlabelled": 1347, "validation": 50, "test": 400}
    for row in summary["test"].values():
        assert row["interval"][0] < row["accuracy"] < row["interval"][1] and 0 < row["balanced_accuracy"] < 1
    assert summary["test"]["linear"]["images"] == 400 and 0.1 < summary["pixels"]["linear"]["accuracy"] < 1
    environment = json.loads((finished / "environment.json").read_text())
    assert {"commit", "dirty", "packages", "host", "cpus"} <= set(environment)
    assert environment["devices"] == ["CPU"] and environment["replicas"] == 1
    assert environment["processor"] and environment["threads"] >= 1
    assert json.loads((finished / "split.json").read_text())["unlabelled_contains_labelled"] is True
    assert config.load([], str(finished / "config.yaml")).name == "straight"
    with Image.open(finished / "gallery.png") as gallery:  # 8 images in 4 columns, enlarged
        assert gallery.size[0] > 4 * 32 and gallery.size[1] > 8 * 32


def test_one_row_a_step_and_one_an_epoch(finished):
    rows = read_rows(finished / "metrics.jsonl")
    steps = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert {"train/unlabelled_loss", "train/supervised_loss"} <= set(steps[0])
    epochs = [row for row in rows if "epoch" in row]
    assert [(row["epoch"], row["step"]) for row in epochs] == [(1, 4), (2, 8), (3, 12)]
    assert all({"validation/linear", "validation/knn20", "images_per_second"} <= set(row) for row in epochs)


def test_encoder_takes_pixels(finished, digits):
    encoder = keras.saving.load_model(finished / "encoder.keras")
    assert encoder.predict(digits.read(np.arange(5)), verbose=0).shape == (5, 8)


def test_best_validation_epoch_is_what_is_kept(storage, digits):
    # A rate that ruins the network after a good start: the best epoch is not the last.
    run = small(
        storage,
        "ruined",
        "optimizer.learning_rate=3",
        "optimizer.schedule=constant",
        "trainer.epochs=4",
        "trainer.early_stop=9",
        "evaluation.monitor=knn20",
    )
    summary = driver.train(run)
    rows = [row for row in read_rows(storage / "ruined" / "metrics.jsonl") if "epoch" in row]
    best = max(rows, key=lambda row: (row["validation/knn20"], row["step"]))
    assert best["epoch"] < 4 == rows[-1]["epoch"] and summary["epoch"] == best["epoch"]
    encoder = keras.saving.load_model(storage / "ruined" / "encoder.keras")
    split = split_of(run, digits)
    bank, queries = (encoder.predict(digits.read(pool), verbose=0) for pool in (split.labelled, split.validation))
    (measured,) = measure(
        ["knn20"], bank, digits.labels[split.labelled], queries, digits.labels[split.validation], num_classes=10
    )
    assert measured.accuracy == pytest.approx(best["validation/knn20"])


def test_a_finished_run_says_so_and_changes_nothing(finished, storage, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    driver.train(small(storage, "straight"))
    said = capsys.readouterr().out
    assert "is finished" in said and "linear" in said and str(finished) in said
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


@pytest.mark.parametrize("stop_after", [4, 6], ids=["end of an epoch", "mid-epoch"])
def test_resumed_run_is_the_straight_one(finished, storage, stop_after, capsys):
    run = storage / f"stopped-{stop_after}"
    assert driver.train(small(storage, run.name, f"debug.steps={stop_after}")) is None
    assert not (run / "summary.json").exists() and f"stopped after step {stop_after}" in capsys.readouterr().out
    summary = driver.train(small(storage, run.name))
    assert f"resuming after step {stop_after} of 12" in capsys.readouterr().out
    straight, resumed = arrays(finished), arrays(run)
    assert straight.keys() == resumed.keys()
    assert all(np.array_equal(straight[key], resumed[key]) for key in straight)
    assert clean(read_rows(finished / "metrics.jsonl")) == clean(read_rows(run / "metrics.jsonl"))
    of_straight = json.loads((finished / "summary.json").read_text())
    assert all(summary[key] == of_straight[key] for key in ("test", "epoch", "selected", "steps"))


def test_killed_between_log_and_checkpoint_no_row_is_lost(finished, storage, monkeypatch):
    run = storage / "killed"
    real = Checkpoints.save

    def dies_at_step_8(self, state, meta, spool):
        if meta["step"] == 8:
            raise KeyboardInterrupt
        return real(self, state, meta, spool)

    monkeypatch.setattr(Checkpoints, "save", dies_at_step_8)
    with pytest.raises(KeyboardInterrupt):
        driver.train(small(storage, run.name))
    monkeypatch.undo()
    driver.train(small(storage, run.name))
    assert clean(read_rows(finished / "metrics.jsonl")) == clean(read_rows(run / "metrics.jsonl"))


def test_rows_beyond_the_checkpoint_are_dropped_and_a_bad_checkpoint_is_named(finished, storage, capsys):
    run = storage / "damaged"
    shutil.copytree(finished, run)
    (run / "summary.json").unlink()
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    (newest / "state.npz").write_bytes(b"cut short")
    driver.train(small(storage, "damaged"))
    said = capsys.readouterr().out
    assert f"checkpoint {newest.name} is not usable" in said and "resuming after step 8 of 12" in said
    assert clean(read_rows(run / "metrics.jsonl")) == clean(read_rows(finished / "metrics.jsonl"))
    straight, again = arrays(finished), arrays(run)
    assert all(np.array_equal(straight[key], again[key]) for key in straight)


def test_a_foreign_folder_is_not_taken_over(storage):
    (storage / "foreign").mkdir()
    (storage / "foreign" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not a run"):
        driver.train(small(storage, "foreign"))


def test_another_configuration_under_the_same_name_is_refused(finished, storage):
    with pytest.raises(ConfigError, match="method.temperature"):
        driver.train(small(storage, "straight", "method.temperature=0.9"))


def test_resume_false_moves_the_old_run_aside(storage, capsys):
    driver.train(small(storage, "again", "debug.steps=2"))
    with pytest.raises(ConfigError, match="labelled_batch"):  # a mistake moves nothing
        driver.train(small(storage, "again", "resume=false", "trainer.labelled_batch=25"))
    assert (storage / "again" / "checkpoints").exists()
    driver.train(small(storage, "again", "debug.steps=2", "resume=false"))
    assert (storage / "again.old-1" / "checkpoints").exists() and (storage / "again" / "checkpoints").exists()
    assert "again.old-1" in capsys.readouterr().out


def test_cross_entropy_has_a_classifier(storage):
    chosen = [word for word in SMALL if not word.startswith(("method.", "evaluation."))]
    run = config.load([f"storage={storage}", "name=supervised", "method=cross_entropy", *chosen])
    summary = driver.train(run)
    assert set(summary["test"]) == {"knn20", "knn200", "linear", "classifier"}
    classifier = keras.saving.load_model(storage / "supervised" / "classifier.keras")
    assert classifier.output_shape == (None, 10)
    assert "classifier" not in summary["pixels"] and "k capped at 100" in summary["test"]["knn200"]["note"]


def test_two_replicas_and_one_log_the_same_losses(storage, finished):
    driver.train(small(storage, "two", "debug.logical_devices=2", "trainer.epochs=3"))
    one, two = (
        [row["train/loss"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
        for run in (finished, storage / "two")
    )
    assert one[0] == pytest.approx(two[0], rel=1e-6)
    assert one == pytest.approx(two, rel=1e-3)  # float32 with BatchNorm drifts; float64 is in the contract tests


def test_early_stopping_and_the_time_limit(storage):
    base = ["trainer.epochs=30", "trainer.steps_per_epoch=1", "evaluation.every=2"]
    early = driver.train(small(storage, "early", *base, "trainer.early_stop=2", "optimizer.learning_rate=1e-9"))
    assert early["complete"] and "no better validation linear" in early["stopped"]
    rows = [row for row in read_rows(storage / "early" / "metrics.jsonl") if "validation/linear" in row]
    best = max(row["validation/linear"] for row in rows)
    first_best = next(i for i, row in enumerate(rows) if row["validation/linear"] == best)
    assert [row["step"] for row in rows] == list(range(2, 2 * len(rows) + 1, 2)) and len(rows) == first_best + 3
    timed = driver.train(small(storage, "timed", *base, "trainer.early_stop=9", "trainer.max_minutes=0.0001"))
    assert not timed["complete"] and "max_minutes" in timed["stopped"] and timed["steps"] == 1


def test_non_finite_loss_stops_with_the_step_and_the_last_checkpoint(storage):
    run = small(
        storage,
        "diverging",
        "optimizer.name=sgd",
        "optimizer.learning_rate=1e30",
        "optimizer.warmup_epochs=0",
        "optimizer.weight_decay=1e30",
        "trainer.steps_per_epoch=2",
    )
    with pytest.raises(NumericalError, match=r"the loss of step \d+ is .*(last good checkpoint|no checkpoint yet)"):
        driver.train(run)


def test_eager_debugging_computes_the_same(storage):
    driver.train(small(storage, "eager", "debug.eager=true", "debug.steps=2"))
    driver.train(small(storage, "compiled", "debug.steps=2"))
    eager, compiled = (
        [row["train/loss"] for row in read_rows(storage / name / "metrics.jsonl") if "train/loss" in row]
        for name in ("eager", "compiled")
    )
    assert eager == pytest.approx(compiled, rel=1e-4)


def test_a_folder_without_test_images(storage, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(
                tmp_path / "pets" / name / f"{i}.png"
            )
    chosen = [word for word in SMALL if "batch" not in word]
    words = ["dataset=folder", f"dataset.path={tmp_path}/pets", "dataset.image_size=32", "dataset.test_fraction=0"]
    summary = driver.train(config.load([f"storage={storage}", "name=pets", *chosen, *words, "trainer.epochs=1"]))
    assert (
        summary["test"] == {}
        and summary["counts"]["unlabelled"] == 24
        and (storage / "pets" / "encoder.keras").exists()
    )
    # Nothing was measured on the way, and the encoder that is left is the trained one all the same.
    kept = keras.saving.load_model(storage / "pets" / "encoder.keras").get_weights()
    state = arrays(storage / "pets")
    trained = [state[name] for name in sorted(state) if name.startswith("encoder/")]
    assert all(np.array_equal(one, other) for one, other in zip(kept, trained, strict=True))


def test_no_validation_means_the_last_epoch(storage):
    summary = driver.train(small(storage, "blind", "dataset.validation_per_class=0", "trainer.epochs=2"))
    assert summary["selected"] == "last epoch" and summary["epoch"] == 2


def test_exit_codes_on_the_command_line(cli, storage, tmp_path):
    def code(*words):
        done = cli("jobs.train", f"storage={tmp_path}", *SMALL, *words)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or done.stderr.splitlines()[-1].startswith("error: ")
        return done.returncode

    assert code("trainer.labelled_batch=25") == 2
    assert code("dataset.labels_per_class=1000") == 3
    assert code("dataset=folder", f"dataset.path={tmp_path}/nowhere") == 3
    assert code("encoder=conv", "dataset.image_size=16") == 2


def test_local_run_on_the_command_line_needs_no_ray(cli, tmp_path):
    program = tmp_path / "sitecustomize.py"
    program.write_text(
        "import sys\n"
        "class NoRay:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ray' or name.startswith('ray.'): raise ImportError('ray must not be imported')\n"
        "sys.meta_path.insert(0, NoRay())\n"
    )
    done = cli("jobs.train", f"storage={tmp_path}", *SMALL, "trainer.epochs=2", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2 and all(word in epochs[0] for word in ("loss", "images/s", "validation linear", "left"))
    assert "raw pixels" in done.stdout and lines[-1].startswith("  run folder: ")


def test_wandb_offline_keeps_a_real_run_file(storage, tmp_path):
    driver.train(small(storage, "tracked", "tracking=wandb", "tracking.mode=offline", "trainer.epochs=1"))
    files = list((storage / "tracked" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 1000


def test_a_termination_signal_saves_in_mid_epoch_and_ends_with_130(tmp_path):
    # Later settings win: epochs long enough to be stopped in the middle of one.
    words = [f"storage={tmp_path}", *SMALL, "trainer.epochs=1000", "trainer.steps_per_epoch=200"]
    command = [sys.executable, "-m", "jobs.train", *words, "name=run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any(line.startswith("epoch") for line in iter(process.stdout.readline, ""))
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command resumes" in errors, errors
    stopped = Checkpoints(tmp_path / "run" / "checkpoints").newest()
    assert stopped.step % 200
    driver.train(config.load([*words, "name=straight", f"debug.steps={stopped.step}"]))
    straight = arrays(tmp_path / "straight")
    assert all(np.array_equal(value, straight[name]) for name, value in stopped.state().items())
    assert clean(read_rows(tmp_path / "run" / "metrics.jsonl")) == clean(
        read_rows(tmp_path / "straight" / "metrics.jsonl")
    )
