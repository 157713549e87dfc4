"""Features of stored images, un-augmented, in fixed-size batches."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from semisup_core.data.store import Store

BATCH = 256


class Embedder:
    """Runs an encoder over rows of a store; compiled once, also for a last batch that is not full."""

    def __init__(self, encoder: keras.Model, batch: int = BATCH) -> None:
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
        starts = range(0, len(rows), self._batch)
        size = min(self._batch, len(rows))
        return np.concatenate([self._features(store.read(rows[i : i + self._batch]), size) for i in starts])

    def images(self, images: np.ndarray) -> np.ndarray:
        """The features of images at hand.

        Args:
            images: (N, H, W, 3) uint8, at most a batch of them.

        Returns:
            (N, D) float32.
        """
        return self._features(images, self._batch)

    def _features(self, images: np.ndarray, size: int) -> np.ndarray:
        """Features of images filled up to `size`, so that every call has the shape that was compiled."""
        padded = np.pad(images, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)))
        features = self._encode(tf.cast(padded, keras.config.floatx())).numpy()
        return features[: len(images)].astype(np.float32)


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
    for start in range(0, len(rows), BATCH):
        images = tf.cast(store.read(rows[start : start + BATCH]), tf.float32)
        if side < store.image_shape[0]:
            images = tf.image.resize(images, (side, side), method="area")
        parts.append(tf.reshape(images / 255.0, (len(images), -1)).numpy())
    return np.concatenate(parts)
