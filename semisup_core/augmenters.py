"""Drawing augmented views: one geometric resample and one colour affine per image, then extras.

The numbers an image gets are a function of (seed, step, view, copy, place in the global batch) alone. They are drawn
for the whole global batch with stateless operations and then sliced, so R replicas see the pixels that one would.

Brightness, contrast, saturation, a YIQ hue rotation and the random 3x3 matrix of the Keras SimCLR example are affine
in RGB; their composition, in an order drawn per image, is one 3x4 matrix per image. Departure from applying them one by
one: values are clipped to 0-255 once, at the end.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from semisup_core.policy import Policy

Tensor = Any

_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_UNIFORMS = 32  # columns of random numbers drawn per image; a new use takes the next free column, old ones stay
# The blur's width as a share of the side, and its range of sigma in pixels (2002.05709, appendix A).
_BLUR_SHARE, _BLUR_SIGMA = 0.1, (0.1, 2.0)
_SOLARIZE_THRESHOLD = 128.0
_MID_GRAY = 127.5
_PIXELS = 8  # in a row of the colour product; a power of two, by which sharing is exact


def view_seed(seed: int, step: Tensor, view: int, copy: int) -> Tensor:
    """The stateless seed of one copy of one view at one step, shape (2,) int64.

    Args:
        seed: the run's seed.
        step: scalar int64 tensor.
        view: place of the view in the method's list.
        copy: place among the view's copies.
    """
    start = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.fold_in(start, view * 1024 + copy, alg="philox")


class Look(NamedTuple):
    """One copy of one view of a pool, as one replica sees it.

    Attributes:
        images: (b, H, W, 3) uint8, the replica's share of the global batch.
        seed: (2,) from `view_seed`.
        positions: (b,) int32, places of these images in the global batch.
        global_count: B, rows of the global batch.
    """

    images: Tensor
    seed: Tensor
    positions: Tensor
    global_count: int


def augment(looks: Sequence[Look], policy: Policy, size: int) -> list[Tensor]:
    """Augments looks that share a policy, each on its own numbers.

    Args:
        looks: images of one size.
        policy: what to draw; the identity returns the pixels as they are.
        size: side of the result in pixels.

    Returns:
        (b, size, size, 3) float32 in 0-255 for each look.
    """
    # All numbers together: a few hundred small operations once, not for each look.
    parameters = _parameters(policy, _Draws(looks), tuple(looks[0].images.shape[1:3]), size)
    results, start = [], 0
    for look in looks:
        # Sliced only when all arithmetic on parameters that rounds is done: vector instructions round by place in the
        # vector.
        own = {name: tf.gather(values, start + look.positions) for name, values in parameters.items()}
        pixels = _resample(look.images, policy, own, size)
        results.append(_extras(_colour(pixels, own), own))
        start += look.global_count
    return results


def _parameters(policy: Policy, draws: "_Draws", sides: tuple[int, int], size: int) -> dict[str, Tensor]:
    """What each image gets, by name; only what the policy asks for."""
    found: dict[str, Tensor] = {}
    if policy.rotation or policy.shear or policy.shift:
        found["projection"] = _projection(*_geometry(policy, draws), *sides, size)
    elif policy.min_area < 1 or policy.ratio > 1 or policy.flip or sides != (size, size):
        found["boxes"] = _boxes(*_geometry(policy, draws), *sides, size)
    if policy.grayscale or any((policy.brightness, policy.contrast, policy.saturation, policy.hue, policy.jitter)):
        found["matrix"], of_mean = _colour_map(policy, draws)
        if policy.contrast:
            found["of_mean"] = of_mean
    if policy.blur:
        found["blurred"] = draws.happens(20, policy.blur)
        found["kernel"] = _blur_kernel(draws.uniform(22, *_BLUR_SIGMA), size)
    if policy.solarize:
        found["solarized"] = draws.happens(21, policy.solarize)
    if policy.cutout:
        found["erased_rows"] = _near(draws.uniform(23), policy.cutout, size)
        found["erased_columns"] = _near(draws.uniform(24), policy.cutout, size)
    return found


class _Draws:
    """Random numbers of each image of each look's global batch by column, so that no two uses share one."""

    def __init__(self, looks: Sequence[Look]) -> None:
        uniform = partial(tf.random.stateless_uniform, alg="philox")
        seeds = [(look.seed, look.global_count) for look in looks]
        self._uniforms = tf.concat([uniform((count, _UNIFORMS), seed) for seed, count in seeds], axis=0)
        self.symmetric = tf.concat([uniform((count, 9), seed + 1, minval=-1.0) for seed, count in seeds], axis=0)

    def uniform(self, column: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * self._uniforms[:, column]

    def happens(self, column: int, probability: float) -> Tensor:
        return self._uniforms[:, column] < probability

    def order(self, first_column: int, count: int) -> Tensor:
        """A random permutation of 0 … count-1 per image, (B, count) int32."""
        return tf.argsort(self._uniforms[:, first_column : first_column + count], axis=1)


def _resample(images: Tensor, policy: Policy, own: dict[str, Tensor], size: int) -> Tensor:
    """Crop, flip, rotation, shear and shift as one bilinear resample (point samples: no smoothing when shrinking)."""
    if "projection" in own:
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(images, tf.float32),
            transforms=own["projection"],
            output_shape=[size, size],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode=policy.fill.upper(),
        )
    if "boxes" in own:  # about twice as fast on a CPU
        return tf.image.crop_and_resize(images, own["boxes"], tf.range(tf.shape(images)[0]), (size, size))
    return tf.cast(images, tf.float32)


