"""The encoders by name: images in 0-255 to features (N, D). Imports no keras (see `methods`).

Beside its settings, a params class says the `smallest_side` in pixels that its encoder takes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from semisup_core.encoders.backbones import BACKBONES
from semisup_core.settings import Settings, setting

# By stem, the side of which a residual network's strides leave 1 x 1.
_RESNET_SIDES = {"small": 8, "large": 32}


@dataclass(frozen=True)
class EncoderParams(Settings):
    """Settings of every encoder.

    `init` is what its weights start from, an earlier run or a .keras file (none: random); without `trainable` they
    stay as they are, BatchNorm statistics too.
    """

    init: str | None = None
    trainable: bool = True


@dataclass(frozen=True)
class ConvParams(EncoderParams):
    """Settings of `conv`: channels and output features `width`, how the last map becomes a vector (`pool`).

    `output_relu` puts a ReLU on the features, as in the Keras SimCLR example; the four-method study has none there.
    """

    smallest_side: ClassVar[int] = 31  # four VALID stride-2 3x3 convolutions leave 1 x 1 of 31 x 31
    name: str = "conv"
    width: int = setting(128, at_least=1)
    pool: str = setting("flatten", one_of=("flatten", "average"))
    batch_norm: bool = True
    output_relu: bool = True


@dataclass(frozen=True)
class _ResnetParams(EncoderParams):
    width: int = setting(64, at_least=1)
    stem: str = setting("small", one_of=tuple(_RESNET_SIDES))

    @property
    def smallest_side(self) -> int:
        """Follows from the stem."""
        return _RESNET_SIDES[self.stem]


@dataclass(frozen=True)
class Resnet18Params(_ResnetParams):
    """Settings of `resnet18`: `width` channels in the first stage, 8 times as many features out; the `stem`."""

    name: str = "resnet18"


@dataclass(frozen=True)
class Resnet50Params(_ResnetParams):
    """Settings of `resnet50`: `width` channels in the first stage, 32 times as many features out; the `stem`."""

    name: str = "resnet50"
    stem: str = setting("large", one_of=tuple(_RESNET_SIDES))


@dataclass(frozen=True)
class WideResnet28x2Params(EncoderParams):
    """Settings of `wide_resnet28_2`: `width` channels in the stem, 2, 4 and 8 times as many in the three stages."""

    smallest_side: ClassVar[int] = 4  # two stride-2 stages leave 1 x 1 of 4 x 4
    name: str = "wide_resnet28_2"
    width: int = setting(16, at_least=1)


@dataclass(frozen=True)
class KerasApplicationParams(EncoderParams):
    """Settings of `keras_application`: `backbone`, a name in `keras.applications`; there is no default."""

    name: str = "keras_application"
    backbone: str = setting("", one_of=tuple(BACKBONES))

    @property
    def smallest_side(self) -> int:
        """Follows from the backbone."""
        return BACKBONES[self.backbone].smallest_side


ENCODERS: dict[str, tuple[type, str]] = {
    "conv": (ConvParams, "semisup_core.encoders.conv:conv"),
    "keras_application": (KerasApplicationParams, "semisup_core.encoders.keras_application:keras_application"),
    "resnet18": (Resnet18Params, "semisup_core.encoders.resnet:resnet18"),
    "resnet50": (Resnet50Params, "semisup_core.encoders.resnet:resnet50"),
    "wide_resnet28_2": (WideResnet28x2Params, "semisup_core.encoders.wide_resnet:wide_resnet28_2"),
}


def check_image_size(params: Any, image_size: int) -> None:
    """Checks that an encoder takes images of a size.

    Args:
        params: an instance of the first member of an ENCODERS entry.
        image_size: side of the images in pixels.

    Raises:
        ValueError: they are too small; names the encoder, the setting its size follows from, and what it takes.
    """
    if image_size >= params.smallest_side:
        return
    causes = [f"encoder.{key}={getattr(params, key)}" for key in ("stem", "backbone") if hasattr(params, key)]
    raise ValueError(
        f"expected at least {params.smallest_side} pixels for encoder {' with '.join([params.name, *causes])}, "
        f"got {image_size}; choose larger images, or an encoder that takes smaller ones"
    )
