"""The most arithmetic that this machine does: a large matrix product."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from semisup_core.devices import device_names

_SIDE, _SIDE_GPU = 3072, 8192
_PRODUCTS = 4  # a call, so that what a call costs does not count


def operations() -> float:
    """Floating-point operations of a call of one of `products`."""
    return 2.0 * _side() ** 3 * _PRODUCTS


def products() -> dict[str, Callable[[], Any]]:
    """Products of square matrices in float32 and bfloat16 on one device, ready to be timed."""
    return {name: _products(name) for name in ("float32", "bfloat16")}


def _side() -> int:
    return _SIDE if device_names() == ["CPU"] else _SIDE_GPU


def _products(name: str) -> Callable[[], Any]:
    matrix = tf.cast(tf.random.stateless_normal((_side(), _side()), (0, 0)) / _side() ** 0.5, name)

    @tf.function
    def products(values: tf.Tensor) -> tf.Tensor:
        for _ in range(_PRODUCTS):
            values = tf.matmul(values, matrix)
        return values[0, 0]

    return lambda: products(matrix).numpy()
