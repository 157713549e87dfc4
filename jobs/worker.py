"""The one function that trains; every way in calls `worker_loop`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.build import build_iterator, build_streams, build_training
from jobs.checkpoint import Checkpoint
from jobs.folder import RunFolder
from jobs.leader import Leader
from jobs.plan import Plan, make_plan
from jobs.prepare import fetched_store, split_of
from jobs.runtime import Runtime
from jobs.schema import RunConfig
from semisup_core.devices import make_strategy, set_precision, set_threads
from semisup_core.errors import DataError, NumericalError
from semisup_core.trainer import Trainer


def worker_loop(config: RunConfig, folder: RunFolder, store_name: str, runtime: Runtime) -> None:
    """Trains one run to its end, from its newest good checkpoint if it has one.

    Args:
        config: the run.
        folder: described by the driver; rank 0 writes into it.
        store_name: of the prepared store in the run's storage.
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
    store = fetched_store(folder.storage, store_name)
    split = split_of(config, store)
    plan = make_plan(config, split, len(store.class_names), strategy.num_replicas_in_sync)
    folder.fetch(whole=runtime.rank == 0)  # what rank 0 writes must not be fetched over by its neighbours
    method, trainer = build_training(config, store, plan, strategy, folder.initial_encoder)
    restored = _restored(folder, runtime)
    if restored:
        trainer.load_state(restored.state(), restored.step)
    streams = build_streams(config, store, split, plan)
    leader = None
    if runtime.rank == 0:
        leader = Leader(config, folder, store, split, plan, method, trainer, runtime.say, restored)
        leader.introduce(strategy.num_replicas_in_sync, streams, time.perf_counter() - started)
    iterator = build_iterator(store, streams, strategy, trainer.step, runtime.rank, runtime.world_size)
    paused = _train(config, plan, trainer, iterator, runtime, leader, started)
    if leader and not paused:
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
) -> bool:
    """Epoch after epoch until the plan's last step, early stopping, the time or steps allowed are used up, or a signal.

    Returns:
        Whether the run was paused before its end, by debug.steps or a signal.
    """
    last = min(plan.total_steps, config.debug.steps or plan.total_steps)
    stop = runtime.agree(leader.stopped is not None if leader else None)
    while trainer.step < last and not stop:
        epoch = trainer.step // plan.steps_per_epoch + 1
        epoch_end = epoch * plan.steps_per_epoch
        end = min(epoch_end, last)
        if leader:
            leader.begin_epoch()
        while trainer.step < end and not trainer.stop_asked:
            steps = min(config.trainer.steps_per_call, end - trainer.step)
            _advance(trainer, iterator, steps, leader, runtime.stop_asked())
        _check_finite(trainer, leader)
        if leader and trainer.step == epoch_end:
            leader.end_epoch(epoch, last=epoch_end == plan.total_steps, minutes=(time.perf_counter() - started) / 60)
        stop, due = runtime.agree((leader.stopped is not None, runtime.due()) if leader else None)
        if due:
            runtime.report({"epoch": epoch, "step": trainer.step}, leader.last_checkpoint if leader else None)
        if trainer.stop_asked:
            break
    paused = trainer.step < plan.total_steps and not stop
    if leader and paused:
        leader.pause(trainer.step // plan.steps_per_epoch, "a signal" if trainer.stop_asked else "debug.steps")
    return paused


def _restored(folder: RunFolder, runtime: Runtime) -> Checkpoint | None:
    """The checkpoint that rank 0 chooses, on every rank."""
    chosen = folder.checkpoints.newest(runtime.say) if runtime.rank == 0 else None
    step = runtime.agree(chosen.step if chosen else None)
    if runtime.rank == 0 or step is None:
        return chosen
    same = folder.checkpoints.open_step(step)
    if same is None:
        raise DataError(
            f"worker {runtime.rank} cannot read the checkpoint of step {step} in {folder.url}, worker 0 can; storage "
            "must be an object store, or one folder that all workers see"
        )
    return same


def _advance(trainer: Trainer, iterator: Any, steps: int, leader: Leader | None, ask_to_stop: bool) -> None:
    first = trainer.step
    with _last_good_named(leader):
        logs = trainer.run(iterator, steps, ask_to_stop)
    if leader:
        leader.log(first, logs)


def _check_finite(trainer: Trainer, leader: Leader | None) -> None:
    with _last_good_named(leader):
        trainer.check_finite()


@contextmanager
def _last_good_named(leader: Leader | None) -> Iterator[None]:
    """Adds to a NumericalError where the run can go on from."""
    try:
        yield
    except NumericalError as error:
        kept = leader.last_checkpoint if leader else None
        where = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
        raise NumericalError(
            f"{error}; {where}; try a lower optimizer.learning_rate, optimizer.clip=1, or trainer.precision=float32"
        ) from error
