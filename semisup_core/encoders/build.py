"""Building an encoder by name, and the copy of it that a user keeps."""

import importlib
from pathlib import Path
from typing import Any

import keras

from semisup_core.encoders import ENCODERS, check_image_size


def build_encoder(params: Any, image_size: int) -> keras.Model:
    """The encoder that a settings object of `ENCODERS` names.

    Args:
        params: an instance of the first member of an ENCODERS entry.
        image_size: side of the images in pixels.

    Returns:
        A model (N, H, W, 3) pixels in 0-255 -> (N, D), its variables created in the current strategy scope.

    Raises:
        ValueError: the images are too small.
    """
    check_image_size(params, image_size)
    module, _, name = ENCODERS[params.name][1].partition(":")
    encoder = getattr(importlib.import_module(module), name)(params, image_size)
    encoder.trainable = params.trainable
    return encoder


def load_weights(encoder: keras.Model, path: Path) -> None:
    """Gives an encoder the weights of a saved model of the same structure.

    Args:
        encoder: built by `build_encoder`.
        path: a .keras file, such as a run's encoder.keras.

    Raises:
        ValueError: the file is no Keras model, or its weights have other shapes.
    """
    try:
        saved = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever a damaged archive makes of its parsing
        raise ValueError(f"{path} cannot be read as a Keras model: {error}") from error
    shapes, wanted = ([tuple(weight.shape) for weight in model.weights] for model in (saved, encoder))
    if shapes != wanted:
        differing = [f"{got} for {want}" for got, want in zip(shapes, wanted, strict=False) if got != want]
        raise ValueError(
            f"{path} has {len(shapes)} arrays of weights where this encoder has {len(wanted)}"
            f"{'; shapes differ: ' if differing else ''}{', '.join(differing[:3])}; expected the same encoder settings"
        )
    kinds, wanted_kinds = ([_kind(layer) for layer in model.layers] for model in (saved, encoder))
    if kinds != wanted_kinds:
        odd = sorted({*kinds} ^ {*wanted_kinds}) or ["their order"]
        raise ValueError(f"{path} has other layers ({', '.join(odd)}); expected the same encoder settings")
    copy_weights(saved, encoder)


def _kind(layer: keras.Layer) -> str:
    """The layer's class as an exported encoder has it."""
    return "BatchNormalization" if isinstance(layer, keras.layers.BatchNormalization) else type(layer).__name__


def exported(model: keras.Model) -> keras.Model:
    """A copy with the same weights that any Keras loads and runs: BatchNorm unsynchronised, float32 throughout."""
    copy = keras.Model.from_config(_plain(model.get_config()))
    copy_weights(model, copy)
    copy.trainable = True  # who goes on training a frozen encoder elsewhere expects it to learn
    return copy


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies the weights of a model into one of the same structure, whatever strategy or precision each is in."""
    target.set_weights([keras.ops.convert_to_numpy(weight) for weight in source.weights])


def _plain(node: Any) -> Any:
    """The model's config with Keras' BatchNorm in place of ours, in float32 whatever the run's precision."""
    if isinstance(node, list | tuple):
        return type(node)(_plain(item) for item in node)
    if not isinstance(node, dict):
        return node
    plain = {key: _plain(value) for key, value in node.items()}
    if plain.get("class_name") == "BatchNorm":
        plain |= {"module": "keras.layers", "class_name": "BatchNormalization", "registered_name": None}
        plain["config"]["synchronized"] = False
    if isinstance(plain.get("dtype"), dict):  # a serialised DTypePolicy
        plain["dtype"] = "float32"
    return plain
