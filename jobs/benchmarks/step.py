"""The training step of a configuration: its time, its arithmetic, and where the time goes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from jobs.benchmarks.operations import count_operations
from jobs.build import build_iterators, build_streams, build_training
from jobs.plan import Plan, make_plan
from jobs.prepare import prepare_store, split_of
from jobs.schema import RunConfig
from semisup_core.data.store import Store
from semisup_core.devices import make_strategy
from semisup_core.encoders.side_by_side import apart
from semisup_core.methods.base import Method
from semisup_core.replica import Replica
from semisup_core.trainer import Trainer

Tensor = Any

STAGES = ("augmentation", "forward", "backward", "collectives", "update")


class Training(NamedTuple):
    """All that one process needs to take steps of a configuration."""

    config: RunConfig
    store: Store
    plan: Plan
    streams: dict[str, Any]
    strategy: tf.distribute.Strategy
    method: Method
    trainer: Trainer

    def iterators(self, held: bool = False) -> list[Any]:
        """The batches of each replica as a run has them; `held`, the first one again and again, out of memory."""
        places = self.store, self.streams, self.strategy, 0, 0, 1
        if not held:
            return build_iterators(*places)
        firsts = [next(iterator) for iterator in build_iterators(*places)]
        return [iter(tf.data.Dataset.from_tensors(first).repeat()) for first in firsts]

    @property
    def views(self) -> int:
        """Augmented images in a step, of all replicas."""
        sizes = {"unlabelled": self.plan.unlabelled_batch, "labelled": self.plan.labelled_batch}
        return sum(view.count * sizes[view.pool] for view in self.method.views)

    @property
    def images(self) -> int:
        """Images that a step reads."""
        sizes = {"unlabelled": self.plan.unlabelled_batch, "labelled": self.plan.labelled_batch}
        return sum(sizes[pool] for pool in self.streams)


def make_training(config: RunConfig) -> Training:
    """Builds what a worker of `runtime=local` would, on the prepared data of the configuration."""
    strategy = make_strategy(logical_devices=config.debug.logical_devices)
    store = prepare_store(config, progress=False)
    split = split_of(config, store)
    plan = make_plan(config, split, len(store.class_names), strategy.num_replicas_in_sync)
    method, trainer = build_training(config, store, plan, strategy)
    return Training(config, store, plan, build_streams(config, store, split, plan), strategy, method, trainer)


def whole(training: Training, iterators: Sequence[Any], steps: int) -> Callable[[], Any]:
    """Some steps as a run takes them, ready to be timed."""
    return lambda: training.trainer.run(iterators, steps)


def one_a_call(training: Training, iterators: Sequence[Any], steps: int) -> Callable[[], Any]:
    """As many steps, each in a call of its own."""

    def run() -> None:
        for _ in range(steps):
            training.trainer.run(iterators, 1)

    return run


def until(training: Training, stage: str, iterators: Sequence[Any], steps: int) -> Callable[[], Any]:
    """As many steps that end after a stage of `STAGES`; what it computes is used, so that nothing is optimised away."""
    run = training.trainer.compiled(lambda elements: _part(training.trainer, stage, elements))
    return lambda: run(iterators, tf.constant(steps)).numpy()


def _part(trainer: Trainer, stage: str, elements: dict[str, Tensor]) -> Tensor:
    progress, replica = trainer.progress(elements), Replica()
    batch = trainer.augmented(elements)
    if stage == "augmentation":
        return _touched(tf.nest.flatten(batch.images))
    if stage == "forward":
        logged, carry = trainer.loss(batch, progress)
        return _touched([*logged.values(), *tf.nest.flatten(carry)])
    gradients, logged, carry = trainer.gradients(batch, progress)
    if stage in ("collectives", "update"):
        gradients = replica.sums(gradients)
    if stage == "update":
        trainer.update(gradients)
    return _touched([*gradients, *logged.values(), *tf.nest.flatten(carry)])


def _touched(values: Sequence[Tensor]) -> Tensor:
    """One number of each tensor, (k,): enough for TensorFlow to compute all of it."""
    return tf.stack([tf.cast(tf.reshape(value, [-1])[0], keras.config.floatx()) for value in values])


def operations(training: Training) -> float:
    """Floating-point operations of a step on all replicas: its products and convolutions, augmentation's left out.

    Those of images alone, without the places between images that lie side by side; 0 when XLA compiles them.
    """
    (first, *_) = training.iterators()
    elements = next(first)

    def until(stage: str) -> float:
        part = tf.autograph.experimental.do_not_convert(partial(_part, training.trainer, stage))
        return count_operations(partial(training.strategy.run, part, args=(elements,)))

    with apart():
        return until("update") - until("augmentation")
