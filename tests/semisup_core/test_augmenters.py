"""Augmentation as a function of (seed, step, view, copy, place), and each operation against its definition."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from semisup_core import augmenters
from semisup_core.augmenters import Look, augment, view_seed
from semisup_core.policy import NONE, Policy

ALL = Policy(
    min_area=0.3,
    ratio=1.5,
    flip=0.5,
    rotation=20,
    shear=10,
    shift=0.1,
    brightness=0.5,
    contrast=0.5,
    saturation=0.5,
    hue=0.2,
    jitter=0.1,
    colour=0.8,
    grayscale=0.2,
    blur=0.5,
    solarize=0.3,
    cutout=0.3,
)
AXIS_ALIGNED = dataclasses.replace(ALL, rotation=0, shear=0, shift=0)


def images(count=8, side=20):
    return tf.constant(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def smooth_images(count=4, side=32):
    """Slow gradients, on which a resample is nearly exact."""
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    channels = [255 * x, 255 * y, 255 * x * y]
    return tf.constant(np.tile(np.stack(channels, axis=-1)[None], (count, 1, 1, 1)).astype(np.uint8))


def draw(pixels, policy, *, seed=1, step=5, view=0, copy=0, positions=None, count=None, size=None):
    rows = tf.range(len(pixels)) if positions is None else tf.constant(positions)
    seeds = view_seed(seed, tf.constant(step, tf.int64), view, copy)
    look = Look(pixels, seeds, rows, count or len(pixels))
    return augment([look], policy, size or pixels.shape[1])[0].numpy()


@pytest.mark.parametrize("policy", [ALL, AXIS_ALIGNED], ids=["projective", "axis_aligned"])
@pytest.mark.parametrize("size, share", [(20, 2), (12, 2), (20, 1), (32, 1)])
def test_slices_of_replicas_are_the_whole_batch(policy, size, share):
    pixels = images()
    whole = draw(pixels, policy, size=size)
    compiled = tf.function(lambda part, rows: augment([Look(part, seed, rows, 8)], policy, size)[0])
    seed = view_seed(1, tf.constant(5, tf.int64), 0, 0)
    parts = [compiled(pixels[i : i + share], tf.range(i, i + share)).numpy() for i in range(0, 8, share)]
    assert np.array_equal(np.concatenate(parts), compiled(pixels, tf.range(8)).numpy())
    # Compiled or not, the numbers drawn are the same; fused arithmetic may round differently.
    assert np.abs(np.concatenate(parts) - whole).max() < 0.01


@pytest.mark.parametrize("policy", [ALL, AXIS_ALIGNED], ids=["projective", "axis_aligned"])
def test_looks_together_are_each_by_itself(policy):
    """As drawn alone up to rounding, and the same slices bit for bit on any number of replicas."""
    pixels, other = images(), images()[:4]
    seeds = [view_seed(1, tf.constant(5, tf.int64), view, 0) for view in range(2)]

    @tf.function
    def together(first, rows, second, other_rows):
        return augment([Look(first, seeds[0], rows, 8), Look(second, seeds[1], other_rows, 4)], policy, 20)

    whole = together(pixels, tf.range(8), other, tf.range(4))
    for view, (found, alone) in enumerate(zip(whole, (pixels, other), strict=True)):
        assert np.abs(found - draw(alone, policy, view=view, size=20)).max() < 0.01
    halves = [
        together(pixels[i : i + 4], tf.range(i, i + 4), other[i // 2 : i // 2 + 2], tf.range(i // 2, i // 2 + 2))
        for i in (0, 4)
    ]
    assert all(
        np.array_equal(np.concatenate(parts), one) for parts, one in zip(zip(*halves, strict=True), whole, strict=True)
    )


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 6}, {"view": 1}, {"copy": 1}, {"positions": range(8, 16)}])
def test_draws_depend_on_every_argument(change):
    pixels = images()
    usual = draw(pixels, ALL, count=16)
    assert np.array_equal(usual, draw(pixels, ALL, count=16))
    other = draw(pixels, ALL, count=16, **{k: list(v) if k == "positions" else v for k, v in change.items()})
    assert all(not np.array_equal(a, b) for a, b in zip(usual, other, strict=True))


def test_result_is_float32_within_the_pixel_range():
    drawn = draw(images(), ALL, size=12)
    assert drawn.shape == (8, 12, 12, 3) and drawn.dtype == np.float32
    assert drawn.min() >= 0 and drawn.max() <= 255


def test_none_keeps_the_pixels():
    pixels = images()
    assert np.array_equal(draw(pixels, NONE), pixels.numpy().astype(np.float32))


def test_flip_mirrors_left_and_right():
    pixels = images()
    assert np.allclose(draw(pixels, Policy(flip=1.0)), pixels.numpy()[:, :, ::-1], atol=1e-2)
    flipped = [
        np.allclose(a, b, atol=1e-2)
        for a, b in zip(draw(images(64), Policy(flip=0.5)), images(64).numpy()[:, :, ::-1], strict=True)
    ]
    assert 16 < sum(flipped) < 48


def test_both_resamples_agree_where_both_apply():
    pixels = smooth_images()
    crop = Policy(min_area=0.5, ratio=1.3, flip=0.5)
    tiny = dataclasses.replace(crop, rotation=1e-6)  # takes the projective path
    aligned, projective = draw(pixels, crop), draw(pixels, tiny)
    # They differ only in how the outermost half pixel is clamped.
    assert np.abs(aligned - projective)[:, 2:-2, 2:-2].max() < 2.5


def test_crop_keeps_the_drawn_area():
    pixels = smooth_images(32)
    drawn = draw(pixels, Policy(min_area=0.25))
    spans = np.ptp(drawn[..., 0], axis=(1, 2)) / 255
    assert 0.45 < spans.min() < 0.7 and 0.85 < spans.max() <= 1


def test_half_turn_rotates():
    pixels = images(64, 16)
    turned = draw(pixels, Policy(rotation=180, fill="constant"))
    centre = pixels.numpy().astype(np.float32)[:, 6:10, 6:10].mean(axis=(1, 2))
    # A rotation keeps the mean of a small centred square, roughly.
    assert np.abs(turned[:, 6:10, 6:10].mean(axis=(1, 2)) - centre).mean() < 25
    assert np.abs(turned[:, 0, 0]).mean() < 100  # corners came from outside


def test_brightness_scales_about_zero_and_contrast_about_the_mean():
    # The same image in every row: only the drawn factor differs.
    pixels = tf.constant(np.full((32, 8, 8, 3), 100, np.uint8))
    bright = draw(pixels, Policy(brightness=0.5))[:, 0, 0, 0] / 100
    assert 0.5 <= bright.min() < 0.7 and 1.3 < bright.max() <= 1.5
    assert np.allclose(draw(pixels, Policy(contrast=0.9)), 100, atol=1e-3)
    assert np.allclose(draw(pixels, Policy(saturation=0.9, hue=0.5)), 100, atol=0.1)  # gray has no chroma


def test_saturation_keeps_luma_and_grayscale_makes_channels_equal():
    pixels = tf.constant(np.random.default_rng(1).integers(80, 170, (16, 6, 6, 3), dtype=np.uint8))
    luma = np.array([0.299, 0.587, 0.114])
    kept = draw(pixels, Policy(saturation=0.3, hue=0.05))
    assert np.allclose(kept @ luma, pixels.numpy() @ luma, atol=0.5)
    gray = draw(pixels, Policy(grayscale=1.0))
    assert np.allclose(gray, (pixels.numpy() @ luma)[..., None], atol=1e-2)


def test_jitter_is_the_keras_examples_colour_affine():
    # identity * brightness + random 3x3, applied to each pixel: linear in RGB, each entry in its range.
    basis = np.zeros((16, 3, 3, 3), np.uint8)
    base = np.array((100, 100, 100), np.uint8)  # away from 0 and 255, so that nothing is clipped
    basis[:, 0] = base + 30 * np.eye(3, dtype=np.uint8)
    basis[:, 1, 0], basis[:, 1, 1] = base, base + 30
    drawn = draw(tf.constant(basis), Policy(brightness=0.2, jitter=0.2))
    matrices = (drawn[:, 0] - drawn[:, 1, :1]) / 30  # (image, input channel, output channel)
    diagonal = np.stack([matrices[:, i, i] for i in range(3)], axis=1)
    assert 0.15 < np.abs(diagonal - 1).max() <= 0.4
    assert 0.15 < np.abs(matrices - np.eye(3) * diagonal[:, None]).max() <= 0.2 + 1e-4
    assert np.allclose(drawn[:, 1, 1] - drawn[:, 1, 0], 30 * matrices.sum(axis=1), atol=1e-2)


@pytest.mark.parametrize("side", [3, 6, 8])  # odd, one and eight pixels at a time
def test_colours_are_the_operations_one_by_one(side):
    """Each image's operations in its own order, on its pixels, by their definitions."""
    policy = Policy(brightness=0.4, contrast=0.5, saturation=0.5, hue=0.3, jitter=0.1, colour=0.8, grayscale=0.3)
    pixels = tf.constant(np.random.default_rng(2).integers(60, 160, (64, side, side, 3), dtype=np.uint8))
    look = Look(pixels, view_seed(1, tf.constant(5, tf.int64), 0, 0), tf.range(64), 64)
    draws = augmenters._Draws([look])
    uniforms, jitters = draws._uniforms.numpy().astype(float), draws.symmetric.numpy().astype(float)
    luma = np.array([0.299, 0.587, 0.114])
    to_yiq = np.array(augmenters._RGB_TO_YIQ)
    orders = set()
    for image, u, jitter, found in zip(
        pixels.numpy().astype(float), uniforms, jitters, draw(pixels, policy), strict=True
    ):
        brightness, contrast, saturation = 1 + np.array([0.4, 0.5, 0.5]) * (2 * u[10:13] - 1)
        angle = 2 * np.pi * 0.3 * (2 * u[13] - 1)
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        operations = [
            lambda x, b=brightness: b * x,
            lambda x, c=contrast: c * x + (1 - c) * np.mean(x @ luma),
            lambda x, s=saturation: s * x + (1 - s) * (x @ luma)[..., None],
            lambda x, t=turn: np.einsum("ij,hwj->hwi", np.linalg.solve(to_yiq, t @ to_yiq), x),
        ]
        order = np.argsort(u[16:20])
        orders.add(tuple(order))
        expected = image
        for chosen in order:
            expected = operations[chosen](expected)
        expected = expected + 0.1 * np.einsum("ij,hwj->hwi", jitter.reshape(3, 3), image)
        expected = expected if u[15] < 0.8 else image
        expected = np.repeat((expected @ luma)[..., None], 3, axis=-1) if u[9] < 0.3 else expected
        np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=0.01)
    assert len(orders) > 15


