"""Functions of an (anchors x references) matrix, a few anchors at a time, so that its memory stays bounded."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Tensor = Any

# Entries of a matrix that are held at once, 64 MiB of float32: a batch of 4,096 with itself. A loss holds a few such.
LARGEST_BLOCK = 2**24


def by_anchors(
    function: Callable[..., Tensor], anchors: Tensor, references: Sequence[Tensor], rows: Sequence[Tensor] = ()
) -> Tensor:
    """`function(anchors, *references, *rows)`, whose result for an anchor does not depend on the other anchors.

    Up to `LARGEST_BLOCK` pairs it is that call. Beyond, it is one call after the other for as many anchors as fit in
    there, and all of them again for the gradient, so that nothing but results outlives a call.

    Args:
        function: of (n, D) anchors, the references and n entries of each of `rows`, to (n, …), at least float32.
        anchors: (N, D).
        references: (M_i, D), all that the anchors are compared with.
        rows: (N, …), what else belongs to the anchors; has no gradient.

    Returns:
        (N, …), differentiable by anchors and references.
    """
    count, pairs = anchors.shape[0], anchors.shape[0] * sum(reference.shape[0] for reference in references)
    blocks = -(-pairs // LARGEST_BLOCK)
    if blocks <= 1:
        return function(anchors, *references, *rows)
    size = -(-count // blocks)
    blocks = -(-count // size)
    missing = blocks * size - count

    def split(values: Tensor) -> Tensor:
        padded = tf.pad(values, [[0, missing], *[[0, 0]] * (len(values.shape) - 1)])
        return tf.reshape(padded, (blocks, size, *values.shape[1:]))

    result = _blockwise(function, [split(entries) for entries in rows])(split(anchors), *references)
    return tf.reshape(result, (blocks * size, *result.shape[2:]))[:count]


def _blockwise(function: Callable[..., Tensor], rows: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The function over (blocks, size, D) anchors and (blocks, size) rows, to (blocks, size, …)."""

    @tf.custom_gradient
    def forward(anchors: Tensor, *references: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        def call(block: tuple[Tensor, ...]) -> Tensor:
            own, *entries = block
            return function(own, *references, *entries)

        def backward(upstream: Tensor) -> list[Tensor]:
            def add(
                block: Tensor, found: tf.TensorArray, sums: list[Tensor]
            ) -> tuple[Tensor, tf.TensorArray, list[Tensor]]:
                sources = [anchors[block], *references]
                with tf.GradientTape() as tape:
                    tape.watch(sources)
                    result = function(*sources, *(entries[block] for entries in rows))
                own, *others = tape.gradient(result, sources, upstream[block])
                return block + 1, found.write(block, own), [a + b for a, b in zip(sums, others, strict=True)]

            blocks = anchors.shape[0]
            start = tf.constant(0), tf.TensorArray(anchors.dtype, blocks), [tf.zeros_like(each) for each in references]
            _, found, sums = tf.while_loop(lambda block, *_: block < blocks, add, start, parallel_iterations=1)
            return [found.stack(), *sums]

        kind = tf.float64 if anchors.dtype == tf.float64 else tf.float32
        return tf.map_fn(call, (anchors, *rows), parallel_iterations=1, fn_output_signature=kind), backward

    return forward
