"""The methods by name. Imports no keras, so that a wrong setting is refused before anything heavy loads.

Beside its settings, a params class says which `pools` of images its method draws from and whether the method has a
classifier of its own; the contract tests hold both against the method itself.
"""

from dataclasses import dataclass
from typing import ClassVar

from semisup_core.settings import check_settings, setting


@dataclass(frozen=True)
class CrossEntropyParams:
    """Settings of `cross_entropy`: `label_smoothing` moves this share of the target to all classes."""

    pools: ClassVar[tuple[str, ...]] = ("labelled",)
    has_classifier: ClassVar[bool] = True
    name: str = "cross_entropy"
    label_smoothing: float = setting(0.0, at_least=0.0, below=1.0)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_settings(self)


@dataclass(frozen=True)
class SuncetParams:
    """Settings of `suncet`.

    `temperature` divides cosine similarities; `supervised_weight` scales the labelled term;
    `projection` lists the widths of the projection head (empty: the loss sees the encoder's output).
    """

    pools: ClassVar[tuple[str, ...]] = ("unlabelled", "labelled")
    has_classifier: ClassVar[bool] = False
    name: str = "suncet"
    temperature: float = setting(0.1, above=0.0, at_most=10.0)
    supervised_weight: float = setting(1.0, at_least=0.0)
    projection: tuple[int, ...] = setting((), at_least=1)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_settings(self)


METHODS: dict[str, tuple[type, str]] = {
    "cross_entropy": (CrossEntropyParams, "semisup_core.methods.cross_entropy:CrossEntropy"),
    "suncet": (SuncetParams, "semisup_core.methods.suncet:Suncet"),
}
