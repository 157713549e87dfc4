"""The small convolution encoder of the Keras SimCLR example and of the four-method study."""

import keras

from semisup_core.encoders import ConvParams
from semisup_core.encoders.side_by_side import SideBySide
from semisup_core.layers import BatchNorm


def conv(params: ConvParams, image_size: int) -> keras.Model:
    """Four stride-2 3x3 VALID convolutions with ReLU, then a dense layer, with ReLU if `output_relu`.

    With `batch_norm` each convolution and the dense layer is followed by BatchNorm and carries no bias of its own
    (one in front of BatchNorm has no effect, but drifts with rounding).

    Args:
        params: width (channels and features out), pool, batch_norm.
        image_size: side in pixels; `pool="average"` takes any other size as well.

    Returns:
        A model (N, H, W, 3) pixels in 0-255 -> (N, width).
    """
    side = image_size if params.pool == "flatten" else None
    inputs = keras.Input((side, side, 3), name="images")
    x = keras.layers.Rescaling(1 / 255, name="rescale")(inputs)
    for i in range(1, 5):
        x = keras.layers.Conv2D(params.width, 3, strides=2, use_bias=not params.batch_norm, name=f"conv{i}")(x)
        x = _norm_relu(x, params.batch_norm, i)
    pool = keras.layers.Flatten if params.pool == "flatten" else keras.layers.GlobalAveragePooling2D
    x = pool(name="pool")(x)
    x = keras.layers.Dense(params.width, use_bias=not params.batch_norm, name="dense")(x)
    x = _norm_relu(x, params.batch_norm, 5, relu=params.output_relu)
    # BatchNorm's statistics are over images, which the places between them would spoil.
    kind = keras.Model if params.batch_norm else SideBySide
    return kind(inputs, x, name="encoder")


def _norm_relu(x: keras.KerasTensor, normed: bool, i: int, relu: bool = True) -> keras.KerasTensor:
    if normed:
        x = BatchNorm(name=f"norm{i}")(x)
    return keras.layers.ReLU(name=f"relu{i}")(x) if relu else x
