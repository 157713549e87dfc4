"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385)."""

import keras

from semisup_core.encoders import Resnet18Params
from semisup_core.layers import batch_norm


def resnet18(params: Resnet18Params, image_size: int) -> keras.Model:
    """ResNet-18 with the small-image stem: one stride-1 3x3 convolution, no pooling (as for CIFAR in 2002.05709, B.9).

    Args:
        params: width, channels of the first of four stages.
        image_size: side in pixels; the model takes any size.

    Returns:
        A model (N, H, W, 3) pixels in 0-255 -> (N, 8 * width).
    """
    inputs = keras.Input((None, None, 3), name="images")
    x = keras.layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = keras.layers.ReLU(name="stem_relu")(_conv_norm(x, params.width, 3, 1, "stem"))
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(x, params.width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="encoder")


def _basic_block(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        shortcut = _conv_norm(x, width, 1, stride, f"{name}_shortcut")
    y = keras.layers.ReLU(name=f"{name}_relu1")(_conv_norm(x, width, 3, stride, f"{name}_a"))
    y = _conv_norm(y, width, 3, 1, f"{name}_b")
    return keras.layers.ReLU(name=f"{name}_relu2")(keras.layers.Add(name=f"{name}_add")([shortcut, y]))


def _conv_norm(x: keras.KerasTensor, width: int, kernel: int, stride: int, name: str) -> keras.KerasTensor:
    x = keras.layers.Conv2D(
        width,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return batch_norm(f"{name}_norm")(x)
