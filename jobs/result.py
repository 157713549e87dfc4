"""What is measured in the end, and of which weights."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jobs.baselines import pixel_baselines
from jobs.checkpoint import Checkpoints
from jobs.selection import Selection
from jobs.storage import Storage
from semisup_core.data.splits import Split
from semisup_core.data.store import Store
from semisup_core.evaluation.evaluator import Evaluator
from semisup_core.evaluation.protocols import Measured
from semisup_core.trainer import Trainer


def put_in_place(best: Selection, trainer: Trainer, checkpoints: Checkpoints, say: Callable[[str], Any]) -> str:
    """Gives a trainer the best weights by validation; without validation it keeps the last ones.

    Returns:
        In words, which weights these are.
    """
    if best.step is None:
        return "last epoch"
    if best.step != trainer.step:
        kept = checkpoints.open_step(best.step)
        if kept is None:
            say(f"the checkpoint of step {best.step}, best on validation, is not usable; taking the last epoch")
            return "last epoch"
        trainer.load_state(kept.state(), kept.step)
    return f"best validation, {best.monitor} {best.value:.3f}"


def measure_test(
    storage: Storage,
    store: Store,
    split: Split,
    evaluator: Evaluator,
    protocols: Sequence[str],
    say: Callable[[str], Any],
) -> tuple[list[Measured], list[Measured]]:
    """Results of the weights in place and of raw pixels; nothing where there are no test images."""
    if not len(split.test):
        return [], []
    say(f"measuring {len(split.test)} test images, with raw pixels for comparison")
    pixels = pixel_baselines(storage, store, split, "test", protocols, partial(evaluator.measure_pixels, "test"))
    return evaluator.measure("test", protocols), pixels
