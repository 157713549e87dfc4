"""BatchNorm against its formula in numpy: by the fused kernel, written out, and over two replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from semisup_core.devices import make_strategy, set_precision
from semisup_core.layers import BatchNorm

SHAPE = (6, 5, 4, 3)
GAMMA, BETA, EPSILON = np.array([1.5, -2.0, 0.5]), np.array([0.5, 1.0, -1.0]), 0.01
# bfloat16 holds 8 bits of the inputs, of the outputs and of the gradient that arrives; statistics are float32.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "mixed_bfloat16": 0.02}


@pytest.fixture(params=TOLERANCES)
def precision(request, float32):
    set_precision(request.param)
    return request.param


def draw(shape=SHAPE):
    return np.random.default_rng(0).normal(3, 2, shape), np.random.default_rng(1).normal(size=shape)


def norm(shape=SHAPE, **settings):
    layer = BatchNorm(epsilon=EPSILON, name="norm", **settings)
    layer.build(shape)
    if layer.scale:
        layer.gamma.assign(GAMMA)
    if layer.center:
        layer.beta.assign(BETA)
    return layer


def literal(values, others=(0, 1, 2), gamma=GAMMA, beta=BETA):
    """1502.03167, algorithm 1, and the variance that enters the moving one."""
    mean, variance = values.mean(axis=others, keepdims=True), values.var(axis=others, keepdims=True)
    return gamma * (values - mean) / np.sqrt(variance + EPSILON) + beta, mean.ravel(), variance.ravel()


def literal_gradient(values, arriving):
    """Of the sum of `arriving` times the outputs, to the inputs: the chain rule of 1502.03167, sec. 3."""
    spread = np.sqrt(values.var(axis=(0, 1, 2)) + EPSILON)
    normal = (values - values.mean(axis=(0, 1, 2))) / spread
    inner = arriving - arriving.mean(axis=(0, 1, 2)) - normal * (arriving * normal).mean(axis=(0, 1, 2))
    return GAMMA / spread * inner


@tf.function
def outputs_and_gradients(layer, inputs, arriving):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
        loss = tf.reduce_sum(tf.cast(outputs, arriving.dtype) * arriving)
    return outputs, tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])


def close(got, wanted, tolerance):
    return np.abs(np.asarray(got, np.float64) - wanted).max() <= tolerance * max(1, np.abs(wanted).max())


def test_training_is_the_papers(precision):
    values, arriving = draw()
    layer, tolerance = norm(), TOLERANCES[precision]
    inputs = tf.cast(values, keras.config.dtype_policy().compute_dtype)
    outputs, gradients = outputs_and_gradients(layer, inputs, tf.constant(arriving))
    wanted, mean, variance = literal(values)
    assert outputs.dtype == inputs.dtype and close(outputs, wanted, tolerance)
    normal = (wanted - BETA) / GAMMA
    wanted = [literal_gradient(values, arriving), (arriving * normal).sum((0, 1, 2)), arriving.sum((0, 1, 2))]
    for got, gradient in zip(gradients, wanted, strict=True):
        assert close(got, gradient, 2 * tolerance)
    assert close(layer.moving_mean, 0.1 * mean, tolerance)
    assert close(layer.moving_variance, 0.9 + 0.1 * variance, tolerance)


def test_one_replica_takes_the_fused_kernel(precision):
    layer = norm()
    pixels = tf.TensorSpec(SHAPE, keras.config.dtype_policy().compute_dtype)
    graph = tf.function(lambda inputs: layer(inputs, training=True)).get_concrete_function(pixels).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert ("FusedBatchNormV3" in kinds) == (precision != "float64")  # for which there is none


def test_two_replicas_are_one(precision):
    values, _ = draw()
    inputs = tf.cast(values, keras.config.dtype_policy().compute_dtype)
    one = norm()
    wanted = one(inputs, training=True)
    strategy = make_strategy(1, 2)
    with strategy.scope():
        two = norm()

    @tf.function
    def run():
        halves = strategy.experimental_distribute_values_from_function(
            lambda context: inputs[context.replica_id_in_sync_group * 3 :][:3]
        )
        return strategy.run(lambda half: two(half, training=True), args=(halves,))

    got = np.concatenate([part.numpy() for part in strategy.experimental_local_results(run())])
    assert close(got, np.asarray(wanted, np.float64), TOLERANCES[precision])
    for mine, theirs in zip(two.variables, one.variables, strict=True):
        copies = [copy.numpy() for copy in strategy.experimental_local_results(mine.value)]
        assert np.array_equal(*copies) and close(copies[0], theirs.numpy(), 1e-5)


@pytest.mark.parametrize("shape, axis", [((8, 3), -1), ((6, 3, 5, 4), 1)], ids=["rows", "channels first"])
def test_other_shapes(precision, shape, axis):
    values, _ = draw(shape)
    others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    wide = [1] * len(shape)
    wide[axis] = 3
    wanted, *_ = literal(values, others, GAMMA.reshape(wide), BETA.reshape(wide))
    inputs = tf.cast(values, keras.config.dtype_policy().compute_dtype)
    assert close(norm(shape, axis=axis)(inputs, training=True), wanted, TOLERANCES[precision])


@pytest.mark.parametrize("settings", [{"scale": False}, {"center": False}])
def test_without_scale_or_offset(precision, settings):
    values, _ = draw()
    wanted, *_ = literal(values, gamma=GAMMA if "center" in settings else 1, beta=BETA if "scale" in settings else 0)
    inputs = tf.cast(values, keras.config.dtype_policy().compute_dtype)
    assert close(norm(**settings)(inputs, training=True), wanted, TOLERANCES[precision])


@pytest.mark.parametrize("frozen", [False, True])
def test_moving_statistics_when_not_training_or_frozen(precision, frozen):
    values, _ = draw()
    layer = norm()
    layer.moving_mean.assign([1.0, 2, 3])
    layer.moving_variance.assign([4.0, 1, 9])
    layer.trainable = not frozen
    inputs = tf.cast(values, keras.config.dtype_policy().compute_dtype)
    wanted = GAMMA * (values - [1, 2, 3]) / np.sqrt(np.array([4, 1, 9]) + EPSILON) + BETA
    got = layer(inputs, training=frozen)
    assert got.dtype == inputs.dtype and close(got, wanted, TOLERANCES[precision])
    assert np.array_equal(layer.moving_mean.numpy(), [1, 2, 3])


def test_survives_serialisation():
    layer = norm(center=False)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, BatchNorm) and again.get_config() == layer.get_config()
