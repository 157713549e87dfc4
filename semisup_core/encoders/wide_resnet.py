"""Wide residual network (Zagoruyko and Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146), 28 layers, 2 wide.

As in the semi-supervised papers that report it (Oliver et al., 1804.09170; FixMatch: Sohn et al., 2001.07685) and the
code of FixMatch: leaky ReLU of slope 0.1, no dropout, fan-out initialisation, the first block's shortcut taken after
its activation and the other ones before it.

Departures from that code: moving statistics keep 0.9 a step (0.999 there; see `semisup_core.layers`); pixels are scaled
to 0-1, not standardised by the data set; convolutions have no bias (a BatchNorm follows every path and takes it out).
"""

import keras

from semisup_core.encoders import WideResnet28x2Params
from semisup_core.layers import BatchNorm

_BLOCKS = 4  # in each of 3 stages, of 2 convolutions each; with the stem and 3 shortcuts 28 convolutions
_WIDEN = 2
_SLOPE = 0.1


def wide_resnet28_2(params: WideResnet28x2Params, image_size: int) -> keras.Model:
    """WRN-28-2, pre-activation; 128 features at its usual width of 16.

    Args:
        params: width, channels of the stem.
        image_size: side in pixels; the model takes any size.

    Returns:
        A model (N, H, W, 3) pixels in 0-255 -> (N, 8 * width).
    """
    inputs = keras.Input((None, None, 3), name="images")
    x = keras.layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = _conv(x, params.width, 3, 1, "stem")
    for stage in range(3):
        for block in range(_BLOCKS):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"stage{stage + 1}_block{block + 1}"
            x = _block(x, params.width * _WIDEN * 2**stage, stride, name, activated_shortcut=stage == block == 0)
    x = _norm_relu(x, "last")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="encoder")


def _block(x: keras.KerasTensor, width: int, stride: int, name: str, activated_shortcut: bool) -> keras.KerasTensor:
    y = _norm_relu(x, f"{name}_a")
    if activated_shortcut:
        x = y
    if x.shape[-1] != width:
        x = _conv(x, width, 1, stride, f"{name}_shortcut")
    y = _conv(y, width, 3, stride, f"{name}_a")
    y = _conv(_norm_relu(y, f"{name}_b"), width, 3, 1, f"{name}_b")
    return keras.layers.Add(name=f"{name}_add")([x, y])


def _norm_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.LeakyReLU(_SLOPE, name=f"{name}_relu")(BatchNorm(name=f"{name}_norm")(x))


def _conv(x: keras.KerasTensor, width: int, kernel: int, stride: int, name: str) -> keras.KerasTensor:
    return keras.layers.Conv2D(
        width,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
