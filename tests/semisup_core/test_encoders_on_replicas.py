"""New encoders train on two replicas as on one: losses and weights in float64, every variable equal on both."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from semisup_core.devices import make_strategy, set_precision
from semisup_core.encoders import KerasApplicationParams, Resnet50Params, WideResnet28x2Params
from semisup_core.encoders.build import build_encoder
from semisup_core.encoders.keras_application import replicable
from semisup_core.replica import Replica

STEPS, BATCH = 2, 8


def tiny_application():
    """What the backbones of Keras hold, in small: a bias in front of BatchNorm, dropout, an inner Sequential."""
    inputs = x = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    x = keras.layers.Normalization()(x)
    x = keras.layers.BatchNormalization(epsilon=1e-4)(keras.layers.Conv2D(4, 3, strides=2)(x))
    x = x + keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(keras.layers.ReLU()(x))
    x = keras.Sequential([keras.layers.DepthwiseConv2D(3), keras.layers.BatchNormalization(scale=False)])(x)
    return replicable(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)), "tiny")


def application(backbone):
    return lambda: build_encoder(KerasApplicationParams(backbone=backbone), 32)


CASES = [
    pytest.param(tiny_application, 12, id="tiny_application"),
    pytest.param(application("MobileNet"), 32, id="MobileNet"),
    pytest.param(lambda: build_encoder(WideResnet28x2Params(width=2), 8), 8, id="wide_resnet28_2"),
    pytest.param(lambda: build_encoder(Resnet50Params(width=2), 64), 64, id="resnet50", marks=pytest.mark.slow),
    pytest.param(application("EfficientNetB0"), 32, id="EfficientNetB0", marks=pytest.mark.slow),
    pytest.param(application("ResNet50"), 32, id="ResNet50", marks=pytest.mark.slow),
]


def train(build, side, replicas, precision="float64"):
    """The losses of steps towards fixed features, the encoder, its strategy; eager, as tracing would take longer."""
    set_precision(precision)
    keras.utils.set_random_seed(0)
    strategy, replica = make_strategy(1, replicas), Replica()
    with strategy.scope():
        encoder = build()
        optimizer = keras.optimizers.Adam(1e-2)
        optimizer.build(encoder.trainable_variables)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (STEPS, replicas, BATCH // replicas, side, side, 3)).astype(keras.config.floatx())
    wanted = draw.normal(size=(*images.shape[:3], encoder.output_shape[-1])).astype(images.dtype)

    def step(images, wanted):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.cast(encoder(images, training=True), wanted.dtype) - wanted) ** 2)
            scaled = replica.scale(loss)
        variables = encoder.trainable_variables
        optimizer.apply(tape.gradient(scaled, [variable.value for variable in variables]), variables)
        return loss

    def global_step(*values):
        shares = [
            strategy.experimental_distribute_values_from_function(
                lambda context, value=value: tf.constant(value[context.replica_id_in_sync_group])
            )
            for value in values
        ]
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(step, args=shares), axis=None).numpy()

    return np.array([global_step(*values) for values in zip(images, wanted, strict=True)]), encoder, strategy


@pytest.mark.parametrize("build, side", CASES)
def test_two_replicas_train_as_one(build, side):
    losses_of_one, one, _ = train(build, side, 1)
    losses_of_two, two, strategy = train(build, side, 2)
    assert np.allclose(losses_of_one, losses_of_two, rtol=1e-9, atol=0)
    pairs = [[keras.ops.convert_to_numpy(v) for v in pair] for pair in zip(one.variables, two.variables, strict=True)]
    difference = sum(np.sum((a - b) ** 2.0) for a, b in pairs)
    assert np.sqrt(difference / sum(np.sum(a**2.0) for a, _ in pairs)) <= 1e-9
    for variable in two.variables:
        copies = [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]
        assert len(copies) == 2 and np.array_equal(*copies), variable.path


def test_bfloat16_trains_on_two_replicas_close_to_float32():
    half, encoder, _ = train(tiny_application, 12, 2, "mixed_bfloat16")
    full, _, _ = train(tiny_application, 12, 2, "float32")
    assert half == pytest.approx(full, rel=0.05)  # 8 bits of mantissa
    assert {variable.dtype for variable in encoder.trainable_variables} == {"float32"}
