"""Encoders: shapes, sizes they refuse, and a file that plain Keras loads without this package."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from semisup_core.devices import set_precision
from semisup_core.encoders import ENCODERS
from semisup_core.encoders.build import build_encoder, exported
from semisup_core.layers import BatchNorm

NARROW = {
    "conv": {"width": 8},
    "keras_application": {"backbone": "MobileNet"},
    "resnet18": {"width": 4},
    "resnet50": {"width": 2},
    "wide_resnet28_2": {"width": 2},
}
FEW = ["conv", "resnet18"]


def narrow(name, **settings):
    return ENCODERS[name][0](**{**NARROW[name], **settings})


def pixels(count=3, side=32):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "name, settings, features",
    [
        ("conv", {}, 8),
        ("conv", {"pool": "average"}, 8),
        ("conv", {"batch_norm": False}, 8),
        ("keras_application", {}, 1024),
        ("resnet18", {}, 32),
        ("resnet18", {"stem": "large"}, 32),
        ("resnet50", {}, 64),
        ("resnet50", {"stem": "small"}, 64),
        ("wide_resnet28_2", {}, 16),
    ],
)
def test_features_are_rows(name, settings, features):
    encoder = build_encoder(narrow(name, **settings), 32)
    assert encoder(pixels()).shape == (3, features) and encoder.output_shape == (None, features)
    assert np.isfinite(encoder(pixels())).all()


def test_conv_is_the_documented_stack():
    layers = build_encoder(narrow("conv", batch_norm=False), 96).layers
    kinds = [type(layer).__name__ for layer in layers if not isinstance(layer, keras.layers.InputLayer)]
    assert kinds == ["Rescaling", *["Conv2D", "ReLU"] * 4, "Flatten", "Dense", "ReLU"]
    convolutions = [layer for layer in layers if isinstance(layer, keras.layers.Conv2D)]
    assert all(layer.strides == (2, 2) and layer.padding == "valid" for layer in convolutions)
    assert layers[-3].output.shape == (None, 5 * 5 * 8)


def test_batch_norm_is_synchronised_and_nothing_before_it_has_a_bias():
    for name in ENCODERS:
        layers = build_encoder(narrow(name), 32).layers
        normalisations = [layer for layer in layers if isinstance(layer, BatchNorm)]
        assert normalisations and all(layer.synchronized and layer.momentum == 0.9 for layer in normalisations)
        assert not any(
            layer.use_bias for layer in layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
        )


# The counts of the usual implementations without their classifiers: torchvision's ResNets (11,689,512 and 25,557,032
# less 1000 outputs), and the WRN-28-2 of 1,467,610 that semi-supervised papers report (less 10 outputs).
@pytest.mark.parametrize(
    "name, settings, layers, parameters",
    [
        ("resnet18", {"stem": "large"}, 17, 11_176_512),
        ("resnet50", {}, 49, 23_508_032),
        ("wide_resnet28_2", {}, 25, 1_466_320),
    ],
)
def test_residual_networks_are_the_published_ones(name, settings, layers, parameters):
    encoder = build_encoder(ENCODERS[name][0](**settings), 32)
    convolutions = [layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len([layer for layer in convolutions if "shortcut" not in layer.name]) == layers  # and the classifier
    assert sum(int(np.prod(variable.shape)) for variable in encoder.trainable_variables) == parameters


def test_resnet50_strides_in_the_middle_of_a_block():
    layers = build_encoder(narrow("resnet50"), 32).layers
    halving = [layer.name for layer in layers if getattr(layer, "strides", None) == (2, 2)]
    blocks = [f"stage{stage}_block1_{part}_conv" for stage in (2, 3, 4) for part in ("b", "shortcut")]
    assert sorted(halving) == sorted(["stem_conv", "stem_pool", *blocks])


def test_wide_resnet_activates_before_it_convolves():
    encoder = build_encoder(narrow("wide_resnet28_2"), 32)
    first, second = encoder.get_layer("stage1_block1_shortcut_conv"), encoder.get_layer("stage2_block1_shortcut_conv")
    assert first.input is encoder.get_layer("stage1_block1_a_relu").output  # the first block's shortcut only
    assert second.input is encoder.get_layer("stage1_block4_add").output
    assert encoder.get_layer("pool").input is encoder.get_layer("last_relu").output
    slopes = [layer.negative_slope for layer in encoder.layers if isinstance(layer, keras.layers.LeakyReLU)]
    assert len(slopes) == 25 and slopes == pytest.approx([0.1] * 25)


@pytest.mark.parametrize(
    "name, settings, side, words",
    [
        ("conv", {}, 31, "at least 31 pixels for encoder conv, got 30"),
        ("resnet18", {}, 8, "at least 8 pixels for encoder resnet18 with encoder.stem=small, got 7"),
        ("resnet50", {}, 32, "at least 32 pixels for encoder resnet50 with encoder.stem=large, got 31"),
        ("wide_resnet28_2", {}, 4, "at least 4 pixels for encoder wide_resnet28_2, got 3"),
        ("keras_application", {"backbone": "Xception"}, 71, "at least 71 pixels for .*backbone=Xception, got 70"),
    ],
)
def test_images_that_are_too_small_are_refused(name, settings, side, words):
    params = narrow(name, **settings)
    with pytest.raises(ValueError, match=words):
        build_encoder(params, side - 1)
    assert np.isfinite(build_encoder(params, side)(pixels(side=side))).all()


def test_other_sizes():
    assert build_encoder(narrow("conv", pool="average"), 32)(pixels(side=48)).shape == (3, 8)
    for name in ("resnet18", "resnet50", "wide_resnet28_2", "keras_application"):
        encoder = build_encoder(narrow(name), 32)
        assert encoder(pixels(side=39)).shape == (3, *encoder.output_shape[1:])


@pytest.mark.parametrize("name", ["keras_application", "resnet50", "wide_resnet28_2"])
@pytest.mark.parametrize("precision, norm", [("mixed_bfloat16", "float32"), ("float64", "float64")])
def test_batch_norm_computes_in_at_least_float32(name, precision, norm):
    set_precision(precision)
    encoder = build_encoder(narrow(name), 32)
    features = encoder(pixels(), training=True)
    assert features.dtype == precision.removeprefix("mixed_")
    norms = [layer for layer in encoder.layers if isinstance(layer, BatchNorm)]
    assert {layer.compute_dtype for layer in norms} == {layer.variable_dtype for layer in norms} == {norm}


def perturbed(encoder):
    """The encoder with all its weights away from their initial values, moving statistics too."""
    for weight in encoder.weights:
        noise = np.random.default_rng(weight.shape[-1]).uniform(0.5, 1.5, weight.shape)
        weight.assign(keras.ops.convert_to_numpy(weight) * 0.5 + 0.1 * noise)
    return encoder


LOADING = """
import json, pathlib, sys
import keras, numpy as np

