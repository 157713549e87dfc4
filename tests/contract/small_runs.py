"""Runs at small scale through the real pipeline, augmenters and trainer, on any number of replicas and processes.

Imported by the tests, by processes that they start and by Ray workers; `python small_runs.py JOB.json` is one process.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

STEPS = 20
TOLERANCE = 1e-9  # in float64, relative, of losses and of weights after STEPS
# At the usual rate, a deep network with BatchNorm magnifies rounding, on one device too: docs/correctness.md.
_SMALL_STEPS = "optimizer.learning_rate=1e-5"
# One narrow network of every family.
NARROW = {
    "conv": ["encoder=conv", "encoder.width=8"],
    "resnet18": ["encoder=resnet18", "encoder.width=4"],
    "resnet50": ["encoder=resnet50", "encoder.width=2", _SMALL_STEPS],
    "wide_resnet28_2": ["encoder=wide_resnet28_2", "encoder.width=2"],
    "keras_application": ["encoder=keras_application", "encoder.backbone=MobileNet", _SMALL_STEPS],
}
# What a method's settings may have and a small run has smaller: heads, which would take most of the time at the papers'
# size; a queue that is full after three steps; a threshold that an untrained network passes for some images only.
_SMALLER = {"projection": "[32,16]", "prediction": "[32]", "queue_size": "40", "threshold": "0.3"}
# Everything that could depend on the number of replicas is on: BatchNorm, heads, clipping, weight decay, warm-up.
_COMMON = [
    "runtime=local",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.steps_per_epoch=6",
    "trainer.epochs=5",
    "optimizer.clip=0.5",
    "optimizer.weight_decay=0.01",
    "optimizer.warmup_epochs=1",
    "augmentation=natural",
    "augmentation.strong.rotation=10",
    "dataset.image_size=32",
]


def words(method, encoder="conv", precision="float64"):
    """The command line of a small run."""
    from semisup_core.methods import METHODS

    fields = dataclasses.fields(METHODS[method][0])
    smaller = [f"method.{field.name}={_SMALLER[field.name]}" for field in fields if field.name in _SMALLER]
    return [f"method={method}", *NARROW[encoder], *_COMMON, *smaller, f"trainer.precision={precision}"]


class SmallRun:
    """A method under training, as the worker loop builds it."""

    def __init__(self, config, store, strategy, *, rank=0, world_size=1, initial=None):
        from jobs.build import build_streams, build_training
        from jobs.plan import make_plan
        from jobs.prepare import split_of
        from semisup_core.devices import set_precision

        set_precision(config.trainer.precision)
        self.config, self.store, self.strategy = config, store, strategy
        self.split = split_of(config, store)
        self.plan = make_plan(config, self.split, len(store.class_names), strategy.num_replicas_in_sync)
        self.streams = build_streams(config, store, self.split, self.plan)
        self.method, self.trainer = build_training(config, store, self.plan, strategy, initial)
        self._place, self._iterators = (rank, world_size), None

    def run(self, steps, per_call=5):
        """The losses of the next steps."""
        return self.logs(steps, per_call)["loss"]

    def logs(self, steps, per_call=5):
        """Everything logged in the next steps: name -> (steps,)."""
        from jobs.build import build_iterators

        if self._iterators is None:
            self._iterators = build_iterators(self.store, self.streams, self.strategy, self.trainer.step, *self._place)
        calls = [min(per_call, steps - done) for done in range(0, steps, per_call)]
        logs = [self.trainer.run(self._iterators, call) for call in calls]
        return {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}

    def weights(self):
        """The state without the optimiser's."""
        return {k: v for k, v in self.trainer.state().items() if not k.startswith("optimizer")}

    def copies(self):
        """The whole state of each replica of this process, a list of dicts."""
        variables = self.trainer.variables()
        parts = {
            name: [copy.numpy() for copy in self.strategy.experimental_local_results(variable.value)]
            for name, variable in variables.items()
        }
        return [{name: copies[i] for name, copies in parts.items()} for i in range(len(next(iter(parts.values()))))]


