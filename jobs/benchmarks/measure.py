"""All parts of a benchmark, one after the other, with what they ran on."""

from collections.abc import Sequence
from pathlib import Path

from jobs.benchmarks import parts, step, whole_runs
from jobs.benchmarks.images import with_random_images
from jobs.benchmarks.report import Row, table, write_report
from jobs.config import to_dict
from jobs.folder import environment
from jobs.schema import RunConfig
from semisup_core.devices import device_names, processor, set_precision, threads

_SECONDS = {"step": 20.0, "stages": 18.0, "input": 5.0, "knn": 4.0}
_THOROUGH = 5  # times as long
_EPOCH = 10  # times as long as a timed call is an epoch beside which the overheads of a run are measured


def measure(config: RunConfig, chosen: Sequence[str], scratch: Path, output: Path, thorough: bool) -> None:
    """Measures, prints a table, and writes benchmark.json with a picture a part.

    Args:
        config: what to measure.
        chosen: parts.
        scratch: an empty folder for random images and short runs.
        output: the folder to write into.
        thorough: take longer.
    """
    set_precision(config.trainer.precision)
    config = with_random_images(config, scratch)
    training = step.make_training(config)
    name, fast = processor()
    print(
        f"{config.method.name}, {config.encoder.name}, {config.dataset.image_size} px, {config.trainer.precision}, "
        f"{training.views} views a step; random images; {', '.join(device_names())}, {name}, {threads()} threads"
        f"{', '.join(['', *fast])}; medians and their 95 % intervals (of fewer than six values, all of them), "
        "all functions of a part timed in turns",
        flush=True,
    )
    facts = {"environment": environment(), "devices": device_names(), "processor": name, "instructions": fast}
    seconds = {name: value * (_THOROUGH if thorough else 1) for name, value in _SECONDS.items()}
    rows: list[Row] = []
    repeats = 3 if thorough else 1
    for part in chosen:
        if part == "step":
            found = parts.the_step(training, seconds[part])
        elif part == "stages":
            found = parts.stages(training, seconds[part])
        elif part == "input":
            found = parts.the_input(training, seconds[part])
        elif part == "knn":
            found = parts.evaluation(training, seconds[part])
        elif part == "batch":
            found = whole_runs.largest_batch(training)
        elif part == "overheads":
            found = whole_runs.overheads(training, _EPOCH * parts.steps_a_call(training), repeats)
        else:
            found = whole_runs.starts_and_scale(training, max(3, min(10, parts.steps_a_call(training))), repeats)
        print(table(found), flush=True)
        rows += found  # written after every part, so that one that fails loses no other
        write_report(rows, {**facts, "threads": threads(), "config": to_dict(config)}, output)
