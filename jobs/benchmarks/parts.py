"""The parts of `python -m jobs.benchmark`, each a function from a configuration to figures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobs.benchmarks import ceiling, data, neighbours, step
from jobs.benchmarks.ordinary import ordinary_steps
from jobs.benchmarks.report import Row
from jobs.benchmarks.timing import difference, figure, in_turns, ratio
from jobs.benchmarks.trace import operation_seconds
from jobs.build import policies
from semisup_core.devices import set_precision
from semisup_core.evaluation.embed import BATCH
from semisup_core.policy import NONE

_GIGA = 1e-9
_COLOURS = ("brightness", "contrast", "saturation", "hue")
_CALL = 0.8  # seconds that one timed call should take at least
_FEWEST = 3  # rounds of the parts that time much beside the step
_TRACES, _KINDS = 3, 8  # of the profiler, and how many kinds of operations of each are shown
_OVERLAPPING = "all threads together, so the sum may exceed the step"


def the_step(training: step.Training, seconds: float) -> list[Row]:
    """Parts (a) and (b): the ceiling, the step, and the ordinary way of writing it where there is one."""
    steps = steps_a_call(training)
    functions: dict[str, Callable[[], Any]] = {
        **ceiling.products(),
        "step": step.whole(training, training.iterators(), steps),
    }
    if yardstick := _ordinary(training, steps):
        functions["ordinary"] = yardstick
    times = in_turns(functions, seconds)
    precision = "bfloat16" if training.config.trainer.precision == "mixed_bfloat16" else "float32"
    flops, own = step.operations(training) * steps, np.array(times["step"])
    rows = [
        Row("ceiling", name, figure(times[name]).inverse(ceiling.operations() * _GIGA), "GFLOP/s", "matrix product")
        for name in ("float32", "bfloat16")
    ]
    ceilings = ceiling.operations() / np.array(times[precision])
    rows += [
        Row("step", "time", figure(own / steps).scaled(1e3), "ms", training.config.trainer.precision),
        Row("step", "views", figure(own).inverse(training.views * steps), "1/s", f"{training.views} a step"),
    ]
    if flops:
        each = f"{flops / steps * _GIGA:.0f} a step"
        rows += [
            Row("step", "arithmetic", figure(own).inverse(flops * _GIGA), "GFLOP/s", each),
            Row("step", "of the ceiling", figure(flops / own / ceilings), "", f"of the product in {precision}"),
        ]
    if yardstick:
        words = "the same step written the ordinary way, in float32, under model.fit"
        rows += [
            Row("step", "ordinary", figure(times["ordinary"]).inverse(training.views * steps), "1/s", words),
            Row("step", "times the ordinary", ratio(times["ordinary"], own)),
        ]
    return rows


def _ordinary(training: step.Training, steps: int) -> Callable[[], Any] | None:
    config, plan = training.config, training.plan
    strong, drawn = policies(config)["strong"], ("min_area", "ratio", "flip", *_COLOURS)
    known = {name: getattr(NONE, name) for name in drawn}
    comparable = (
        config.method.name == "suncet"
        and not config.method.projection
        and config.method.supervised_weight == 1.0
        and config.encoder.name == "conv"
        and config.encoder.pool == "flatten"
        and not config.encoder.batch_norm
        and not config.encoder.output_relu
        and config.optimizer.name == "adam"
        and dataclasses.replace(strong, **known) == NONE  # it draws nothing else
        and plan.labelled_batch == plan.unlabelled_batch
        and training.strategy.num_replicas_in_sync == 1
    )
    if not comparable:
        return None
    rows = np.arange(min(len(training.store), 4 * plan.unlabelled_batch))
    set_precision("float32")
    try:
        return ordinary_steps(
            training.store.read(rows),
            training.store.labels[rows],
            policy=strong,
            width=config.encoder.width,
            batch=plan.unlabelled_batch,
            temperature=config.method.temperature,
            learning_rate=config.optimizer.learning_rate,
            steps=steps,
        )
    finally:
        set_precision(config.trainer.precision)


def stages(training: step.Training, seconds: float) -> list[Row]:
    """Part (c): where the time of a step goes, by differences of steps that end early."""
    steps, names = steps_a_call(training), list(step.STAGES)
    if training.strategy.num_replicas_in_sync == 1:
        names.remove("collectives")
    held = training.iterators(held=True)
    functions = {name: step.until(training, name, held, steps) for name in names}
    functions["held"] = step.whole(training, held, steps)
    functions["whole"] = step.whole(training, iterators := training.iterators(), steps)
    functions["one a call"] = step.one_a_call(training, iterators, steps)
    times = {name: np.array(values) / steps for name, values in in_turns(functions, seconds, _FEWEST).items()}
    parts = {names[0]: times[names[0]]}
    parts |= {name: times[name] - times[before] for before, name in zip(names, names[1:], strict=False)}
    parts["rest"] = times["held"] - times["update"]
    parts["input wait"] = times["whole"] - times["held"]
    words = {
        "update": "optimiser",
        "rest": "metrics, what follows the update",
        "input wait": "with the pipeline, less with one batch held in memory",
    }
    rows = [Row("stages", name, figure(values * 1e3), "ms", words.get(name, "")) for name, values in parts.items()]
    host = difference(times["one a call"], times["whole"]).scaled(1e3)
    rows.append(Row("stages", "host", host, "ms", "what a call costs: one step a call, less many"))
    return rows + _traced(functions["held"], steps)


def _traced(run: Callable[[], Any], steps: int) -> list[Row]:
    """The kinds of operations that a step spends most time in, by TensorFlow's profiler."""
    traces = [operation_seconds(run) for _ in range(_TRACES)]
    kinds = list(traces[0])
    rows: list[Row] = []
    for kind in kinds[:_KINDS]:
        milliseconds = [1e3 * trace.get(kind, 0.0) / steps for trace in traces]
        rows.append(Row("stages", f"trace: {kind}", figure(milliseconds), "ms", _OVERLAPPING if not rows else ""))
    rest = [1e3 * sum(trace.get(kind, 0.0) for kind in kinds[_KINDS:]) / steps for trace in traces]
    return [*rows, Row("stages", "trace: other operations", figure(rest), "ms")]


