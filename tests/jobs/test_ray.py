"""Runs under a real Ray cluster on this machine."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from jobs import cluster, config, driver
from jobs.checkpoint import Checkpoints
from jobs.errors import ConfigError
from jobs.folder import RunFolder
from jobs.resources import shares
from jobs.storage import open_storage
from jobs.tracking import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]

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


def test_two_workers_resume_and_compute_the_run_of_one_process(cli, tmp_path):
    # Two workers take over in mid-epoch what one process began.
    driver.train(config.load([f"storage={tmp_path}", "name=two", "runtime=local", *SMALL, "debug.steps=3"]))
    two = cli("jobs.train", f"storage={tmp_path}", "name=two", "runtime.num_workers=2", *SMALL, timeout=380)
    assert two.returncode == 0, two.stdout + two.stderr
    assert "resuming after step 3 of 8" in two.stdout
    driver.train(config.load([f"storage={tmp_path}", "name=local", "runtime=local", *SMALL]))
    assert "2 replicas" in two.stdout and two.stdout.count("\nepoch ") == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "local"), rel=1e-9)
    of_two, of_local = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("two", "local"))
    assert of_two["test"] == of_local["test"] and of_two["complete"]
    weights = [Checkpoints(tmp_path / name / "checkpoints").newest().state() for name in ("two", "local")]
    difference = sum(np.sum((weights[0][key] - weights[1][key]) ** 2) for key in weights[1])
    assert np.sqrt(difference / sum(np.sum(value**2) for value in weights[1].values())) <= 1e-9


def test_nothing_waits_for_a_dashboard_or_hands_out_data(tmp_path):
    """Ray's trainer comes with a cleaner that does, for 12 seconds where there is none, and with an actor for data."""
    from ray.train.tensorflow import TensorflowTrainer

    run = config.load([f"storage={tmp_path}", "name=quick"])
    trainer = cluster._trainer(
        run, RunFolder(tmp_path / "quick", open_storage(str(tmp_path))), {"cpus": 1}, 0, private=True
    )
    of_ray, ours = (
        [type(callback).__name__ for callback in make(trainer)]
        for make in (TensorflowTrainer._create_default_callbacks, type(trainer)._create_default_callbacks)
    )
    left_out = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
    assert ours == [name for name in of_ray if name not in left_out] and left_out <= set(of_ray)


PRIVATE = """
import os
import ray
from ray.experimental import internal_kv
from jobs import cluster, config, console, driver

driver.train(config.load({words}), keep_cluster=True)
print(*sorted(actor["ActorClassName"] for actor in ray._private.state.actors().values()))
print(internal_kv._internal_kv_list("", namespace=console._NAMESPACE))
print(not set(cluster._PRIVATE_ENVIRONMENT) & set(os.environ))
nice = ray.remote(lambda: os.nice(0))
of_a_worker = nice.options(runtime_env={{"env_vars": cluster._PRIVATE_WORKER_ENVIRONMENT}})
print(os.nice(0), ray.get(of_a_worker.remote()), ray.get(nice.remote()) > os.nice(0))
ours = console.Console()
for number in range(3):
    ours.write(str(number))
ours.measure(number)
ours.fail(ValueError("first"))
ours.fail(ValueError("second"))
ours.miss(OSError("first"))
ours.miss(OSError("second"))
print([*ours.read()], [*ours.read()], ours.failure(), ours.missed(), ours.stopping(), console.Console().failure())
ours.stop()
print(ours.stopping())
"""


def test_a_private_cluster_has_the_actors_that_a_run_needs_and_nothing_is_left_in_its_table(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_worker_niceness", raising=False)  # tests have it for all workers
    words = [f"storage={tmp_path}", *SMALL, "debug.steps=1"]
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE.format(words=words)], capture_output=True, text=True, timeout=200
    )
    assert done.stdout.splitlines()[-6:] == [
        "RayTrainWorker SynchronizationActor TrainController",
        "[]",
        "True",
        f"{os.nice(0)} {os.nice(0)} True",
        "['0', '1', '2', 2] [] first second False None",
        "True",
    ], done.stdout + done.stderr


@pytest.mark.parametrize(
    "overrides, code, words",
    [
        (["runtime.num_workers=3"], 2, "trainer.unlabelled_batch"),
        (["runtime.gpus_per_worker=99"], 2, "runtime.gpus_per_worker=99"),
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


def test_an_interrupt_ends_the_run_with_130_and_it_can_be_resumed(tmp_path):
    words = ["jobs.train", f"storage={tmp_path}", "name=run", *SMALL, "trainer.epochs=1000"]
    words += ["trainer.steps_per_epoch=200"]
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = iter(process.stdout.readline, "")
    assert any(line.startswith("epoch") for line in seen)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert "the same command resumes" in errors and "(a signal); the same command goes on" in output
    assert Checkpoints(tmp_path / "run" / "checkpoints").newest().step % 200  # in mid-epoch


@pytest.mark.slow
def test_a_range_of_workers_takes_what_the_cluster_has_room_for(cli, tmp_path):
    done = cli("jobs.train", f"storage={tmp_path}", "name=range", "runtime.num_workers=[1,2]", *SMALL, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 2 replicas," in done.stdout
    assert json.loads((tmp_path / "range" / "summary.json").read_text())["complete"]


@pytest.mark.slow
def test_the_stages_of_a_pipeline_share_one_cluster(cli, tmp_path):
    done = cli("jobs.pipeline", "method=simclr", f"storage={tmp_path}", "name=all", *SMALL, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "pipeline-all" / "curves.png").exists()
    assert done.stdout.count("\nepoch ") == 8


@pytest.mark.parametrize(
    "nodes, overrides, share",
    [
        ([(2, 0)], [], (2, 0)),
        ([(2, 0)], ["runtime.num_workers=2"], (1, 0)),
        ([(2, 0)], ["runtime.num_workers=3"], (0.6666, 0)),
        ([(32, 8)] * 4, [], (32, 8)),
        ([(32, 8)] * 4, ["runtime.num_workers=8"], (16, 4)),
        ([(4, 0), (8, 1), (8, 1)], ["runtime.num_workers=2"], (8, 1)),
        ([(2, 0)], ["runtime.cpus_per_worker=0.5", "runtime.num_workers=4"], (0.5, 0)),
        ([(2, 0)], ["runtime.num_workers=[1,2]"], (1, 0)),
        ([(32, 8)] * 4, ["runtime.num_workers=[2,6]"], (32, 8)),
        ([(8, 1)], ["runtime.num_workers=[1,4]"], (8, 1)),
        ([(2, 0)], ["runtime.num_workers=[4,5]"], (0.3999, 0)),  # 2 // 0.4 is 4, and so would Ray count
        ([(8, 0)], ["runtime.num_workers=[1,4]", "runtime.cpus_per_worker=3"], (3, 0)),
        ([(2, 0)], ["runtime.cpus_per_worker=2", "runtime.num_workers=2"], None),
        ([(2, 0)], ["runtime.cpus_per_worker=2", "runtime.num_workers=[2,4]"], None),
        ([(8, 1), (8, 1)], ["runtime.gpus_per_worker=2"], None),
    ],
)
def test_a_workers_share_fits_one_node(nodes, overrides, share):
    run = config.load(overrides)
    if share is None:
        with pytest.raises(ConfigError, match="does not fit"):
            shares(run, nodes)
    else:
        assert shares(run, nodes) == share
