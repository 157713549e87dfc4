"""From index streams to the batches of one replica, as a tf.data pipeline."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from semisup_core.data.store import Store

Stream = Callable[[int], np.ndarray]

_READERS = 2  # batches gathered at once for a replica; a gather is a memory copy, more threads compete with the step
_AHEAD = 4  # batches of a replica that are ready before they are asked for
_ON_DEVICE = 2  # of those, how many lie on its device when it has memory of its own


def batches(
    store: Store,
    streams: dict[str, Stream],
    *,
    first_step: int,
    replicas: int,
    replica: int,
    skipped: int = 0,
    only_first: bool = False,
    ahead: int = _AHEAD,
    device: str | None = None,
) -> tf.data.Dataset:
    """One replica's shares of the global batches, endlessly from one step on.

    Args:
        store: where the rows are.
        streams: pool name ("unlabelled", "labelled") -> step -> row ids of the global batch; R must divide them.
        first_step: where to begin.
        replicas: R, in all processes.
        replica: which of them.
        skipped: batches left out before this step: step k has batch k + skipped of each stream.
        only_first: yield the first step's batch for ever.
        ahead: batches to prepare in advance.
        device: where to copy them ahead of time, or None to leave that to who uses them.

    Returns:
        A dataset of dicts: "step" () int64, "labels" (s,) int32 where there is a labelled stream, and for each pool
        its images (b, H, W, 3) uint8 under its name and row ids (b,) int64 under "NAME_rows".
    """
    sizes = {pool: len(stream(first_step)) // replicas for pool, stream in streams.items()}

    def read(step: int) -> list[np.ndarray]:
        parts: list[np.ndarray] = [np.array(step, np.int64)]
        for pool, stream in streams.items():
            rows = stream(int(step) + skipped)[replica * sizes[pool] : (replica + 1) * sizes[pool]]
            parts += [store.read(rows), rows.astype(np.int64)]
            if pool == "labelled":
                parts.append(store.labels[rows].astype(np.int32))
        return parts

    names, types, shapes = _signature(store, sizes)

    def load(step: Any) -> dict[str, Any]:
        values = tf.numpy_function(read, [step], types)
        for value, shape in zip(values, shapes, strict=True):
            value.set_shape(shape)
        return dict(zip(names, values, strict=True))

    steps = tf.data.Dataset.counter(first_step)
    if only_first:
        steps = steps.take(1).repeat()
    loaded = steps.map(load, num_parallel_calls=_READERS, deterministic=True).prefetch(ahead).with_options(_options())
    return loaded.apply(tf.data.experimental.prefetch_to_device(device, _ON_DEVICE)) if device else loaded


def _signature(store: Store, sizes: dict[str, int]) -> tuple[list[str], list[Any], list[tuple[int, ...]]]:
    fields: list[tuple[str, Any, tuple[int, ...]]] = [("step", tf.int64, ())]
    for pool, size in sizes.items():
        fields += [(pool, tf.uint8, (size, *store.image_shape)), (f"{pool}_rows", tf.int64, (size,))]
        if pool == "labelled":
            fields.append(("labels", tf.int32, (size,)))
    names, types, shapes = zip(*fields, strict=True)
    return list(names), list(types), list(shapes)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # The autotuner can hold up the end of a pipeline for tens of seconds (TensorFlow 2.21).
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.threading.private_threadpool_size = _READERS
    return options