pixels = np.load("pixels.npy")
for file in sorted(pathlib.Path().glob("*.keras")):
    encoder = keras.saving.load_model(file, safe_mode=True)
    assert not any(getattr(layer, "synchronized", False) for layer in encoder.layers)
    as_integers, as_floats = (encoder(images).numpy() for images in (pixels, pixels.astype("float32")))
    assert np.array_equal(as_integers, as_floats) and as_integers.dtype == np.float32
    np.save(file.stem, as_integers)
assert np.allclose(encoder.predict(pixels, verbose=0), as_integers, rtol=1e-4, atol=1e-5 * np.abs(as_integers).max())
assert not any(name.startswith("semisup") for name in sys.modules)
"""


def check_exported_files(folder, encoders, tolerance, side=32):
    """Saves encoders by name, loads them in a process without this package, compares their features."""
    images = pixels(side=side)
    np.save(folder / "pixels.npy", images)
    for name, encoder in encoders.items():
        exported(encoder).save(folder / f"{name}.keras")
    subprocess.run([sys.executable, "-I", "-c", LOADING], cwd=folder, check=True, timeout=120)
    for name, encoder in encoders.items():
        expected = keras.ops.convert_to_numpy(keras.ops.cast(encoder(images, training=False), "float32"))
        features = np.load(folder / f"{name}.npy")
        assert np.abs(features - expected).max() <= tolerance * np.abs(expected).max(), name


# In the other precisions two of them: what differs is how Keras writes down a layer's precision.
@pytest.mark.parametrize(
    "precision, names",
    [("float32", list(ENCODERS)), ("mixed_bfloat16", FEW), ("float64", FEW)],
    ids=["float32", "mixed_bfloat16", "float64"],
)
def test_exported_files_load_in_plain_keras(tmp_path, precision, names):
    set_precision(precision)
    tolerance = 0.05 if precision == "mixed_bfloat16" else 1e-4  # bfloat16 arithmetic against float32
    check_exported_files(tmp_path, {name: perturbed(build_encoder(narrow(name), 32)) for name in names}, tolerance)


@pytest.mark.slow
def test_exported_keras_applications_load_in_plain_keras(tmp_path):
    """One with dropout, two with layers that Keras keeps to itself."""
    backbones = ("EfficientNetB0", "ConvNeXtTiny", "InceptionResNetV2")
    encoders = {name: build_encoder(narrow("keras_application", backbone=name), 75) for name in backbones}
    check_exported_files(tmp_path, encoders, 1e-4, side=75)
