"""From a configuration to the objects that train: data, method, trainer and their batches."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from jobs.errors import ConfigError
from jobs.plan import Plan
from jobs.schema import RunConfig
from semisup_core.data.pipeline import batches
from semisup_core.data.sampling import LabelledStream, UnlabelledStream
from semisup_core.data.splits import Split
from semisup_core.data.store import Store
from semisup_core.encoders.build import build_encoder, load_weights
from semisup_core.methods.base import Method, build_method
from semisup_core.methods.online_probe import OnlineProbe
from semisup_core.optimizers import GroupOptimizer
from semisup_core.policy import NONE, Policy
from semisup_core.trainer import Trainer


def policies(config: RunConfig) -> dict[str, Policy]:
    """The view policies by name, the strong one scaled by `augmentation.strength`."""
    chosen = config.augmentation
    return {"strong": chosen.strong.scaled(chosen.strength), "weak": chosen.weak, "none": NONE}


def build_training(
    config: RunConfig, store: Store, plan: Plan, strategy: tf.distribute.Strategy, initial: Path | None = None
) -> tuple[Method, Trainer]:
    """The method and its trainer, all variables in the strategy's scope and a function of the seed.

    Args:
        config: the run.
        store: gives the number of classes.
        plan: gives the lengths of schedules.
        strategy: where it trains.
        initial: the .keras file that the encoder starts from, or None for random weights.

    Raises:
        ConfigError: the file does not fit the encoder, there is nothing to train, or too many devices for XLA.
    """
    if config.trainer.xla and strategy.num_replicas_in_sync > 1:
        found = strategy.num_replicas_in_sync
        raise ConfigError(f"trainer.xla: expected a single device, found {found}; set it to false")
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        method = _method(config, len(store.class_names), initial)
        groups = method.variable_groups()
        if not any(group.variables for group in groups):
            raise ConfigError(
                f"encoder.trainable=false: {config.method.name} has nothing else to train; "
                "use a method with a head, such as method=linear_probe"
            )
        chosen = config.optimizer
        optimizer = GroupOptimizer(
            groups,
            name=chosen.name,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            momentum=chosen.momentum,
            epsilon=chosen.epsilon,
            schedule=chosen.schedule,
            warmup_steps=plan.warmup_steps,
            total_steps=plan.total_steps,
        )
        trainer = Trainer(
            method,
            optimizer,
            strategy,
            policies=policies(config),
            image_size=config.dataset.image_size,
            seed=config.seed,
            total_steps=plan.total_steps,
            clip=chosen.clip,
            eager=config.debug.eager,
            xla=config.trainer.xla,
        )
    return method, trainer


def _method(config: RunConfig, num_classes: int, initial: Path | None) -> Method:
    encoder = build_encoder(config.encoder, config.dataset.image_size)
    if initial:
        try:
            load_weights(encoder, initial)
        except ValueError as error:
            raise ConfigError(f"encoder.init={config.encoder.init}: {error}") from error
    method = build_method(config.method, encoder, num_classes)
    return OnlineProbe(method, num_classes) if config.trainer.online_probe else method


def build_streams(config: RunConfig, store: Store, split: Split, plan: Plan) -> dict[str, Any]:
    """The index streams of the pools that the method draws from."""
    streams: dict[str, Any] = {
        "unlabelled": UnlabelledStream(split.unlabelled, plan.unlabelled_batch, plan.steps_per_epoch, config.seed),
        "labelled": LabelledStream(
            split.labelled,
            store.labels[split.labelled],
            plan.labelled_batch,
            config.seed,
            config.dataset.balanced,
            plan.classes_per_batch,
        ),
    }
    return {pool: streams[pool] for pool in config.pools}


def build_iterators(
    store: Store,
    streams: dict[str, Any],
    strategy: tf.distribute.Strategy,
    first_step: int,
    rank: int,
    world_size: int,
    skipped: int = 0,
    only_first: bool = False,
    to_device: bool = False,
) -> list[Any]:
    """For each replica of this process an endless iterator over its batches, from one step on, after so many left out.

    With `only_first`, they yield their first batch for ever; with `to_device`, batches are copied to the device ahead.
    """
    replicas = strategy.num_replicas_in_sync
    local = replicas // world_size
    devices = strategy.extended.worker_devices if to_device else (None,) * local
    return [
        iter(
            batches(
                store,
                streams,
                first_step=first_step,
                replicas=replicas,
                replica=rank * local + i,
                skipped=skipped,
                only_first=only_first,
                device=device,
            )
        )
        for i, device in enumerate(devices)
    ]
