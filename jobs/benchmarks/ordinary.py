"""The yardstick: SuNCEt on the conv encoder written the ordinary way, `train_step` under `model.fit`.

Float32, a layer for each augmentation, the encoder called for each view. What differs from `semisup_core` is how the
step is computed, not what: views, loss, encoder and optimiser are those of the reference configuration.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from semisup_core.policy import Policy
from semisup_core.similarity import info_nce, neighbour_cross_entropy

Tensor = Any

_GRAY = (0.299, 0.587, 0.114)


def ordinary_steps(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    policy: Policy,
    width: int,
    batch: int,
    temperature: float,
    learning_rate: float,
    steps: int,
) -> Callable[[], float]:
    """Steps of the yardstick, ready to be timed.

    Args:
        images: (N, H, W, 3) uint8, used as labelled and as unlabelled.
        labels: (N,).
        policy: of both kinds of view; crop, flip and colour.
        width: of the encoder.
        batch: unlabelled images, and as many labelled ones.
        temperature: of both losses.
        learning_rate: of Adam.
        steps: to time.

    Returns:
        A function that trains for one step more and returns the seconds of the others.
    """
    model = OrdinarySuncet(images.shape[1], policy, width, temperature)
    model.compile(optimizer=keras.optimizers.Adam(learning_rate))
    pairs = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(4 * batch, seed=0).repeat().batch(batch, True)
    data = tf.data.Dataset.zip((pairs.map(lambda pixels, _: pixels), pairs)).prefetch(tf.data.AUTOTUNE)
    clock = _Clock()

    def run() -> float:
        model.fit(data, steps_per_epoch=steps + 1, shuffle=False, verbose=0, callbacks=[clock])
        return clock.ends[-1] - clock.ends[0]

    return run


class _Clock(keras.callbacks.Callback):
    """When each step ended."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())


class OrdinarySuncet(keras.Model):
    """The method as one would first write it; `encoder` is its only part with weights."""

    def __init__(self, side: int, policy: Policy, width: int, temperature: float) -> None:
        """Builds the encoder.

        Args:
            side: of the images in pixels.
            policy: of all views.
            width: of the encoder.
            temperature: of both losses.
        """
        super().__init__()
        self._temperature = temperature
        flips = [keras.layers.RandomFlip("horizontal")] if policy.flip else []
        self._augmenter = keras.Sequential([_Crop(policy, side), *flips, _Jitter(policy)])
        layers: list[Any] = [keras.Input((side, side, 3)), keras.layers.Rescaling(1 / 255)]
        layers += [keras.layers.Conv2D(width, 3, strides=2, activation="relu") for _ in range(4)]
        self.encoder = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(width)])

    def train_step(self, data: Any) -> dict[str, Tensor]:
        """One step on unlabelled images and on labelled images with their labels."""
        unlabelled, (labelled, labels) = data
        views = [self._augmenter(images, training=True) for images in (unlabelled, unlabelled, labelled)]
        with tf.GradientTape() as tape:
            first, second, third = (self.encoder(view, training=True) for view in views)
            rows = ops.arange(first.shape[0])
            pairs = info_nce(first, second, rows, self._temperature)
            neighbours, counts = neighbour_cross_entropy(third, labels, third, labels, rows, self._temperature)
            loss = ops.mean(pairs) + ops.sum(neighbours) / ops.sum(ops.cast(counts, neighbours.dtype))
        variables = self.encoder.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


class _Crop(keras.layers.Layer):
    """Crop and resize."""

    def __init__(self, policy: Policy, side: int) -> None:
        super().__init__()
        self._policy, self._side = policy, side

    def call(self, images: Tensor) -> Tensor:
        rows = tf.shape(images)[0]
        area = tf.random.uniform((rows,), self._policy.min_area, 1.0)
        spread = math.log(self._policy.ratio)
        ratio = tf.exp(tf.random.uniform((rows,), -spread, spread))
        height, width = (tf.minimum(tf.sqrt(area * by), 1.0) for by in (1 / ratio, ratio))
        top, left = (tf.random.uniform((rows,)) * (1 - side) for side in (height, width))
        boxes = tf.stack([top, left, top + height, left + width], axis=1)
        return tf.image.crop_and_resize(images, boxes, tf.range(rows), (self._side, self._side))


class _Jitter(keras.layers.Layer):
    """Brightness, contrast, saturation and hue, one after the other."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    def call(self, images: Tensor) -> Tensor:
        policy, rows = self._policy, tf.shape(images)[0]

        def factor(spread: float) -> Tensor:
            return tf.random.uniform((rows, 1, 1, 1), 1 - spread, 1 + spread)

        images = _clipped(images * factor(policy.brightness))
        gray = tf.reduce_sum(images * _GRAY, axis=-1, keepdims=True)
        images = _clipped(_blended(images, tf.reduce_mean(gray, axis=(1, 2), keepdims=True), factor(policy.contrast)))
        gray = tf.reduce_sum(images * _GRAY, axis=-1, keepdims=True)
        images = _clipped(_blended(images, gray, factor(policy.saturation)))
        angles = 2 * math.pi * tf.random.uniform((rows,), -policy.hue, policy.hue)
        return _clipped(tf.einsum("nhwc,ndc->nhwd", images, _hue(angles)))


def _blended(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    return others + share * (images - others)


def _clipped(images: Tensor) -> Tensor:
    return tf.clip_by_value(images, 0.0, 255.0)


def _hue(angles: Tensor) -> Tensor:
    """Rotations about the gray axis, (N, 3, 3), by Rodrigues' formula."""
    cos, sin = tf.cos(angles)[:, None, None], tf.sin(angles)[:, None, None]
    cross = tf.constant([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return cos * tf.eye(3) + sin * cross + (1 - cos) * tf.ones((3, 3)) / 3