def distance(a, b):
    """|a - b| / |b| over all arrays of two states."""
    assert a.keys() == b.keys()
    difference = sum(np.sum((a[name] - b[name]) ** 2.0) for name in b)
    return float(np.sqrt(difference / sum(np.sum(np.square(b[name], dtype=np.float64)) for name in b)))


class Outcome(NamedTuple):
    """What a run ended with.

    Attributes:
        logs: name -> (steps,), the loss and what the method logs beside it.
        replicas: the state of each replica of all processes.
    """

    logs: dict
    replicas: list

    def weights(self):
        """Of the first replica, without the optimiser's."""
        return {k: v for k, v in self.replicas[0].items() if not k.startswith("optimizer")}


def outcome(run, steps=STEPS):
    """Takes steps and looks at what they lead to."""
    return Outcome(run.logs(steps), run.copies())


def check_equal(many, one):
    """The promise: several replicas compute the run of one, and all their copies are the same, bit for bit."""
    pairs = {name: (many.logs[name], values) for name, values in one.logs.items()}
    different = [name for name, pair in pairs.items() if not np.allclose(*pair, rtol=TOLERANCE, atol=0)]
    assert not different, f"logged values differ: {different}"
    assert distance(many.weights(), one.weights()) <= TOLERANCE, "weights"
    first, *others = many.replicas
    assert others, "only one replica"
    different = [name for name in first if any(not np.array_equal(first[name], other[name]) for other in others)]
    assert not different, f"copies differ: {different}"


def run_job(job, rank=0, world_size=1):
    """Runs every case of a job and writes its outcome in this process.

    Args:
        job: "cases", name -> command line; "folder", which gets CASE.rankN.npz and threads.rankN, how many threads this
            process has in the end; "store", the path of the prepared store; "logical_devices"; "optimize_graphs".
        rank: of this process.
        world_size: processes.
    """
    import keras
    import tensorflow as tf

    from jobs.config import load
    from semisup_core.data.store import open_store
    from semisup_core.devices import make_strategy, set_precision

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not job["optimize_graphs"]})
    set_precision("float64")
    strategy = make_strategy(world_size, job.get("logical_devices", 1))  # a process can have no second one
    store, folder = open_store(Path(job["store"])), Path(job["folder"])
    for name, line in job["cases"].items():
        keras.utils.clear_session()  # graphs of the case before would fill the memory
        ended = outcome(SmallRun(load(line), store, strategy, rank=rank, world_size=world_size))
        arrays = {f"{i}:{key}": value for i, copy in enumerate(ended.replicas) for key, value in copy.items()}
        logs = {f"logs:{key}": value for key, value in ended.logs.items()}
        np.savez(folder / f"{name}.rank{rank}.npz", **logs, **arrays)
    (folder / f"threads.rank{rank}").write_text(str(len(os.listdir("/proc/self/task"))))


def read_outcome(folder, case):
    """What `run_job` wrote in all processes."""
    replicas = []
    for path in sorted(Path(folder).glob(f"{case}.rank*.npz")):
        with np.load(path) as arrays:
            parts = {}
            for name in arrays.files:
                part, _, key = name.partition(":")
                parts.setdefault(part, {})[key] = arrays[name]
        logs = parts.pop("logs")
        replicas += [parts[i] for i in sorted(parts)]
    return Outcome(logs, replicas)


def main(job_file):
    """One process of a job; its place among several stands where tf.distribute looks for it."""
    rank, world_size = 0, 1
    if "TF_CONFIG" in os.environ:
        task = json.loads(os.environ["TF_CONFIG"])
        rank, world_size = task["task"]["index"], len(task["cluster"]["worker"])
    run_job(json.loads(Path(job_file).read_text()), rank, world_size)


if __name__ == "__main__":
    main(sys.argv[1])
