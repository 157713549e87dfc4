"""Any network of `keras.applications`, untrained, made fit for several replicas.

Departures from what Keras builds, all for training from scratch on any number of replicas:

- BatchNorm is the one of `semisup_core.layers` (over all replicas, 0.9 of the statistics kept a step) with the axis and
  epsilon of the backbone; a convolution right in front of one has no bias.
- Dropout has rate 0 (the stochastic depth of EfficientNet is one): Keras draws equal masks on all replicas.
- Pixels become -1 … 1 where the backbone does not scale them itself. Some families were published with other constants
  (per channel, or BGR); with their weights those would matter, without any they do not.
"""

from typing import Any

import keras

from semisup_core.encoders import KerasApplicationParams
from semisup_core.encoders.backbones import BACKBONES
from semisup_core.layers import BatchNorm

# Layers that Keras keeps to itself and that compute the same on every replica.
_PRIVATE_BUT_EXACT = ("CustomScaleLayer", "LayerScale")


def keras_application(params: KerasApplicationParams, image_size: int) -> keras.Model:
    """The convolutional part of a backbone, average-pooled.

    Args:
        params: backbone.
        image_size: side in pixels; the model takes any size from `params.smallest_side`, but for `fixed_side`.

    Returns:
        A model (N, H, W, 3) pixels in 0-255 -> (N, D), D as the backbone has it.

    Raises:
        ValueError: a layer of the backbone draws random numbers in a way that cannot be turned off.
    """
    facts = BACKBONES[params.backbone]
    side = image_size if facts.fixed_side else None
    inputs = x = keras.Input((side, side, 3), name="images")
    if not facts.scales_pixels:
        x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(inputs)
    backbone = getattr(keras.applications, params.backbone)
    return replicable(backbone(weights=None, include_top=False, pooling="avg", input_tensor=x), params.backbone)


def replicable(model: keras.Model, name: str) -> keras.Model:
    """A new model of the same structure that R replicas train as one does.

    Args:
        model: a functional model of Keras layers.
        name: what errors call it.

    Returns:
        The model, with variables of its own, newly drawn.

    Raises:
        ValueError: names the layer that draws random numbers, or that nobody has looked at.
    """
    without_bias = _before_batch_norm(model)

    def copy(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            return BatchNorm(**config)
        if isinstance(layer, keras.layers.Dropout):
            config["rate"] = 0.0
        else:
            _check_exact(layer, config, name)
        if layer.name in without_bias:
            config["use_bias"] = False
        return type(layer).from_config(config)

    copied = keras.models.clone_model(model, clone_function=copy, recursive=True)
    return keras.Model(copied.inputs[0], copied.outputs[0], name="encoder")


def _before_batch_norm(model: keras.Model) -> set[str]:
    """The names of the layers whose output BatchNorm alone reads, which takes a bias out again."""
    normed: set[int] = set()
    read = {id(model.outputs[0])}
    for operation in model.operations:
        ids = {id(tensor) for tensor in keras.tree.flatten(operation.input)}
        (normed if isinstance(operation, keras.layers.BatchNormalization) else read).update(ids)
    linear = [
        layer
        for layer in model.layers
        if getattr(layer, "use_bias", False) and getattr(layer, "activation", None) is keras.activations.linear
    ]
    return {layer.name for layer in linear if id(layer.output) in normed - read}


def _check_exact(layer: Any, config: dict[str, Any], name: str) -> None:
    kind = type(layer).__name__
    if not isinstance(layer, keras.Layer):  # an operator such as +, a pure function
        return
    if "seed" in config or not (kind in _PRIVATE_BUT_EXACT or getattr(keras.layers, kind, None) is type(layer)):
        raise ValueError(
            f"{name}: expected layers that compute the same on any number of replicas, got {layer.name} ({kind}), "
            "which draws random numbers or is not known; choose another encoder.backbone"
        )
