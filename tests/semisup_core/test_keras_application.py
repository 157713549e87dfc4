"""keras.applications: the list is what Keras offers, and what is rebuilt is the backbone but for its noise."""

import inspect

import keras
import numpy as np
import pytest

from semisup_core.encoders import KerasApplicationParams
from semisup_core.encoders.backbones import BACKBONES
from semisup_core.encoders.build import build_encoder
from semisup_core.encoders.keras_application import replicable

OWN_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)
BIASED = ("ResNet50", "ResNet101", "ResNet152")  # Keras gives these a bias in front of every BatchNorm


def pixels(side, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype("float32")


def original(backbone, side):
    build = getattr(keras.applications, backbone)
    return build(weights=None, include_top=False, pooling="avg", input_shape=(side, side, 3))


def layers(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def test_the_list_is_what_keras_offers():
    offered = {name for name, entry in vars(keras.applications).items() if inspect.isfunction(entry)}
    assert set(BACKBONES) == offered, "semisup_core/encoders/backbones.py lists another set of keras.applications"


def test_smallest_sides_are_those_of_keras():
    for name, facts in BACKBONES.items():
        side, build = facts.smallest_side - 1, getattr(keras.applications, name)
        with pytest.raises(ValueError, match=f"must be at least {side + 1}x{side + 1}"):
            build(weights=None, include_top=False, input_shape=(side, side, 3))


@pytest.mark.parametrize("name", ["", "MobileNetV4"])
def test_unknown_backbones_are_refused(name):
    with pytest.raises(ValueError, match=f"backbone: expected one of .*got '{name}'"):
        KerasApplicationParams(backbone=name)


def check_rebuilt(name):
    """A rebuilt backbone draws nothing, takes 0-255, and computes what Keras' own does with the same weights."""
    facts = BACKBONES[name]
    encoder = build_encoder(KerasApplicationParams(backbone=name), facts.smallest_side)
    images = pixels(facts.smallest_side)
    features = keras.ops.convert_to_numpy(encoder(images, training=True))  # moves the statistics, too
    assert np.isfinite(features).all() and features.shape == (2, encoder.output_shape[-1])
    assert np.array_equal(features, keras.ops.convert_to_numpy(encoder(images, training=True)))
    assert all(layer.synchronized for layer in layers(encoder, keras.layers.BatchNormalization))

    theirs = original(name, facts.smallest_side if facts.fixed_side else None)
    assert bool(layers(theirs, OWN_SCALING)) == facts.scales_pixels
    dropped = "_conv/bias" if name in BIASED else "none"
    ours = iter(encoder.get_weights())
    theirs.set_weights([np.zeros(w.shape) if w.path.endswith(dropped) else next(ours) for w in theirs.weights])
    assert not list(ours)
    expected = theirs(images if facts.scales_pixels else images / 127.5 - 1, training=False)
    # 1e-3: float32 through up to several hundred layers, in another order where a bias was dropped.
    assert np.allclose(encoder(images, training=False), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "ResNet50"])
def test_some_backbones_are_rebuilt(name):
    check_rebuilt(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_rebuilt(name):
    check_rebuilt(name)
    keras.backend.clear_session()


def functional(*between):
    inputs = x = keras.Input((8, 8, 3))
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def test_a_bias_that_only_batch_norm_sees_is_left_out():
    plain = functional(keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization())
    activated = functional(keras.layers.Conv2D(4, 1, activation="relu"), keras.layers.BatchNormalization())
    between = functional(keras.layers.Conv2D(4, 1), keras.layers.ReLU(), keras.layers.BatchNormalization())
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1)(inputs)
    also_added = keras.Model(inputs, keras.layers.Flatten()(x + keras.layers.BatchNormalization()(x)))
    for model, biased in ((plain, False), (activated, True), (between, True), (also_added, True)):
        assert layers(replicable(model, "test"), keras.layers.Conv2D)[0].use_bias == biased


def test_what_batch_norm_has_of_its_backbone_stays():
    model = functional(keras.layers.BatchNormalization(epsilon=0.02, scale=False, momentum=0.5, name="mine"))
    (norm,) = layers(replicable(model, "test"), keras.layers.BatchNormalization)
    assert (norm.name, norm.epsilon, norm.scale, norm.center) == ("mine", 0.02, False, True)
    assert (norm.synchronized, norm.momentum) == (True, 0.9)


@pytest.mark.parametrize("kind, settings", [("GaussianNoise", {"stddev": 0.1}), ("RandomFlip", {})])
def test_a_layer_that_cannot_be_silenced_is_refused_by_name(kind, settings):
    layer = getattr(keras.layers, kind)(**settings, name="noise")
    for model in (functional(layer), functional(keras.Sequential([layer]))):
        with pytest.raises(ValueError, match=f"tiny: .*noise \\({kind}\\).*encoder.backbone"):
            replicable(model, "tiny")


def test_a_layer_that_nobody_has_looked_at_is_refused_by_name():
    class StochasticDepth(keras.layers.Layer):
        def call(self, x):
            return x * keras.random.uniform((1,))

    with pytest.raises(ValueError, match="depth \\(StochasticDepth\\)"):
        replicable(functional(StochasticDepth(name="depth")), "tiny")