def the_input(training: step.Training, seconds: float) -> list[Row]:
    """Part (d): the pipeline alone, and bare reading, beside what a step consumes; and making a store of files."""
    steps = steps_a_call(training)
    functions = {
        "pipeline": data.pipeline(training, steps),
        "random rows": data.random_rows(training, training.images),
        **data.preparation(Path(training.config.storage) / "files", training.config.dataset.image_size),
        "step": step.whole(training, training.iterators(), steps),
    }
    times = in_turns(functions, seconds, _FEWEST)
    reading, own = np.array(times["random rows"]), np.array(times["step"]) / steps
    return [
        Row("input", "pipeline", figure(times["pipeline"]).inverse(training.images * steps), "images/s"),
        Row("input", "random rows", figure(reading).inverse(training.images), "images/s", "one thread"),
        Row("input", "the step reads", figure(own).inverse(training.images), "images/s"),
        Row("input", "random rows, times the step", figure(own / reading)),
        Row("input", "preparation", figure(times["preparation"]).inverse(data.FILES), "images/s", "JPEG of 480 x 360"),
        Row("input", "a plain loop", figure(times["plain"]).inverse(data.FILES), "images/s", "PIL, one thread"),
        Row("input", "preparation, times the loop", ratio(times["plain"], times["preparation"])),
    ]


def evaluation(training: step.Training, seconds: float, bank: int = 50_000, queries: int = 2_000) -> list[Row]:
    """Part (e): images embedded a second, beside the forward pass alone, and kNN queries a second."""
    images = 8 * BATCH
    times = in_turns(neighbours.embedding(training.method.export_encoder(), training.store, images), seconds, _FEWEST)
    embedded = [
        Row("knn", "embedding", figure(times["embedding"]).inverse(images), "images/s", "float32, from the store"),
        Row("knn", "embedding, to the forward pass", ratio(times["forward"], times["embedding"])),
    ]
    times = in_turns(neighbours.searches(bank, queries), seconds, _FEWEST)
    words = f"{neighbours.K} of {bank:,} x 128"
    rows = [Row("knn", name, figure(values).inverse(queries), "queries/s", words) for name, values in times.items()]
    return [*embedded, *rows] + [
        Row("knn", f"semisup_core, times {name}", ratio(values, times["semisup_core"]))
        for name, values in times.items()
        if name != "semisup_core"
    ]


def steps_a_call(training: step.Training) -> int:
    """As many steps as make timing one call worth it; compiles, too."""
    iterators = training.iterators()
    step.whole(training, iterators, 1)()
    (seconds,) = in_turns({"step": step.whole(training, iterators, 1)}, 0.0, fewest=1)["step"]
    return max(1, min(50, round(_CALL / seconds)))
