"""Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385).

The large-image stem is the paper's: a 7x7 convolution and a 3x3 max pooling, each of stride 2. The small-image stem is
one 3x3 convolution of stride 1 (Chen et al., 2002.05709, appendix B.9, for CIFAR-10).

Departures from the paper: in a bottleneck block the 3x3 convolution has the stride, not the 1x1 one before it (what is
called v1.5 and used by the code of most later papers); BatchNorm as in `semisup_core.layers`.
"""

from collections.abc import Callable

import keras

from semisup_core.encoders import Resnet18Params, Resnet50Params
from semisup_core.layers import BatchNorm

# (input, channels inside the block, stride, name) -> output.
_Block = Callable[[keras.KerasTensor, int, int, str], keras.KerasTensor]


def resnet18(params: Resnet18Params, image_size: int) -> keras.Model:
    """ResNet-18: two basic blocks in each of four stages.

    Args:
        params: width, channels of the first of four stages; stem.
        image_size: side in pixels; the model takes any size.

    Returns:
        A model (N, H, W, 3) pixels in 0-255 -> (N, 8 * width).
    """
    return _resnet(params.width, params.stem, (2, 2, 2, 2), _basic_block)


def resnet50(params: Resnet50Params, image_size: int) -> keras.Model:
    """ResNet-50: 3, 4, 6 and 3 bottleneck blocks in four stages.

    Args:
        params: width, channels inside the blocks of the first of four stages; stem.
        image_size: side in pixels; the model takes any size.

    Returns:
        A model (N, H, W, 3) pixels in 0-255 -> (N, 32 * width).
    """
    return _resnet(params.width, params.stem, (3, 4, 6, 3), _bottleneck_block)


def _resnet(width: int, stem: str, blocks: tuple[int, ...], block: _Block) -> keras.Model:
    inputs = keras.Input((None, None, 3), name="images")
    x = _stem(keras.layers.Rescaling(1 / 255, name="rescale")(inputs), width, stem)
    for i, count in enumerate(blocks):
        for j in range(count):
            x = block(x, width * 2**i, 2 if i > 0 and j == 0 else 1, f"stage{i + 1}_block{j + 1}")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="encoder")


def _stem(x: keras.KerasTensor, width: int, stem: str) -> keras.KerasTensor:
    large = stem == "large"
    x = _conv_norm_relu(x, width, 7 if large else 3, 2 if large else 1, "stem")
    return keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x) if large else x


def _basic_block(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    y = _conv_norm_relu(x, width, 3, stride, f"{name}_a")
    return _add_relu(x, _conv_norm(y, width, 3, 1, f"{name}_b"), stride, name)


def _bottleneck_block(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    y = _conv_norm_relu(x, width, 1, 1, f"{name}_a")
    y = _conv_norm_relu(y, width, 3, stride, f"{name}_b")
    return _add_relu(x, _conv_norm(y, 4 * width, 1, 1, f"{name}_c"), stride, name)


def _add_relu(x: keras.KerasTensor, y: keras.KerasTensor, stride: int, name: str) -> keras.KerasTensor:
    """The end of a block: what it computed plus its input, projected where the shapes differ."""
    if stride != 1 or x.shape[-1] != y.shape[-1]:
        x = _conv_norm(x, y.shape[-1], 1, stride, f"{name}_shortcut")
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_add")([x, y]))


def _conv_norm_relu(x: keras.KerasTensor, width: int, kernel: int, stride: int, name: str) -> keras.KerasTensor:
    return keras.layers.ReLU(name=f"{name}_relu")(_conv_norm(x, width, kernel, stride, name))


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
    return BatchNorm(name=f"{name}_norm")(x)
