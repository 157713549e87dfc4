"""What `keras.applications` offers, as plain data: a wrong name is refused without importing keras.

A test compares the list with the installed Keras; what it reports after an upgrade is to be mended here.
"""

from typing import NamedTuple


class Backbone(NamedTuple):
    """One function of `keras.applications`.

    Attributes:
        smallest_side: pixels; Keras refuses fewer.
        scales_pixels: whether the model takes pixels in 0-255 and scales them itself.
        fixed_side: whether it must be built for the one size of image that it will see; the others take any.
    """

    smallest_side: int
    scales_pixels: bool = False
    fixed_side: bool = False


BACKBONES: dict[str, Backbone] = {
    "ConvNeXtBase": Backbone(32, scales_pixels=True),
    "ConvNeXtLarge": Backbone(32, scales_pixels=True),
    "ConvNeXtSmall": Backbone(32, scales_pixels=True),
    "ConvNeXtTiny": Backbone(32, scales_pixels=True),
    "ConvNeXtXLarge": Backbone(32, scales_pixels=True),
    "DenseNet121": Backbone(32),
    "DenseNet169": Backbone(32),
    "DenseNet201": Backbone(32),
    "EfficientNetB0": Backbone(32, scales_pixels=True),
    "EfficientNetB1": Backbone(32, scales_pixels=True),
    "EfficientNetB2": Backbone(32, scales_pixels=True),
    "EfficientNetB3": Backbone(32, scales_pixels=True),
    "EfficientNetB4": Backbone(32, scales_pixels=True),
    "EfficientNetB5": Backbone(32, scales_pixels=True),
    "EfficientNetB6": Backbone(32, scales_pixels=True),
    "EfficientNetB7": Backbone(32, scales_pixels=True),
    "EfficientNetV2B0": Backbone(32, scales_pixels=True),
    "EfficientNetV2B1": Backbone(32, scales_pixels=True),
    "EfficientNetV2B2": Backbone(32, scales_pixels=True),
    "EfficientNetV2B3": Backbone(32, scales_pixels=True),
    "EfficientNetV2L": Backbone(32, scales_pixels=True),
    "EfficientNetV2M": Backbone(32, scales_pixels=True),
    "EfficientNetV2S": Backbone(32, scales_pixels=True),
    "InceptionResNetV2": Backbone(75),
    "InceptionV3": Backbone(75),
    "MobileNet": Backbone(32),
    "MobileNetV2": Backbone(32),
    "MobileNetV3Large": Backbone(32, scales_pixels=True),
    "MobileNetV3Small": Backbone(32, scales_pixels=True),
    "NASNetLarge": Backbone(32, fixed_side=True),
    "NASNetMobile": Backbone(32, fixed_side=True),
    "ResNet101": Backbone(32),
    "ResNet101V2": Backbone(32),
    "ResNet152": Backbone(32),
    "ResNet152V2": Backbone(32),
    "ResNet50": Backbone(32),
    "ResNet50V2": Backbone(32),
    "VGG16": Backbone(32),
    "VGG19": Backbone(32),
    "Xception": Backbone(71),
}
