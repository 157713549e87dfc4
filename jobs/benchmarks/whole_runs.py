"""The parts of `python -m jobs.benchmark` that are real runs of `jobs.train`."""

import dataclasses
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import tensorflow as tf

from jobs.benchmarks import step
from jobs.benchmarks.images import with_random_images
from jobs.benchmarks.report import Row
from jobs.benchmarks.runs import DoesNotFitError, measure_run
from jobs.benchmarks.timing import Figure, figure, ratio
from jobs.benchmarks.turns import RunInTurns

_EPOCHS = 4
_SHORT = ["evaluation.protocols=[knn20]", "evaluation.monitor=knn20"]  # the end of a run is not what is measured
_VALIDATION = 20  # images of a class, for the evaluation of a run
_LONGEST = 120.0  # seconds of a run of the batch finder after which it doubles no more
_SPARED = 0.9  # of the memory that is free, what the batch finder may fill
_FITS = "fits"


def starts_and_scale(training: step.Training, steps: int, repeats: int) -> list[Row]:
    """Parts (f) and (g): real runs on 1 and more replicas and workers, and how each came to its first step."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    most = max(gpus, 2)
    kinds: dict[str, list[str]] = {"local": ["runtime=local"], "Ray, 1 worker": ["runtime=ray"]}
    several = {f"Ray, {most} workers": ["runtime=ray", f"runtime.num_workers={most}"]}
    if not gpus:
        several = {"local, 2 replicas": ["runtime=local", "debug.logical_devices=2"], **several}
    plan = training.plan
    batches = [f"trainer.unlabelled_batch={plan.unlabelled_batch * most}"]
    batches += [f"trainer.labelled_batch={plan.labelled_batch * most}"]
    kinds |= {f"{name}, same batch": words for name, words in several.items()}
    kinds |= {f"{name}, {most} x the batch": [*words, *batches] for name, words in several.items() if "Ray" in name}
    measured: dict[str, list[Any]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, words in kinds.items():
            measured[name].append(measure_run(training.config, *words, *_SHORT, steps=steps, epochs=2))
    rows = []
    for name in ("local", "Ray, 1 worker"):
        for phase in measured[name][0].phases:
            rows.append(Row("start", f"{name}: {phase}", figure([run.phases[phase] for run in measured[name]]), "s"))
        whole = figure([sum(run.phases.values()) for run in measured[name]])
        rows.append(Row("start", f"{name}: to the end of the first call", whole, "s", f"{steps} steps"))
    alone = np.array([run.rate for run in measured["local"]])
    for name, runs in measured.items():
        rates = [rate for run in runs for rate in run.rates]
        rows.append(Row("scale", name, figure(rates), "images/s"))
        rows.append(Row("scale", f"{name}, to local", figure(np.array([run.rate for run in runs]) / alone)))
    return rows


def overheads(training: step.Training, steps: int, repeats: int) -> list[Row]:
    """What a run costs beside its steps: the loop around them, Ray, and what one usually switches on."""
    return [*_loop_and_ray(training, max(1, steps // 4), 4 * repeats), *_extras(training, steps, repeats)]


def _loop_and_ray(training: step.Training, steps: int, rounds: int) -> list[Row]:
    iterators = training.iterators()

    def epochs() -> list[float]:
        spent = []
        for _ in range(_EPOCHS):
            begun = time.perf_counter()
            training.trainer.run(iterators, steps)
            spent.append(time.perf_counter() - begun)
        return spent

    seconds = (_EPOCHS + 1) * max(1.0, min(epochs()))  # one more, for one begins in a turn before
    runs: dict[str, RunInTurns] = {}
    loops: list[list[float]] = []
    try:
        for name, words in (("local", ["runtime=local"]), ("Ray", ["runtime=ray"])):
            runs[name] = RunInTurns(training.config, *words, steps=steps)
        for done in range(rounds):
            names = ["bare", *runs]
            for name in names[done % len(names) :] + names[: done % len(names)]:
                if name == "bare":
                    loops.append(epochs())
                else:
                    runs[name].turn(seconds)
    finally:
        turns = {name: run.end() for name, run in runs.items()}
    found = {"bare": loops, **turns}
    whole = [each for each in zip(*found.values(), strict=False) if all(each)]
    medians = {name: [median(each[i]) for each in whole] for i, name in enumerate(found)}
    how = f"in {len(whole)} turns of {seconds:.0f} s, all others stopped"
    beside = "processes but the one that trains"
    return [
        Row(
            "overheads",
            "bare loop",
            figure(medians["bare"]).inverse(training.images * steps),
            "images/s",
            "trainer.run alone",
        ),
        Row("overheads", "local run, to the bare loop", ratio(medians["bare"], medians["local"]), "", how),
        Row("overheads", "Ray run, to the bare loop", ratio(medians["bare"], medians["Ray"]), "", how),
        Row("overheads", "Ray run, to a local run", ratio(medians["local"], medians["Ray"]), "", how),
        Row("overheads", "Ray run, driver and Ray's own processes", figure(runs["Ray"].beside()), "cores", beside),
    ]


def _extras(training: step.Training, steps: int, repeats: int) -> list[Row]:
    probe = ["trainer.online_probe=true"] if not training.config.method.has_classifier else []
    everything = [*probe, "evaluation.every=1", "checkpoint.every=1", "tracking.tensorboard=true"]
    everything += [f"dataset.validation_per_class={_VALIDATION}"]
    everything += ["tracking=wandb", "tracking.mode=offline"]
    kinds = {"local": ["runtime=local"], "everything": ["runtime=local", *everything]}
    measured: dict[str, list[Any]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, words in kinds.items():
            measured[name].append(measure_run(training.config, *words, steps=steps, epochs=_EPOCHS))
    epochs = {name: [seconds for run in runs for seconds in run.epochs] for name, runs in measured.items()}
    saving, validating = (
        np.repeat([run.beside[name] for run in measured["everything"]], _EPOCHS - 1)
        for name in ("checkpoint", "validate")
    )
    whole = np.array(epochs["everything"]) + saving
    beside = "online probe, W&B, TensorBoard, a checkpoint an epoch"
    return [
        Row("overheads", "a run with everything, to a local run", ratio(epochs["local"], whole), "", beside),
        Row("overheads", "evaluation, share of an epoch", figure(validating / (whole + validating)), "", "linear, kNN"),
    ]


def largest_batch(training: step.Training, memory: int | None = None) -> list[Row]:
    """Doubles the batch until it does not fit, each in a process of its own, and says how fast each is.

    Args:
        training: its batch is the smallest.
        memory: bytes that a run may take; None for most of what is free, or for what its GPUs have.
    """
    config, plan = training.config, training.plan
    gpus, factor = tf.config.list_physical_devices("GPU"), 1
    rows: list[Row] = []
    while not rows or rows[-1].words == _FITS:
        unlabelled, labelled = factor * plan.unlabelled_batch, factor * plan.labelled_batch
        trainer = dataclasses.replace(config.trainer, unlabelled_batch=unlabelled, labelled_batch=labelled)
        larger = dataclasses.replace(config, trainer=trainer)
        free = memory or (None if gpus else int(_SPARED * psutil.virtual_memory().available))
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=config.storage) as folder:
            try:
                made = with_random_images(larger, Path(folder))
                found = figure(measure_run(made, "runtime=local", steps=1, epochs=3, memory=free).rates)
                words = _FITS if time.perf_counter() - begun < _LONGEST else "fits; larger ones take too long"
            except DoesNotFitError:
                found, words = Figure(0.0, 0.0, 0.0), "does not fit"
        rows.append(Row("batch", f"{unlabelled:,} + {labelled:,}", found, "images/s", words))
        factor *= 2
    return rows