def test_colour_probability_leaves_some_images_alone():
    pixels = images(64)
    same = [
        np.array_equal(a, b)
        for a, b in zip(
            draw(pixels, Policy(brightness=0.5, colour=0.5)), pixels.numpy().astype(np.float32), strict=True
        )
    ]
    assert 16 < sum(same) < 48


def test_extras():
    pixels = images(16)
    erased = draw(pixels, Policy(cutout=0.4)) == 127.5
    assert (erased.all(axis=-1).mean(axis=(1, 2)) < 0.25).all() and erased.any(axis=(1, 2, 3)).mean() > 0.9
    solarized = draw(pixels, Policy(solarize=1.0))
    assert solarized.max() <= 128 and np.array_equal(np.minimum(pixels, 255 - pixels.numpy()), solarized)
    blurred = draw(pixels, Policy(blur=1.0))
    assert blurred.std() < pixels.numpy().std() and np.allclose(blurred.mean(), pixels.numpy().mean(), atol=2)


def test_strength_scales_every_distance():
    assert ALL.scaled(1.0) == ALL
    nothing = ALL.scaled(0.0)
    assert dataclasses.replace(nothing, flip=0.0, colour=1.0) == dataclasses.replace(NONE, fill=ALL.fill)
    assert ALL.scaled(0.5).rotation == 10 and ALL.scaled(0.5).min_area == pytest.approx(0.65)
    assert ALL.scaled(100).brightness == 1.0 and ALL.scaled(100).min_area > 0
