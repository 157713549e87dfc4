"""Stride-2 convolutions over several images laid side by side, which a CPU computes up to three times as fast.

A CPU's matrix instructions take a row of an image's places at a time, and rows of 7 or 3 places leave most of them
idle. A row of several images has no such gaps. Each image keeps a slot of columns that halves from layer to layer, and
the last place of a slot mixes two images; no place of an image is ever computed from it, so neither value nor gradient
has anything of another image in it.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

Tensor = Any

_MOST = 8  # images in a row; more gain nothing


@keras.saving.register_keras_serializable("semisup")
class SideBySide(keras.Model):
    """A functional model that begins with element-wise layers and 3x3 stride-2 VALID convolutions up to `pool`.

    Called in training on a CPU, it computes those on rows of images; otherwise, and wherever it is copied as a plain
    model, it is the model it looks like.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        """The model's output (N, D) of images (N, H, W, 3)."""
        side = _images_a_row(inputs.shape[0]) if training else 1
        if side == 1:
            return super().call(inputs, training=training, mask=mask)
        names = [layer.name for layer in self.layers]
        first, last = self.layers[1 : names.index("pool")], self.layers[names.index("pool") :]
        convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in first)
        values, sides = _joined(inputs, side, 2**convolutions), inputs.shape[2]
        for layer in first:
            values = layer(values)
        for _ in range(convolutions):
            sides = (sides - 3) // 2 + 1
        values = _parted(values, side, sides)
        for layer in last:
            values = layer(values)
        return values


def _images_a_row(count: int | None) -> int:
    """The largest divisor of a batch that is not too many; 1 leaves the images alone."""
    if count is None or tf.config.list_physical_devices("GPU"):
        return 1
    return max(images for images in range(1, _MOST + 1) if count % images == 0)


def _joined(images: Tensor, side: int, factor: int) -> Tensor:
    """Images (N, H, W, C) as rows (N / side, H, side * slot, C), a slot being W made divisible by `factor`."""
    count, height, width, channels = images.shape
    slot = -(-width // factor) * factor
    images = ops.pad(images, [[0, 0], [0, 0], [0, slot - width], [0, 0]])
    rows = ops.transpose(ops.reshape(images, (count // side, side, height, slot, channels)), (0, 2, 1, 3, 4))
    return ops.reshape(rows, (count // side, height, side * slot, channels))


def _parted(rows: Tensor, side: int, width: int) -> Tensor:
    """The images (N, h, width, C) in rows (N / side, h, side * slot - 1, C)."""
    count, height, columns, channels = rows.shape
    slot = (columns + 1) // side
    rows = ops.reshape(ops.pad(rows, [[0, 0], [0, 0], [0, 1], [0, 0]]), (count, height, side, slot, channels))
    images = ops.transpose(rows[:, :, :, :width], (0, 2, 1, 3, 4))
    return ops.reshape(images, (count * side, height, width, channels))
