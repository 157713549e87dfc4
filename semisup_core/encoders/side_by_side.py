"""Stride-2 convolutions over several images laid side by side, which a CPU computes up to three times as fast.

A CPU's matrix instructions take a row of an image's places at a time, and rows of 7 or 3 places leave most of them
idle. A row of several images has no such gaps. Each image keeps a slot of columns that halves from layer to layer, and
the last place of a slot mixes two images; no place of an image is ever computed from it, so neither value nor gradient
has anything of another image in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import ops

Tensor = Any

_SIDE = 8  # images in a row: fills the instructions down to rows of 3 places, and more gain nothing
_apart = False


@keras.saving.register_keras_serializable("semisup")
class SideBySide(keras.Model):
    """A functional model that begins with element-wise layers and 3x3 stride-2 VALID convolutions up to `pool`.

    Called in training on a CPU, it computes those on rows of images; otherwise, and wherever it is copied as a plain
    model, it is the model it looks like.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        """The model's output (N, D) of images (N, H, W, 3)."""
        open_sides = None in inputs.shape
        if not training or _apart or open_sides or tf.config.list_physical_devices("GPU"):
            return super().call(inputs, training=training, mask=mask)
        names = [layer.name for layer in self.layers]
        first, last = self.layers[1 : names.index("pool")], self.layers[names.index("pool") :]
        convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in first)
        count, width = inputs.shape[0], inputs.shape[2]
        values = _joined(inputs, 2**convolutions)
        for layer in first:
            values = _relu(values) if values.dtype == tf.bfloat16 and _is_relu(layer) else layer(values)
        for _ in range(convolutions):
            width = (width - 3) // 2 + 1
        values = _parted(values, count, width)
        for layer in last:
            values = layer(values)
        return values


def _joined(images: Tensor, factor: int) -> Tensor:
    """Images (N, H, W, C) as rows of `_SIDE` (n, H, _SIDE * slot, C), black ones last where N is no multiple.

    A slot is W, made divisible by `factor`.
    """
    count, height, width, channels = images.shape
    rows, slot = -(-count // _SIDE), -(-width // factor) * factor
    images = ops.pad(images, [[0, rows * _SIDE - count], [0, 0], [0, slot - width], [0, 0]])
    joined = ops.transpose(ops.reshape(images, (rows, _SIDE, height, slot, channels)), (0, 2, 1, 3, 4))
    return ops.reshape(joined, (rows, height, _SIDE * slot, channels))


def _parted(joined: Tensor, count: int, width: int) -> Tensor:
    """The `count` images (N, h, width, C) in rows (n, h, _SIDE * slot - 1, C)."""
    rows, height, columns, channels = joined.shape
    slots = ops.reshape(ops.pad(joined, [[0, 0], [0, 0], [0, 1], [0, 0]]), (rows, height, _SIDE, -1, channels))
    images = ops.transpose(slots[:, :, :, :width], (0, 2, 1, 3, 4))
    return ops.reshape(images, (rows * _SIDE, height, width, channels))[:count]


def _is_relu(layer: keras.layers.Layer) -> bool:
    """A plain one."""
    plain = isinstance(layer, keras.layers.ReLU)
    return plain and layer.max_value is None and not layer.negative_slope and not layer.threshold


@tf.custom_gradient
def _relu(values: Tensor) -> tuple[Tensor, Any]:
    """ReLU of bfloat16 values, with TensorFlow's gradient in a third of the time.

    Where a value is 0, an infinite or undefined gradient is 0 here, too. It has no second derivative.
    """
    result = tf.nn.relu(values)

    def gradient(upstream: Tensor) -> Tensor:
        found = _where_positive(upstream, result)
        found.set_shape(result.shape)
        return found

    return result, gradient


# TensorFlow's kernel has vector instructions for int16 and none for bfloat16, of which only the sign counts here. It
# loses them again when it writes over its input; the caller of a function that is not inlined holds on to that.
@tf.function(
    input_signature=[tf.TensorSpec(None, tf.bfloat16)] * 2,
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _where_positive(upstream: Tensor, values: Tensor) -> Tensor:
    """The elements of `upstream` where `values`, of the same shape and none negative, are positive, else 0."""
    bits = tf.raw_ops.ReluGrad(gradients=tf.bitcast(upstream, tf.int16), features=tf.bitcast(values, tf.int16))
    return tf.bitcast(bits, tf.bfloat16)


@contextmanager
def apart() -> Iterator[None]:
    """What is traced inside computes each image by itself, as to count its arithmetic without the places between."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before
