"""The one function that trains; every way in calls `worker_loop`."""

import time
from pathlib import Path
from typing import Any

from jobs import checkpoint as checkpoints
from jobs.build import build_iterator, build_streams, build_training
from jobs.folder import RunFolder
from jobs.leader import Leader
from jobs.plan import Plan, make_plan
from jobs.prepare import split_of
from jobs.runtime import Runtime
from jobs.schema import RunConfig
from semisup_core.data.store import open_store
from semisup_core.devices import make_strategy, set_precision, set_threads
from semisup_core.errors import NumericalError
from semisup_core.trainer import Trainer


def worker_loop(config: RunConfig, folder: RunFolder, store_path: Path, runtime: Runtime) -> None:
    """Trains one run to its end, from its newest good checkpoint if it has one.

    Args:
        config: the run.
        folder: described by the driver; rank 0 writes into it.
        store_path: the prepared store, readable by this worker.
        runtime: this worker's surroundings.

    Raises:
        ConfigError: the batches do not fit the data or the replicas.
        DataError: the store cannot be read.
        NumericalError: a loss is not finite; names the step and the last good checkpoint.
    """
    started = time.perf_counter()
    set_threads(runtime.cpus)
    set_precision(config.trainer.precision)
    strategy = make_strategy(runtime.world_size, config.debug.logical_devices)
    store = open_store(store_path)
    split = split_of(config, store)
    plan = make_plan(config, split, len(store.class_names), strategy.num_replicas_in_sync)
    method, trainer = build_training(config, store, plan, strategy)
    leads = runtime.rank == 0
    restored = checkpoints.newest(folder.checkpoints, runtime.say if leads else _say_nothing)
    if restored:
        trainer.load_state(restored.state(), restored.step)
    streams = build_streams(config, store, split, plan)
    leader = None
    if leads:
        leader = Leader(config, folder, store, split, plan, method, trainer, runtime.say, restored)
        leader.introduce(strategy.num_replicas_in_sync, streams, time.perf_counter() - started)
    iterator = build_iterator(store, streams, strategy, trainer.step, runtime.rank, runtime.world_size)
    _train(config, plan, trainer, iterator, runtime, leader, started)
    if leader:
        leader.finish()
    runtime.report({"step": trainer.step}, leader.last_checkpoint if leader else None)


def _train(
    config: RunConfig,
    plan: Plan,
    trainer: Trainer,
    iterator: Any,
    runtime: Runtime,
    leader: Leader | None,
    started: float,
) -> None:
    """Epoch after epoch until the plan's last step, early stopping, or the time or steps allowed are used up."""
    last = min(plan.total_steps, config.debug.steps or plan.total_steps)
    stop = False
    while trainer.step < last and not stop:
        epoch = trainer.step // plan.steps_per_epoch + 1
        end = min(epoch * plan.steps_per_epoch, last)
        if leader:
            leader.begin_epoch()
        while trainer.step < end:
            _advance(trainer, iterator, min(config.trainer.steps_per_call, end - trainer.step), leader)
        minutes = (time.perf_counter() - started) / 60
        out_of_time = config.trainer.max_minutes is not None and minutes >= config.trainer.max_minutes
        if leader:
            leader.end_epoch(epoch, last=trainer.step == last, out_of_time=out_of_time)
        stop, due = runtime.agree((leader.stopped is not None, runtime.due()) if leader else None)
        if due:
            runtime.report({"epoch": epoch, "step": trainer.step}, leader.last_checkpoint if leader else None)


def _advance(trainer: Trainer, iterator: Any, steps: int, leader: Leader | None) -> None:
    first = trainer.step
    try:
        logs = trainer.run(iterator, steps)
    except NumericalError as error:
        kept = leader.last_checkpoint if leader else None
        where = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
        raise NumericalError(
            f"{error}; {where}; try a lower optimizer.learning_rate, optimizer.clip=1, or trainer.precision=float32"
        ) from error
    if leader:
        leader.log(first, logs)


def _say_nothing(line: str) -> None:
    """Ranks other than 0 do not speak."""
