"""A run that stops twice and goes on in new processes is the run that never stopped."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import TOLERANCE, distance, words

from jobs.checkpoint import Checkpoints
from jobs.tracking import read_rows
from semisup_core.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent.parent
MID_EPOCH, END_OF_EPOCH = 6, 8  # of 12 steps, 4 an epoch
SHORT = [
    "trainer.epochs=3",
    "trainer.steps_per_epoch=4",
    "trainer.steps_per_call=3",
    "dataset.test_fraction=0",
    "evaluation.protocols=[knn20]",
    "evaluation.monitor=knn20",
]
MOVED = ("suncet", "moco", "fixmatch")  # from one replica to two and back
PROGRAM = """
import json, sys
from jobs import config, driver
for line in json.load(open(sys.argv[1])):
    driver.train(config.load(line))
"""

pytestmark = [pytest.mark.xdist_group("resume"), pytest.mark.timeout(900)]


def in_a_new_process(folder, lines):
    job = folder / "job.json"
    job.write_text(json.dumps(lines))
    done = subprocess.run([sys.executable, "-c", PROGRAM, job], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A storage with every method run straight, stopped twice, and moved between topologies: METHOD-KIND."""
    storage = tmp_path_factory.mktemp("resume")

    def line(method, kind, *more, precision="float32"):
        return [f"storage={storage}", f"name={method}-{kind}", *words(method, precision=precision), *SHORT, *more]

    def stopped(*more):
        return [line(method, "stopped", "trainer.steps_per_call=2", *more) for method in METHODS]

    def moved(*more):
        return [line(method, "moved", *more, precision="float64") for method in MOVED]

    def two(*more):
        return [line("moco", "stopped-two", "debug.logical_devices=2", *more)]

    straight = [line(method, "straight") for method in METHODS]
    straight += [line(method, "straight64", precision="float64") for method in MOVED]
    straight += [line("suncet", "rarely", "evaluation.every=3", "trainer.steps_per_call=1")]
    mid_epoch, end_of_epoch = f"debug.steps={MID_EPOCH}", f"debug.steps={END_OF_EPOCH}"
    in_a_new_process(storage, straight + stopped(mid_epoch) + moved(mid_epoch))
    resumed = in_a_new_process(storage, stopped(end_of_epoch))
    assert resumed.count(f"resuming after step {MID_EPOCH} of 12") == len(METHODS)
    said = in_a_new_process(storage, moved(end_of_epoch, "debug.logical_devices=2") + two(mid_epoch))
    assert said.count("2 replicas") == len(MOVED) + 1
    assert said.count(f"resuming after step {MID_EPOCH} of 12") == len(MOVED)
    resumed = in_a_new_process(storage, stopped() + moved())
    assert resumed.count(f"resuming after step {END_OF_EPOCH} of 12") == len(METHODS) + len(MOVED)
    straight_two = line("moco", "straight-two", "debug.logical_devices=2")
    resumed = in_a_new_process(storage, [*two(), straight_two])  # a process has one device or two
    assert resumed.count(f"resuming after step {MID_EPOCH} of 12") == 1
    return storage


def state(run):
    return Checkpoints(run / "checkpoints").newest().state()


def rows(run):
    """Log rows without what a clock says."""
    return [
        {key: value for key, value in row.items() if "second" not in key} for row in read_rows(run / "metrics.jsonl")
    ]


@pytest.mark.parametrize("method, kind", [*((method, "") for method in METHODS), ("moco", "-two")])
def test_the_same_topology_goes_on_bit_for_bit(runs, method, kind):
    straight, stopped = runs / f"{method}-straight{kind}", runs / f"{method}-stopped{kind}"
    ours, theirs = state(stopped), state(straight)
    assert ours.keys() == theirs.keys()
    assert not [name for name in theirs if not np.array_equal(ours[name], theirs[name])]
    assert rows(stopped) == rows(straight) and len(rows(straight)) == 12 + 3


def test_how_often_is_evaluated_and_steps_per_call_change_nothing(runs):
    rarely, straight = runs / "suncet-rarely", runs / "suncet-straight"
    ours, theirs = state(rarely), state(straight)
    assert not [name for name in theirs if not np.array_equal(ours[name], theirs[name])]
    measured = [[row for row in rows(run) if "validation/knn20" in row] for run in (rarely, straight)]
    assert [len(each) for each in measured] == [1, 3] and measured[0][-1] == measured[1][-1]


@pytest.mark.parametrize("method", MOVED)
def test_another_number_of_replicas_goes_on_within_rounding(runs, method):
    straight, moved = runs / f"{method}-straight64", runs / f"{method}-moved"
    assert distance(state(moved), state(straight)) <= TOLERANCE
    losses, moved_losses = (
        [row["train/loss"] for row in rows(run) if "train/loss" in row] for run in (straight, moved)
    )
    assert moved_losses == pytest.approx(losses, rel=TOLERANCE) and len(losses) == 12
