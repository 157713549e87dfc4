"""From a configuration to the objects that train: data, method, trainer and their iterator."""

from typing import Any

import keras
import tensorflow as tf

from jobs.plan import Plan
from jobs.schema import RunConfig
from semisup_core.data.pipeline import batches
from semisup_core.data.sampling import LabelledStream, UnlabelledStream
from semisup_core.data.splits import Split
from semisup_core.data.store import Store
from semisup_core.encoders.build import build_encoder
from semisup_core.methods.base import Method, build_method
from semisup_core.optimizers import GroupOptimizer
from semisup_core.policy import NONE, Policy
from semisup_core.trainer import Trainer


def policies(config: RunConfig) -> dict[str, Policy]:
    """The view policies by name, the strong one scaled by `augmentation.strength`."""
    chosen = config.augmentation
    return {"strong": chosen.strong.scaled(chosen.strength), "weak": chosen.weak, "none": NONE}


def build_training(
    config: RunConfig, store: Store, plan: Plan, strategy: tf.distribute.Strategy
) -> tuple[Method, Trainer]:
    """The method and its trainer, all variables in the strategy's scope and a function of the seed."""
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        encoder = build_encoder(config.encoder, config.dataset.image_size)
        method = build_method(config.method, encoder, len(store.class_names))
        chosen = config.optimizer
        optimizer = GroupOptimizer(
            method.variable_groups(),
            name=chosen.name,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            momentum=chosen.momentum,
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
        )
    return method, trainer


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
    return {pool: streams[pool] for pool in config.method.pools}


def build_iterator(
    store: Store, streams: dict[str, Any], strategy: tf.distribute.Strategy, first_step: int, rank: int, world_size: int
) -> Any:
    """An endless iterator over the batches of this process's replicas, from one step on."""
    replicas = strategy.num_replicas_in_sync
    local = replicas // world_size
    return iter(
        strategy.distribute_datasets_from_function(
            lambda context: batches(
                store,
                streams,
                first_step=first_step,
                replicas=replicas,
                local_replicas=local,
                first_replica=rank * local,
            )
        )
    )
