"""The one function that trains; every way in calls `worker_loop`."""

import time
from typing import Any

import tensorflow as tf

from jobs.build import build_iterators, build_streams, build_training
from jobs.checkpoint import Checkpoint
from jobs.debugging import Debugging
from jobs.errors import ConfigError, TrainingError
from jobs.folder import RunFolder
from jobs.leader import Leader
from jobs.plan import Plan, make_plan
from jobs.prepare import fetched_store, split_of
from jobs.runtime import LONGER, Runtime, Wishes
from jobs.schema import RunConfig
from semisup_core.data.store import Store
from semisup_core.devices import device_names, make_strategy, set_precision, set_threads
from semisup_core.errors import DataError, NumericalError
from semisup_core.trainer import Trainer


def worker_loop(
    config: RunConfig, folder: RunFolder, store_name: str, runtime: Runtime, train: bool = True, test: bool = True
) -> None:
    """Trains one run to its end, from its newest good checkpoint if it has one.

    Args:
        config: the run.
        folder: described by the driver; rank 0 writes into it.
        store_name: of the prepared store in the run's storage.
        runtime: this worker's surroundings.
        train: without, the run stays where it is and is measured.
        test: without, the run ends like a trial of a search: nothing is measured on test or exported.

    Raises:
        ConfigError: the batches do not fit the data or the replicas.
        DataError: the store cannot be read, or there is nothing to measure.
        NumericalError: a loss is not finite; names the step and the last good checkpoint.
        StorageError: too many checkpoints in a row could not be written.
        SupersededError: another attempt took the run over.
    """
    started = time.perf_counter()
    set_threads(runtime.cpus)
    set_precision(config.trainer.precision)
    debug = config.debug
    try:
        strategy = make_strategy(runtime.world_size, debug.logical_devices, debug.eager, config.runtime.all_reduce)
    except ValueError as error:
        raise ConfigError(f"runtime.all_reduce, debug.logical_devices: {error}") from error
    store = fetched_store(folder.storage, store_name)
    runtime.watch(LONGER)  # only now: the first time, a data set comes as fast as the network allows
    split = split_of(config, store)
    plan = make_plan(config, split, len(store.class_names), strategy.num_replicas_in_sync)
    if runtime.rank == 0:
        folder.lease.check()
        folder.fetch()
    else:
        folder.fetch_initial_encoder()
    method, trainer = build_training(config, store, plan, strategy, folder.initial_encoder)
    restored = _restored(folder, runtime)
    if restored is None and not train:
        raise DataError(f"{folder.url}: expected a checkpoint to measure, found none that is usable")
    if restored:
        trainer.load_state(restored.state(), restored.step)
    streams = build_streams(config, store, split, plan)
    leader = None
    if runtime.rank == 0:
        leader = Leader(config, folder, store, split, plan, method, trainer, runtime.say, restored)
        if train:
            leader.introduce(strategy.num_replicas_in_sync, streams, time.perf_counter() - started)
    loop = _Loop(config, folder, store, streams, strategy, plan, trainer, runtime, leader, restored)
    try:
        paused = train and loop.run(started)
    except BaseException:
        if leader:
            leader.abandon()
        raise
    finally:
        runtime.unwatch()
    if leader and not paused:
        progress = leader.final_progress
        leader.finish() if test else leader.finish_untested()
        if progress:
            runtime.measured(progress)
    runtime.report({"step": trainer.step}, leader.last_checkpoint if leader else None)


