"""The encoders by name: images in 0-255 to features (N, D). Imports no keras (see `methods`).

Beside its settings, a params class says the `smallest_side` in pixels that its encoder takes.
"""

from dataclasses import dataclass
from typing import ClassVar

from semisup_core.settings import check_settings, setting


@dataclass(frozen=True)
class EncoderParams:
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

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_settings(self)


@dataclass(frozen=True)
class Resnet18Params(EncoderParams):
    """Settings of `resnet18`: `width` channels in the first stage, 8 times as many features out."""

    smallest_side: ClassVar[int] = 8  # three stride-2 stages leave 1 x 1 of 8 x 8
    name: str = "resnet18"
    width: int = setting(64, at_least=1)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_settings(self)


ENCODERS: dict[str, tuple[type, str]] = {
    "conv": (ConvParams, "semisup_core.encoders.conv:conv"),
    "resnet18": (Resnet18Params, "semisup_core.encoders.resnet:resnet18"),
}
