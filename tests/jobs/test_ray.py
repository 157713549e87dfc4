"""Runs under a real Ray cluster on this machine."""

import json

import pytest

from jobs import config, driver
from jobs.tracking import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

SMALL = [
    "encoder=conv",
    "encoder.width=8",
    "method.projection=[8]",
    "trainer.epochs=2",
    "trainer.steps_per_epoch=4",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.precision=float64",
]


def losses(run):
    return [row["train/loss"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]


def test_two_workers_compute_the_run_of_one_process(cli, tmp_path):
    two = cli("jobs.train", f"storage={tmp_path}", "name=two", "runtime.num_workers=2", *SMALL, timeout=380)
    assert two.returncode == 0, two.stdout + two.stderr
    driver.train(config.load([f"storage={tmp_path}", "name=local", "runtime=local", *SMALL]))
    assert "2 replicas" in two.stdout and two.stdout.count("\nepoch ") == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "local"), rel=1e-9)
    of_two, of_local = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("two", "local"))
    assert of_two["test"] == of_local["test"] and of_two["complete"]


@pytest.mark.parametrize(
    "overrides, code, words",
    [
        (["runtime.num_workers=3"], 2, "trainer.unlabelled_batch"),
        (["runtime.gpus_per_worker=99"], 2, "runtime.gpus_per_worker"),
        (["runtime.address=127.0.0.1:1"], 5, "runtime.address"),
    ],
)
def test_what_cannot_run_is_refused_before_a_worker_starts(cli, tmp_path, overrides, code, words):
    done = cli("jobs.train", f"storage={tmp_path}", *SMALL, *overrides)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_an_error_of_the_run_ends_it_with_its_exit_code(cli, tmp_path):
    done = cli(
        "jobs.train",
        f"storage={tmp_path}",
        *SMALL,
        "optimizer.name=sgd",
        "optimizer.learning_rate=1e300",
        "optimizer.weight_decay=1e300",
        "optimizer.warmup_epochs=0",
        timeout=380,
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "the loss of step" in done.stderr.splitlines()[-1]