class _Loop:
    """Epoch after epoch on one worker; all workers take the same way through it."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        store: Store,
        streams: dict[str, Any],
        strategy: tf.distribute.Strategy,
        plan: Plan,
        trainer: Trainer,
        runtime: Runtime,
        leader: Leader | None,
        restored: Checkpoint | None,
    ) -> None:
        self._config, self._folder, self._store, self._streams = config, folder, store, streams
        self._strategy, self._plan, self._trainer, self._runtime = strategy, plan, trainer, runtime
        self._leader = leader
        self._skipped = restored.skipped if restored else []
        least = config.method.smallest_loss(plan.unlabelled_batch, plan.labelled_batch, plan.classes_per_batch)
        self._debugging = Debugging(config.debug, least, folder, trainer, runtime.say)
        self._last = min(plan.total_steps, config.debug.steps or plan.total_steps)
        self._wishes = Wishes(stop=False, save=False)  # of any worker
        self._saved_to_leave = False

    def run(self, started: float) -> bool:
        """Trains until the plan's last step, early stopping, the time or steps allowed are used up, or a signal.

        Args:
            started: by the clock, this attempt.

        Returns:
            Whether the run was paused before its end, by debug.steps or a signal.

        Raises:
            NumericalError: a loss or a weight is not finite, and the run may not or cannot go back.
        """
        if self._leader:
            self._debugging.begin(self._iterators)
        stop = self._runtime.agree(self._leader.stopped is not None if self._leader else None)
        while not (stop or self._wishes.stop or self._trainer.step >= self._last):
            iterators = self._iterators()
            try:
                while not (stop or self._wishes.stop or self._trainer.step >= self._last):
                    stop = self._epoch(iterators, started)
            except NumericalError as error:
                self._go_back(error)
        paused = self._trainer.step < self._plan.total_steps and not stop
        if self._leader and paused:
            why = "a signal" if self._wishes.stop else "debug.steps"
            self._leader.pause(self._trainer.step // self._plan.steps_per_epoch, why)
        self._debugging.end()
        return paused

    def _iterators(self) -> list[Any]:
        """The batches from the trainer's step on; its first steps may take longer."""
        self._patience = LONGER
        skipped = sum(end - start for start, end in self._skipped)
        place = self._runtime.rank, self._runtime.world_size
        where = self._store, self._streams, self._strategy, self._trainer.step
        only_first, to_device = self._config.debug.overfit_batch, self._config.runtime.prefetch_to_device
        return build_iterators(*where, *place, skipped, only_first, to_device)

    def _epoch(self, iterators: list[Any], started: float) -> bool:
        """What is left of an epoch; returns whether training ends with it."""
        trainer, steps_per_epoch, leader = self._trainer, self._plan.steps_per_epoch, self._leader
        epoch = trainer.step // steps_per_epoch + 1
        epoch_end = epoch * steps_per_epoch
        if leader:
            leader.begin_epoch()
        until = min(epoch_end, self._last)
        while trainer.step < until and not self._wishes.stop:
            self._advance(iterators, min(self._config.trainer.steps_per_call, until - trainer.step))
        self._runtime.watch(LONGER)
        trainer.check_finite()
        if leader and trainer.step == epoch_end:
            minutes = (time.perf_counter() - started) / 60
            last = epoch_end == self._plan.total_steps
            leader.end_epoch(epoch, last=last, minutes=minutes, save=self._wishes.save)
        stop, due = self._runtime.agree((leader.stopped is not None, self._runtime.due()) if leader else None)
        if leader and leader.progress and not stop and trainer.step < self._last:  # what is last is told at the end
            self._runtime.measured(leader.progress)
        if due:
            self._runtime.report({"epoch": epoch, "step": trainer.step}, leader.last_checkpoint if leader else None)
        return stop

    def _advance(self, iterators: list[Any], steps: int) -> None:
        """Some steps, and a checkpoint when a machine is about to leave."""
        first, trainer = self._trainer.step, self._trainer
        self._runtime.watch(self._patience)
        try:
            logs = self._debugging.run(iterators, steps, self._runtime.wishes())
        except tf.errors.ResourceExhaustedError as error:
            plan, where = self._plan, ", ".join(sorted(set(device_names())))
            raise TrainingError(
                f"a step of {plan.unlabelled_batch} unlabelled and {plan.labelled_batch} labelled images does not fit "
                f"into the memory of {where}: {_out_of_memory(error.message)}; lower trainer.unlabelled_batch, use "
                "trainer.precision=mixed_bfloat16 or more workers; python -m jobs.benchmark batch finds what fits"
            ) from error
        self._patience, self._wishes = 1.0, Wishes(*trainer.flags)
        if self._leader:
            self._leader.log(first, logs)
        if self._wishes.save and not self._saved_to_leave and trainer.step % self._plan.steps_per_epoch:
            self._saved_to_leave, self._patience = True, LONGER  # the others wait for worker 0 in their next step
            self._runtime.watch(LONGER)
            trainer.check_finite()
            if self._leader:
                self._leader.save_to_leave(trainer.step // self._plan.steps_per_epoch)

    def _go_back(self, error: NumericalError) -> None:
        """Loads the newest good checkpoint and leaves out the batches from there to the bad step, if allowed.

        Raises:
            NumericalError: the same, with where the run can go on from.
        """
        chosen = self._config.trainer
        self._runtime.watch(LONGER)
        if self._leader:
            self._leader.settle()
        good = _restored(self._folder, self._runtime)
        if good is None or chosen.on_nan == "stop" or len(self._skipped) >= chosen.max_rollbacks:
            kept = f"the last good checkpoint is {good.path}" if good else "there is no checkpoint yet"
            often = f" after {len(self._skipped)} rollbacks" if self._skipped else ""
            raise NumericalError(
                f"{error}{often}; {kept}; try a lower optimizer.learning_rate, optimizer.clip=1, "
                "trainer.precision=float32, or trainer.on_nan=rollback"
            ) from error
        self._skipped = [*self._skipped, (good.step, error.step)]
        self._trainer.load_state(good.state(), good.step)
        if self._leader:
            self._leader.go_back(good, error, self._skipped)


def _out_of_memory(message: str) -> str:
    """The line of TensorFlow's many that says what did not fit."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["out of memory"]
    return next((line for line in lines if "OOM" in line), lines[-1])


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
