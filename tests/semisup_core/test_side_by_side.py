"""Images side by side: the same numbers as each by itself, and a plain model wherever it is copied."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from semisup_core.encoders import ConvParams, side_by_side
from semisup_core.encoders.build import build_encoder, exported
from semisup_core.encoders.side_by_side import SideBySide


@pytest.fixture
def encoder(float64):
    return lambda side, **settings: build_encoder(ConvParams(width=5, batch_norm=False, **settings), side)


@pytest.fixture
def float64():
    from semisup_core.devices import set_precision

    set_precision("float64")


def outputs_and_gradients(encoder, images):
    images = tf.convert_to_tensor(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = encoder(images, training=True)
        loss = tf.reduce_sum(tf.sin(outputs))
    return [outputs, *tape.gradient(loss, [images, *(variable.value for variable in encoder.trainable_variables)])]


@pytest.mark.parametrize("pool", ["flatten", "average"])
@pytest.mark.parametrize("side", [31, 32, 37, 48])
def test_is_each_image_by_itself(encoder, monkeypatch, side, pool):
    """Outputs and the gradients of images and weights; 14 images are two rows, the second with two black ones."""
    made = encoder(side, pool=pool)
    images = np.random.default_rng(0).uniform(0, 255, (14, side, side, 3))
    joined, rows = [], side_by_side._joined
    monkeypatch.setattr(side_by_side, "_joined", lambda *given: joined.append(rows(*given)) or joined[-1])
    together = outputs_and_gradients(made, images)
    assert [values.shape[0] for values in joined] == [2]
    with side_by_side.apart():
        by_itself = outputs_and_gradients(made, images)
    for ours, alone in zip(together, by_itself, strict=True):
        assert np.max(np.abs(ours - alone)) <= 1e-13 * np.max(np.abs(alone))
    assert len(joined) == 1


def test_evaluation_is_the_plain_model(encoder, monkeypatch):
    made = encoder(32)
    monkeypatch.setattr(side_by_side, "_joined", None)
    assert made(np.zeros((8, 32, 32, 3)), training=False).shape == (8, 5)


def test_batch_norm_keeps_images_apart(float64):
    assert not isinstance(build_encoder(ConvParams(width=5), 32), SideBySide)


def test_copies(encoder):
    """A teacher's is of the same kind; what a user gets is Keras' own."""
    made = encoder(32)
    assert isinstance(keras.models.clone_model(made), SideBySide)
    assert not isinstance(exported(made), SideBySide)
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(exported(made)(images), made(images, training=True), rtol=1e-4, atol=1e-5)


def test_an_open_number_of_images_goes_the_plain_way(encoder):
    made = encoder(32)
    compute = tf.function(
        lambda images: made(images, training=True), input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float64)]
    )
    assert compute(np.zeros((3, 32, 32, 3))).shape == (3, 5)


@pytest.mark.parametrize("compiled", [False, True])
def test_relu_in_bfloat16(compiled):
    """The values and the gradient of TensorFlow's own, of any number of dimensions."""
    draws = np.random.default_rng(0)
    tf.config.run_functions_eagerly(not compiled)
    try:
        for shape in [(5, 3, 3, 4), (7, 2)]:
            values = tf.cast(draws.normal(size=shape), tf.bfloat16) * tf.cast(draws.integers(0, 2, shape), tf.bfloat16)
            upstream, found = tf.cast(draws.normal(size=shape), tf.bfloat16), []
            for relu in (side_by_side._relu, tf.nn.relu):
                compute = tf.function(partial(_with_gradient, relu), autograph=False)
                found.append([part.numpy().astype(float) for part in compute(values, upstream)])
            assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
            assert 0 < np.count_nonzero(found[0][1]) < found[0][1].size
    finally:
        tf.config.run_functions_eagerly(False)


def _with_gradient(relu, values, upstream):
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = relu(values)
    return result, tape.gradient(result, values, output_gradients=upstream)


def test_the_encoder_in_bfloat16(monkeypatch):
    """With the fast gradient and without: the same numbers, those of zeros apart."""
    from semisup_core.devices import set_precision

    set_precision("mixed_bfloat16")
    try:
        made = build_encoder(ConvParams(width=5, batch_norm=False), 32)
        images = np.random.default_rng(0).uniform(0, 255, (14, 32, 32, 3)).astype("float32")
        used = []
        relu = side_by_side._relu
        monkeypatch.setattr(side_by_side, "_relu", lambda values: used.append(values.dtype) or relu(values))
        found = tf.function(outputs_and_gradients, autograph=False)(made, images)
        monkeypatch.setattr(side_by_side, "_relu", tf.nn.relu)
        expected = tf.function(outputs_and_gradients, autograph=False)(made, images)
    finally:
        set_precision("float32")
    assert used == [tf.bfloat16] * 4
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
