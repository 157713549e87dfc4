"""Encoders: shapes, sizes they refuse, and a file that plain Keras loads without this package."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from semisup_core.devices import set_precision
from semisup_core.encoders import ENCODERS
from semisup_core.encoders.build import build_encoder, exported

NARROW = {"conv": {"width": 8}, "resnet18": {"width": 4}}


def narrow(name, **settings):
    return ENCODERS[name][0](**{**NARROW[name], **settings})


def pixels(count=3, side=32):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "name, settings, features",
    [("conv", {}, 8), ("conv", {"pool": "average"}, 8), ("conv", {"batch_norm": False}, 8), ("resnet18", {}, 32)],
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
        assert all(layer.synchronized for layer in layers if isinstance(layer, keras.layers.BatchNormalization))
        assert not any(
            layer.use_bias for layer in layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
        )


def test_resnet18_has_its_eighteen_layers():
    layers = build_encoder(ENCODERS["resnet18"][0](), 32).layers
    weighted = [layer for layer in layers if isinstance(layer, keras.layers.Conv2D) and "shortcut" not in layer.name]
    assert len(weighted) == 17  # the eighteenth was the classifier
    assert build_encoder(ENCODERS["resnet18"][0](), 32).output_shape == (None, 512)


@pytest.mark.parametrize("name, side", [("conv", 30), ("resnet18", 7)])
def test_images_that_are_too_small_are_refused(name, side):
    with pytest.raises(ValueError, match=f"got {side}"):
        build_encoder(narrow(name), side)


def test_other_sizes():
    assert build_encoder(narrow("conv", pool="average"), 32)(pixels(side=48)).shape == (3, 8)
    assert build_encoder(narrow("resnet18"), 32)(pixels(side=17)).shape == (3, 32)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "float64"])
def test_exported_file_loads_in_plain_keras(tmp_path, name, precision):
    set_precision(precision)
    encoder = build_encoder(narrow(name), 32)
    for weight in encoder.weights:  # away from the initial values, moving statistics too
        noise = np.random.default_rng(weight.shape[-1]).uniform(0.5, 1.5, weight.shape)
        weight.assign(keras.ops.convert_to_numpy(weight) * 0.5 + 0.1 * noise)
    copy = exported(encoder)
    copy.save(tmp_path / "encoder.keras")
    np.save(tmp_path / "pixels.npy", pixels())
    program = (
        "import keras, numpy as np, sys\n"
        "encoder = keras.saving.load_model('encoder.keras', safe_mode=True)\n"
        "assert not any(getattr(layer, 'synchronized', False) for layer in encoder.layers)\n"
        "pixels = np.load('pixels.npy')\n"
        "as_integers = encoder.predict(pixels, verbose=0)\n"
        "as_floats = encoder.predict(pixels.astype('float32'), verbose=0)\n"
        "assert np.array_equal(as_integers, as_floats) and as_integers.dtype == np.float32\n"
        "assert not any(name.startswith('semisup') for name in sys.modules)\n"
        "np.save('features.npy', as_integers)\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, timeout=120)
    expected = keras.ops.convert_to_numpy(keras.ops.cast(encoder(pixels(), training=False), "float32"))
    tolerance = 0.05 if precision == "mixed_bfloat16" else 1e-4  # bfloat16 arithmetic against float32
    features = np.load(tmp_path / "features.npy")
    assert np.abs(features - expected).max() <= tolerance * np.abs(expected).max()
