"""Features of stored images, un-augmented, in fixed-size batches."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from semisup_core.data.store import Store

_BATCH = 256


class Embedder:
    """Runs an encoder over rows of a store; compiled once, also for a last batch that is not full."""

    def __init__(self, encoder: keras.Model, batch: int = _BATCH) -> None:
        """Keeps the encoder.

        Args:
            encoder: (N, H, W, 3) pixels in 0-255 -> (N, D).
            batch: images at a time.
        """
        self._batch = batch
        self._encode: Callable = tf.function(lambda images: encoder(images, training=False), reduce_retracing=True)

    def __call__(self, store: Store, rows: np.ndarray) -> np.ndarray:
        """The features of some rows.

        Args:
            store: where the images are.
            rows: (N,) row ids.

        Returns:
            (N, D) float32.
        """
        parts = []
        for start in range(0, len(rows), self._batch):
            images = store.read(rows[start : start + self._batch])
            short = min(self._batch, len(rows)) - len(images)
            if short:
                images = np.pad(images, ((0, short), (0, 0), (0, 0), (0, 0)))
            features = self._encode(tf.cast(images, keras.config.floatx())).numpy()
            parts.append(features[: len(features) - short])
        return np.concatenate(parts).astype(np.float32)


def pixels(store: Store, rows: np.ndarray, largest_side: int = 32) -> np.ndarray:
    """Raw pixels as features, the baseline every table shows.

    Args:
        store: where the images are.
        rows: (N,) row ids.
        largest_side: larger images are averaged down to this many pixels a side, to keep the fit in bounds.

    Returns:
        (N, side * side * 3) float32 in 0-1.
    """
    side = min(store.image_shape[0], largest_side)
    parts = []
    for start in range(0, len(rows), _BATCH):
        images = tf.cast(store.read(rows[start : start + _BATCH]), tf.float32)
        if side < store.image_shape[0]:
            images = tf.image.resize(images, (side, side), method="area")
        parts.append(tf.reshape(images / 255.0, (len(images), -1)).numpy())
    return np.concatenate(parts)