def _geometry(policy: Policy, draws: _Draws) -> tuple[Tensor, Tensor]:
    """The map from places in the view to places in the image, both in [-1, 1] (x, y): (B, 2, 2) and (B, 2)."""
    area = draws.uniform(0, policy.min_area, 1.0)
    ratio = tf.exp(draws.uniform(1, -math.log(policy.ratio), math.log(policy.ratio)))
    scale_x = tf.minimum(tf.sqrt(area * ratio), 1.0)
    scale_y = tf.minimum(tf.sqrt(area / ratio), 1.0)
    centre_x = draws.uniform(2, -1.0, 1.0) * (1 - scale_x) + draws.uniform(3, -2 * policy.shift, 2 * policy.shift)
    centre_y = draws.uniform(4, -1.0, 1.0) * (1 - scale_y) + draws.uniform(5, -2 * policy.shift, 2 * policy.shift)
    scale_x = tf.where(draws.happens(6, policy.flip), -scale_x, scale_x)
    angle = math.radians(policy.rotation) * draws.uniform(7, -1.0, 1.0)
    shear = tf.tan(math.radians(policy.shear) * draws.uniform(8, -1.0, 1.0))
    cos, sin = tf.cos(angle), tf.sin(angle)
    rows = [[cos * scale_x, (cos * shear - sin) * scale_y], [sin * scale_x, (sin * shear + cos) * scale_y]]
    matrix = tf.stack([tf.stack(row, axis=-1) for row in rows], axis=-2)
    return matrix, tf.stack([centre_x, centre_y], axis=-1)


def _projection(matrix: Tensor, centre: Tensor, height: int, width: int, size: int) -> Tensor:
    """The same map between pixel indices, as the eight numbers of TensorFlow's projective transform, (B, 8)."""
    half = 1 / size - 1  # place of the first pixel's centre in [-1, 1]
    rows = []
    for axis, side in ((0, width), (1, height)):
        start = ((matrix[:, axis, 0] + matrix[:, axis, 1]) * half + centre[:, axis] + 1) * side / 2 - 0.5
        rows += [matrix[:, axis, 0] * side / size, matrix[:, axis, 1] * side / size, start]
    return tf.concat([tf.stack(rows, axis=-1), tf.zeros_like(centre)], axis=-1)


def _boxes(matrix: Tensor, centre: Tensor, height: int, width: int, size: int) -> Tensor:
    """The axis-aligned map as crop boxes (top, left, bottom, right) of `tf.image.crop_and_resize`, (B, 4)."""
    half = 1 / size - 1
    ends = []
    for place in (half, -half):  # centres of the first and the last pixel
        for axis, side in ((1, height), (0, width)):
            pixel = (matrix[:, axis, axis] * place + centre[:, axis] + 1) * side / 2 - 0.5
            ends.append(tf.clip_by_value(pixel / (side - 1), 0.0, 1.0))
    return tf.stack(ends, axis=-1)


