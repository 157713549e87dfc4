"""Test accuracy of every kept checkpoint, measured after a run: `test_curves.jsonl`.

Test images select nothing: the training code never imports this module, and only `jobs.plot` reads the file (a test
holds both).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.build import build_training
from jobs.checkpoint import Checkpoint
from jobs.errors import ConfigError
from jobs.plan import Plan, make_plan
from jobs.storage import write_text
from jobs.tracking import read_rows
from jobs.trained import Trained
from semisup_core.devices import make_strategy, set_precision
from semisup_core.errors import DataError
from semisup_core.evaluation.evaluator import Evaluator
from semisup_core.evaluation.protocols import Measured

_FILE = "test_curves.jsonl"


def read_test_curves(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run folder's file (step, epoch, protocol, accuracy, interval, …); none where there is no file."""
    return read_rows(folder / _FILE)


def measure_every_epoch(trained: Trained, protocols: Sequence[str], say: Callable[[str], Any]) -> Path:
    """Measures the kept checkpoints of whole epochs on test; those measured before are not measured again.

    Args:
        trained: the run, which need not be finished.
        protocols: names; none for those of the run.
        say: prints a line.

    Returns:
        The file, rewritten whole after every epoch.

    Raises:
        ConfigError: no checkpoint is kept, or the run has no classifier to measure.
        DataError: there are no test images.
    """
    config, folder = trained.config, trained.folder
    if not len(trained.split.test):
        raise DataError(f"{folder.name}: expected test images, its split has none")
    if "classifier" in protocols and not config.has_classifier:
        raise ConfigError(f"protocols: {config.method.name} of {folder.name} trains no classifier; leave it out")
    plan = make_plan(config, trained.split, len(trained.store.class_names), replicas=1)
    kept = [entry for entry in folder.checkpoints.usable(say) if not entry.step % plan.steps_per_epoch]
    if not kept:
        raise ConfigError(f"{folder.name}: expected checkpoints of whole epochs in {folder.url}, found none")
    say(f"{len(kept)} of {config.trainer.epochs} epochs are kept; checkpoint.keep=all keeps every one")
    digests = {entry.step: entry.digest for entry in kept}
    rows = {
        (row["step"], row["protocol"]): row
        for row in read_test_curves(folder.path)
        if digests.get(row["step"], row["checkpoint"]) == row["checkpoint"]
    }
    asked = protocols or config.evaluation.protocols
    todo = [(entry, [name for name in asked if (entry.step, name) not in rows]) for entry in kept]
    todo = [(entry, missing) for entry, missing in todo if missing]
    for entry, results in _measured(trained, plan, todo):
        epoch = entry.step // plan.steps_per_epoch
        for result in results:
            row = {"step": entry.step, "epoch": epoch, "checkpoint": entry.digest, **result._asdict()}
            rows[entry.step, result.protocol] = row
        write_text(folder.path / _FILE, "".join(json.dumps(rows[key]) + "\n" for key in sorted(rows)))
        say(f"epoch {epoch}  test  " + "  ".join(f"{result.protocol} {result.accuracy:.3f}" for result in results))
    written = f"{'written' if todo else 'nothing new'}: {folder.shown(folder.path / _FILE)}"
    say(f"{written}; python -m jobs.plot {folder.url} draws it")
    return folder.path / _FILE


def _measured(
    trained: Trained, plan: Plan, todo: list[tuple[Checkpoint, list[str]]]
) -> Iterator[tuple[Checkpoint, list[Measured]]]:
    """Puts one checkpoint after another into the run's method and measures it."""
    if not todo:
        return
    set_precision(trained.config.trainer.precision)
    # Nothing is trained, so it may be measured on any number of devices.
    plain = replace(trained.config, trainer=replace(trained.config.trainer, xla=False))
    method, trainer = build_training(plain, trained.store, plan, make_strategy())
    evaluator = Evaluator(method, trained.store, trained.split)
    for entry, protocols in todo:
        trainer.load_state(entry.state(), entry.step)
        yield entry, evaluator.measure("test", protocols)
