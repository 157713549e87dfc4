"""Arithmetic of a step, counted from the shapes in its graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_TRANSPOSED = {"MatMul": "transpose_a", "BatchMatMulV2": "adj_x"}
_CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
_DEPTHWISE = ("DepthwiseConv2dNative", "DepthwiseConv2dNativeBackpropInput", "DepthwiseConv2dNativeBackpropFilter")


def count_operations(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of the matrix products and convolutions in a function, a multiply-add being two.

    Args:
        function: what `tf.function` can trace; loops in it count once.
        *arguments: to trace it with.
    """
    graph = tf.function(function).get_concrete_function(*arguments).graph
    needed = {output.op for output in graph.outputs} | set(graph.control_outputs)
    waiting = list(needed)
    while waiting:  # TensorFlow leaves out what nothing needs, such as the gradient of the images
        operation = waiting.pop()
        found = {*(source.op for source in operation.inputs), *operation.control_inputs} - needed
        needed |= found
        waiting += found
    return float(sum(_of(operation) for operation in needed))


def _of(operation: Any) -> float:
    kind = operation.type
    if kind in _TRANSPOSED:
        inner = operation.inputs[0].shape[-2 if operation.get_attr(_TRANSPOSED[kind]) else -1]
        return 2.0 * _size(operation.outputs[0]) * inner
    if kind in _CONVOLUTIONS + _DEPTHWISE:
        return _of_convolution(operation)
    return 0.0


def _of_convolution(operation: Any) -> float:
    """Two for each filter entry and each place of the output image, whichever of the three is computed."""
    kind = operation.type
    if kind.endswith("BackpropInput"):
        kernel, image = operation.inputs[1].shape, operation.inputs[2].shape
    elif kind.endswith("BackpropFilter"):
        kernel, image = operation.outputs[0].shape, operation.inputs[2].shape
    else:
        kernel, image = operation.inputs[1].shape, operation.outputs[0].shape
    places = image[0] * image[1] * image[2]
    return 2.0 * places * int(np.prod(kernel))


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape))
