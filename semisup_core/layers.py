"""Layers that encoders and heads share."""

from typing import Any

import keras

# Share of the old moving statistics kept at each step. Keras' 0.99 needs several hundred steps to follow the network;
# 0.9 is what the papers' code uses.
_MOMENTUM = 0.9


def batch_norm(name: str, **settings: Any) -> keras.layers.BatchNormalization:
    """BatchNorm over the rows of all replicas, in at least float32.

    Keras 3.15 sums the synchronised moments in the layer's own precision; in bfloat16 a sum over a batch loses most of
    its digits, and TensorFlow has no bfloat16 all-reduce on a CPU.

    Args:
        name: of the layer.
        **settings: what else Keras' BatchNorm takes; what this function decides is not changed by them.
    """
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    decided = {"synchronized": True, "momentum": _MOMENTUM, "dtype": "float32" if half else None}
    return keras.layers.BatchNormalization(name=name, **{**settings, **decided})
