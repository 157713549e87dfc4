"""Numbers that follow from the configuration and the data: batch sizes and step counts."""

from dataclasses import dataclass

import numpy as np

from jobs.errors import ConfigError
from jobs.schema import RunConfig
from semisup_core.data.sampling import nearest_multiples
from semisup_core.data.splits import Split

_USUAL_BATCH = 256
_USUAL_WARMUP = 5.0  # epochs; a tenth of a short run
_MOST_CLASSES = 128  # of a derived labelled batch; beyond that each batch draws its classes


@dataclass(frozen=True)
class Plan:
    """What the loop counts with; all sizes are global.

    Attributes:
        unlabelled_batch: B.
        labelled_batch: S.
        classes_per_batch: classes in a balanced labelled batch.
        steps_per_epoch: optimiser steps an epoch.
        total_steps: of the whole run.
        warmup_steps: of the learning rate.
    """

    unlabelled_batch: int
    labelled_batch: int
    classes_per_batch: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int


def make_plan(config: RunConfig, split: Split, num_classes: int, replicas: int) -> Plan:
    """Derives the plan and checks it against the data and the replicas.

    Args:
        config: the run.
        split: its rows.
        num_classes: C.
        replicas: R, over all workers.

    Raises:
        ConfigError: a batch that the pool or R does not allow; names the nearest sizes that work.
    """
    trainer, dataset = config.trainer, config.dataset
    unlabelled = trainer.unlabelled_batch or _power_of_two(min(_USUAL_BATCH, len(split.unlabelled)))
    classes = min(dataset.classes_per_batch or _MOST_CLASSES, num_classes)
    if dataset.classes_per_batch and dataset.classes_per_batch > num_classes:
        raise ConfigError(
            f"dataset.classes_per_batch: expected at most {num_classes}, the data set's classes, "
            f"got {dataset.classes_per_batch}"
        )
    per_class = _power_of_two(min(_USUAL_BATCH // classes, len(split.labelled) // num_classes))
    labelled = trainer.labelled_batch or classes * max(per_class, 2)
    uses = config.pools
    if "unlabelled" in uses:
        _check_pool(unlabelled, len(split.unlabelled))
        _check_divides("trainer.unlabelled_batch", unlabelled, replicas, 1)
    if "labelled" in uses:
        _check_divides("trainer.labelled_batch", labelled, replicas, classes if dataset.balanced else 1)
    steps = trainer.steps_per_epoch or max(len(split.unlabelled) // unlabelled, 1)
    return Plan(unlabelled, labelled, classes, steps, steps * trainer.epochs, round(_warmup_epochs(config) * steps))


def check_workers(config: RunConfig, split: Split, num_classes: int, replicas: dict[int, int]) -> None:
    """Checks the plan with every number of workers that the run may have.

    Args:
        config: the run.
        split: its rows.
        num_classes: C.
        replicas: number of workers -> R.

    Raises:
        ConfigError: as `make_plan`; where only some numbers fit, it names the longest ranges of those that do.
    """
    errors: dict[int, ConfigError] = {}
    for workers, count in replicas.items():
        try:
            make_plan(config, split, num_classes, count)
        except ConfigError as error:
            errors[workers] = error
    if not errors:
        return
    wrong = next(iter(errors))
    if len(replicas) == 1:
        raise errors[wrong]
    ranges = _ranges([workers for workers in replicas if workers not in errors])
    longest = max((len(fitting) for fitting in ranges), default=0)
    fits = " or ".join(f"[{fitting[0]},{fitting[-1]}]" for fitting in ranges if len(fitting) == longest)
    such_as = f"such as {fits}" if fits else "which none of these does"
    raise ConfigError(
        f"runtime.num_workers: expected a range in which every number of workers divides the batches, {such_as}, "
        f"got {config.runtime.asked}; with {wrong}: {errors[wrong]}"
    ) from errors[wrong]


def _ranges(numbers: list[int]) -> list[list[int]]:
    """Ascending numbers, split where one is missing."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ranges


def _warmup_epochs(config: RunConfig) -> float:
    chosen = config.optimizer.warmup_epochs
    return min(_USUAL_WARMUP, config.trainer.epochs / 10) if chosen is None else chosen


def _power_of_two(limit: int) -> int:
    return 1 << (max(limit, 1).bit_length() - 1)


def _check_pool(batch: int, pool: int) -> None:
    if batch > pool:
        raise ConfigError(
            f"trainer.unlabelled_batch: expected at most {pool}, the images of the unlabelled pool, "
            f"got {batch}; set it to {_power_of_two(pool)}"
        )


def _check_divides(key: str, batch: int, replicas: int, classes: int) -> None:
    unit = int(np.lcm(replicas, classes))
    if batch % unit:
        why = [f"{replicas} replicas"] if replicas > 1 else []
        why += [f"{classes} classes of equal share"] if classes > 1 else []
        near = " or ".join(map(str, nearest_multiples(batch, unit)))
        raise ConfigError(f"{key}: expected a multiple of {unit} ({' and '.join(why)}), got {batch}; set it to {near}")
