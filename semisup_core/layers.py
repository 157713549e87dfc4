"""Layers that encoders and heads share."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from semisup_core.replica import Replica

Tensor = Any

# Share of the old moving statistics kept at each step. Keras' 0.99 needs several hundred steps to follow the network;
# 0.9 is what the papers' code uses.
_MOMENTUM = 0.9
_FUSED = ("float32", "bfloat16", "float16")


@keras.saving.register_keras_serializable("semisup")
class BatchNorm(keras.layers.BatchNormalization):
    """BatchNorm over the rows of all replicas, with statistics in at least float32 (Ioffe and Szegedy, 1502.03167).

    A single replica takes TensorFlow's fused kernel, three to four times as fast on a CPU as the same sums written out;
    several exchange one pair of vectors a layer, where Keras makes three exchanges.
    """

    def __init__(self, **settings: Any) -> None:
        """Builds nothing.

        Args:
            **settings: what Keras' BatchNorm takes; momentum, precision and synchronisation are decided here.
        """
        half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
        decided = {"synchronized": True, "momentum": _MOMENTUM, "dtype": "float32" if half else None}
        super().__init__(**{**settings, **decided, "autocast": False})

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:
        """Normalises by the batch in training, else by the moving statistics; the result has the inputs' dtype."""
        if not (training and self.trainable):
            return ops.cast(super().call(inputs, training=False), inputs.dtype)
        replica = Replica()
        last = self.axis in (-1, len(inputs.shape) - 1)
        fused = replica.count == 1 and last and len(inputs.shape) == 4 and inputs.dtype in _FUSED
        outputs, mean, variance = self._fused(inputs) if fused else self._over_replicas(inputs, replica)
        for moving, latest in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * latest)
        return outputs

    def _fused(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs, mean and variance of a batch (N, H, W, C)."""
        channels, dtype = inputs.shape[-1], self.variable_dtype
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value if self.scale else tf.ones(channels, dtype),
            offset=self.beta.value if self.center else tf.zeros(channels, dtype),
            mean=tf.zeros(0, dtype),
            variance=tf.zeros(0, dtype),
            epsilon=self.epsilon,
        )
        rows = tf.cast(tf.size(inputs) // channels, dtype)
        return outputs, mean, variance * (rows - 1) / rows  # the kernel divides by rows - 1

    def _over_replicas(self, inputs: Tensor, replica: Replica) -> tuple[Tensor, Tensor, Tensor]:
        """The same for any axis and precision, over the rows of all replicas."""
        values = ops.cast(inputs, self.compute_dtype)
        axis = self.axis % len(inputs.shape)
        others = [i for i in range(len(inputs.shape)) if i != axis]
        # One exchange of two vectors, about the moving mean (the same on all replicas, near the batch's): about 0,
        # mean(x²) - mean² loses digits where the mean is large.
        mean, variance = ops.moments(values, axes=others)
        shift = mean - self.moving_mean
        shift, square = ops.unstack(replica.mean(ops.stack([shift, variance + ops.square(shift)])))
        mean, variance = self.moving_mean + shift, ops.maximum(square - ops.square(shift), 0.0)
        shape = [-1 if i == axis else 1 for i in range(len(inputs.shape))]
        factor = ops.rsqrt(variance + self.epsilon)
        factor = factor * self.gamma if self.scale else factor
        outputs = (values - ops.reshape(mean, shape)) * ops.reshape(factor, shape)
        outputs = outputs + ops.reshape(self.beta, shape) if self.center else outputs
        return ops.cast(outputs, inputs.dtype), mean, variance
