"""What the run's augmentation makes of some labelled images."""

import numpy as np
import tensorflow as tf

from jobs.build import policies
from jobs.schema import RunConfig
from semisup_core.augmenters import Look, augment, view_seed
from semisup_core.data.splits import Split
from semisup_core.data.store import Store

_ROWS = 8


def gallery_columns(config: RunConfig, store: Store, split: Split) -> list[np.ndarray]:
    """Original, weak, strong, strong of some labelled images, (N, H, W, 3) each."""
    rows = split.labelled
    images = tf.constant(store.read(rows[np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int)]))
    drawn = policies(config)
    columns = [np.asarray(images)]
    for copy, name in enumerate(("weak", "strong", "strong")):
        seed = view_seed(config.seed, tf.constant(0, tf.int64), 0, copy)
        look = Look(images, seed, tf.range(len(images)), len(images))
        columns.append(augment([look], drawn[name], config.dataset.image_size)[0].numpy())
    return columns
