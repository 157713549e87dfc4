"""The methods by name. Imports no keras, so that a wrong setting is refused before anything heavy loads.

Beside its settings, a params class says which `pools` of images its method draws from and whether the method has a
classifier of its own; the contract tests hold both against the method itself.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from semisup_core.settings import Settings, setting


@dataclass(frozen=True)
class MethodParams(Settings):
    """What every method's settings class derives from.

    `learns_one_batch`: whether its loss can be brought down by seeing one batch again and again.
    """

    learns_one_batch: ClassVar[bool] = True

    def smallest_loss(self, unlabelled: int, labelled: int, num_classes: int) -> float:
        """About the least mean loss that one batch can have; most losses go down to 0.

        Args:
            unlabelled: B, its unlabelled images.
            labelled: S, its labelled images.
            num_classes: among them.
        """
        return 0.0


def _contrastive_floor(others: float, cosine: float, temperature: float) -> float:
    """Softmax cross-entropy of a positive at cosine 1 among `others` times as many negatives at `cosine`."""
    return math.log1p(others * math.exp((cosine - 1) / temperature))


@dataclass(frozen=True)
class CrossEntropyParams(MethodParams):
    """Settings of `cross_entropy`.

    `label_smoothing` moves this share of the target to all classes; `view` is the policy of the labelled images;
    `relu` puts a ReLU between encoder and classifier (for encoders whose output has none);
    `encoder_learning_rate_scale` multiplies the encoder's learning rate, not the classifier's (for fine-tuning).
    """

    pools: ClassVar[tuple[str, ...]] = ("labelled",)
    has_classifier: ClassVar[bool] = True
    name: str = "cross_entropy"
    label_smoothing: float = setting(0.0, at_least=0.0, below=1.0)
    view: str = setting("strong", one_of=("strong", "weak", "none"))
    relu: bool = False
    encoder_learning_rate_scale: float = setting(1.0, above=0.0)


@dataclass(frozen=True)
class InfoNCEParams(MethodParams):
    """Settings of `info_nce`.

    `temperature` divides cosine similarities;
    `projection` lists the widths of the projection head (empty: the loss sees the encoder's output).
    """

    pools: ClassVar[tuple[str, ...]] = ("unlabelled",)
    has_classifier: ClassVar[bool] = False
    name: str = "info_nce"
    temperature: float = setting(0.1, above=0.0, at_most=10.0)
    projection: tuple[int, ...] = setting((), at_least=1)

    def smallest_loss(self, unlabelled: int, labelled: int, num_classes: int) -> float:
        """Both views of an image alike, images as far from each other as so many directions can be (a simplex)."""
        return _contrastive_floor(unlabelled - 1, -1 / max(unlabelled - 1, 1), self.temperature)


@dataclass(frozen=True)
class SimclrParams(MethodParams):
    """Settings of `simclr`.

    `temperature` divides cosine similarities; `projection` lists the widths of the projection head;
    `projection_norm` puts BatchNorm between its layers; `negatives` are the other images of both views (2N - 2, the
    paper) or of the other view (N - 1, the Keras example).
    """

    pools: ClassVar[tuple[str, ...]] = ("unlabelled",)
    has_classifier: ClassVar[bool] = False
    name: str = "simclr"
    temperature: float = setting(0.5, above=0.0, at_most=10.0)
    projection: tuple[int, ...] = setting((128, 128), at_least=1)
    projection_norm: bool = True
    negatives: str = setting("both_views", one_of=("both_views", "other_view"))

    def smallest_loss(self, unlabelled: int, labelled: int, num_classes: int) -> float:
        """As that of InfoNCE, with the negatives of one view or two."""
        views = 2 if self.negatives == "both_views" else 1
        return _contrastive_floor(views * (unlabelled - 1), -1 / max(unlabelled - 1, 1), self.temperature)


@dataclass(frozen=True)
class PawsParams(MethodParams):
    """Settings of `paws`.

    `temperature` divides cosine similarities; `sharpening` is the T of targets, 1 for none; `label_smoothing` moves
    this share of a support label to all classes; `entropy_weight` scales the mean-entropy maximisation;
    `support_views` copies of each labelled image form the support;
    `projection` lists the widths of the projection head (empty: the loss sees the encoder's output).
    """

    pools: ClassVar[tuple[str, ...]] = ("unlabelled", "labelled")
    has_classifier: ClassVar[bool] = False
    name: str = "paws"
    temperature: float = setting(0.1, above=0.0, at_most=10.0)
    sharpening: float = setting(0.25, above=0.0, at_most=1.0)
    label_smoothing: float = setting(0.0, at_least=0.0, below=1.0)
    entropy_weight: float = setting(1.0, at_least=0.0)
    support_views: int = setting(1, at_least=1, at_most=4)
    projection: tuple[int, ...] = setting((), at_least=1)

    def smallest_loss(self, unlabelled: int, labelled: int, num_classes: int) -> float:
        """Sure of each image, with all classes equally frequent."""
        return -self.entropy_weight * math.log(num_classes)


@dataclass(frozen=True)
class SuncetParams(MethodParams):
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

    def smallest_loss(self, unlabelled: int, labelled: int, num_classes: int) -> float:
        """That of InfoNCE, and of classes whose images are alike and as far from the others as can be."""
        of_class = labelled / num_classes
        others = (labelled - of_class) / max(of_class - 1, 1)
        supervised = _contrastive_floor(others, -1 / max(num_classes - 1, 1), self.temperature)
        pairs = _contrastive_floor(unlabelled - 1, -1 / max(unlabelled - 1, 1), self.temperature)
        return pairs + self.supervised_weight * supervised


@dataclass(frozen=True)
class MocoParams(MethodParams):
    """Settings of `moco`.

    `temperature` divides cosine similarities; `momentum` is the share that the key network keeps of itself at each
    step; `queue_size` keys of earlier batches are the negatives; `projection` lists the widths of the projection head.
    """

    pools: ClassVar[tuple[str, ...]] = ("unlabelled",)
    has_classifier: ClassVar[bool] = False
    learns_one_batch: ClassVar[bool] = False  # its negatives would be earlier keys of the same images
    name: str = "moco"
    temperature: float = setting(0.2, above=0.0, at_most=10.0)
    momentum: float = setting(0.99, at_least=0.0, at_most=1.0)
    queue_size: int = setting(4096, at_least=1)
    projection: tuple[int, ...] = setting((2048, 128), at_least=1)


@dataclass(frozen=True)
class ByolParams(MethodParams):
    """Settings of `byol`.

    `momentum` is the share that the target network keeps of itself at the first step (it rises to 1); `projection`
    lists the widths of the projection head; `prediction` the hidden widths of the head behind it.
    """

    pools: ClassVar[tuple[str, ...]] = ("unlabelled",)
    has_classifier: ClassVar[bool] = False
    name: str = "byol"
    momentum: float = setting(0.99, at_least=0.0, at_most=1.0)
    projection: tuple[int, ...] = setting((4096, 256), at_least=1)
    prediction: tuple[int, ...] = setting((4096,), at_least=1)


@dataclass(frozen=True)
class FixmatchParams(MethodParams):
    """Settings of `fixmatch`.

    `threshold` is the probability from which a prediction counts as a label; `unlabelled_weight` scales its loss.
    """

    pools: ClassVar[tuple[str, ...]] = ("unlabelled", "labelled")
    has_classifier: ClassVar[bool] = True
    name: str = "fixmatch"
    threshold: float = setting(0.95, at_least=0.0, at_most=1.0)
    unlabelled_weight: float = setting(1.0, at_least=0.0)


METHODS: dict[str, tuple[type, str]] = {
    "byol": (ByolParams, "semisup_core.methods.byol:Byol"),
    "cross_entropy": (CrossEntropyParams, "semisup_core.methods.cross_entropy:CrossEntropy"),
    "fixmatch": (FixmatchParams, "semisup_core.methods.fixmatch:Fixmatch"),
    "info_nce": (InfoNCEParams, "semisup_core.methods.info_nce:InfoNCE"),
    "moco": (MocoParams, "semisup_core.methods.moco:Moco"),
    "paws": (PawsParams, "semisup_core.methods.paws:Paws"),
    "simclr": (SimclrParams, "semisup_core.methods.simclr:Simclr"),
    "suncet": (SuncetParams, "semisup_core.methods.suncet:Suncet"),
}