def _colour(pixels: Tensor, own: dict[str, Tensor]) -> Tensor:
    """Applies x -> x M + m K, with m the image's mean colour, and clips to 0-255."""
    if "matrix" not in own:
        return pixels
    size = pixels.shape[1]
    several = math.gcd(size**2, _PIXELS)
    flat = tf.reshape(pixels, (-1, size**2 // several, several * 3))
    mapped = tf.matmul(flat, _of_several(own["matrix"], np.eye(several)))
    if "of_mean" in own:
        shares = np.full((several, several), 1 / several)
        mapped += tf.matmul(tf.reduce_mean(flat, axis=1, keepdims=True), _of_several(own["of_mean"], shares))
    clipped = tf.raw_ops.ClipByValue(t=mapped, clip_value_min=0.0, clip_value_max=255.0)  # in one pass, unlike tf's
    return tf.reshape(clipped, (-1, size, size, 3))


def _colour_map(policy: Policy, draws: _Draws) -> tuple[Tensor, Tensor]:
    """The composed colour map x -> x M + m K of each image's rows of pixels, M and K, both (B, 3, 3).

    Contrast keeps the gray of the image's mean in place, and that mean has been through the operations before it, so
    the offset is linear in the mean colour m of the untouched image.
    """
    brightness, contrast, saturation = (
        draws.uniform(10 + i, 1 - x, 1 + x)[:, None, None]
        for i, x in enumerate((policy.brightness, policy.contrast, policy.saturation))
    )
    eye = tf.zeros_like(brightness) + tf.eye(3)
    gray = tf.zeros_like(brightness) + tf.constant(_GRAY)[:, None]  # every output channel is the luma
    choices = tf.stack(
        [eye * brightness, eye * contrast, eye * saturation + gray * (1 - saturation), _hue(policy, draws)], axis=1
    )
    matrix, of_mean = eye, tf.zeros_like(eye)
    order = draws.order(16, 4)
    for slot in range(4):
        chosen = order[:, slot]
        step = tf.gather(choices, chosen, axis=1, batch_dims=1)
        anchor = tf.reduce_sum((matrix + of_mean) * _GRAY, axis=2, keepdims=True) * (1 - contrast)
        of_mean = _product(of_mean, step) + tf.where(chosen[:, None, None] == 1, anchor, 0.0)
        matrix = _product(matrix, step)
    if policy.jitter:
        matrix += policy.jitter * tf.transpose(tf.reshape(draws.symmetric, (-1, 3, 3)), (0, 2, 1))
    applied = draws.happens(15, policy.colour)[:, None, None]
    matrix, of_mean = tf.where(applied, matrix, eye), tf.where(applied, of_mean, 0.0)
    grayscale = draws.happens(9, policy.grayscale)[:, None, None]
    return tuple(tf.where(grayscale, _product(part, gray), part) for part in (matrix, of_mean))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of small matrices (B, 3, 3) and (B, 3, n), each of which costs a library for large ones as much as those do."""
    return tf.reduce_sum(a[..., None] * b[:, None], axis=2)


def _of_several(matrix: Tensor, shares: np.ndarray) -> Tensor:
    """The map (B, 3p, 3p) between rows of p pixels: (B, 3, 3) from pixel to pixel, times their number in `shares`.

    Products over 3 numbers are too short for vectors.
    """
    # At most one number in a column is not zero, so this product is exact; it is faster than one by broadcasting.
    spread = np.einsum("pq,ik,jl->ijpkql", shares, np.eye(3), np.eye(3)).reshape(9, -1)
    side = 3 * len(shares)
    return tf.reshape(tf.reshape(matrix, (-1, 9)) @ tf.constant(spread, tf.float32), (-1, side, side))


def _hue(policy: Policy, draws: _Draws) -> Tensor:
    """Rotation of the two chroma axes in YIQ, as matrices (B, 3, 3) that rows of pixels are multiplied by."""
    angle = 2 * math.pi * draws.uniform(13, -policy.hue, policy.hue)[:, None, None]
    still, same, turned = (
        np.linalg.solve(_RGB_TO_YIQ, np.array(axes) @ _RGB_TO_YIQ).T.astype("float32")
        for axes in (np.diag([1, 0, 0]), np.diag([0, 1, 1]), [[0, 0, 0], [0, 0, -1], [0, 1, 0]])
    )
    return still + tf.cos(angle) * same + tf.sin(angle) * turned


def _extras(pixels: Tensor, own: dict[str, Tensor]) -> Tensor:
    if "blurred" in own:
        pixels = tf.where(own["blurred"][:, None, None, None], _blur(pixels, own["kernel"]), pixels)
    if "solarized" in own:
        solarized = tf.where(pixels >= _SOLARIZE_THRESHOLD, 255.0 - pixels, pixels)
        pixels = tf.where(own["solarized"][:, None, None, None], solarized, pixels)
    if "erased_rows" in own:
        square = own["erased_rows"][:, :, None] & own["erased_columns"][:, None, :]
        pixels = tf.where(square[..., None], _MID_GRAY, pixels)
    return pixels


def _blur_kernel(sigma: Tensor, size: int) -> Tensor:
    """Gaussian taps of each image, (B, 2 * radius + 1)."""
    radius = max(1, int(size * _BLUR_SHARE / 2))
    places = tf.range(-radius, radius + 1, dtype=tf.float32)
    return tf.nn.softmax(-(places**2)[None] / (2 * sigma[:, None] ** 2), axis=1)


def _blur(pixels: Tensor, kernel: Tensor) -> Tensor:
    """Separable blur with a kernel of its own for each image, edges repeated."""
    size, radius = pixels.shape[1], kernel.shape[1] // 2
    for axis in (1, 2):
        # Edge rows repeated by gathering clipped places: TensorFlow's pad has no edge mode.
        shifted = [
            tf.gather(pixels, tf.clip_by_value(tf.range(size) + shift, 0, size - 1), axis=axis)
            for shift in range(-radius, radius + 1)
        ]
        pixels = tf.add_n([part * kernel[:, i, None, None, None] for i, part in enumerate(shifted)])
    return pixels


def _near(centre: Tensor, side: float, size: int) -> Tensor:
    """Which rows or columns a square around a drawn centre erases, (B, size) (DeVries and Taylor, arXiv 1708.04552)."""
    places = (tf.range(size, dtype=tf.float32) + 0.5) / size
    return tf.abs(places[None] - centre[:, None]) < side / 2
