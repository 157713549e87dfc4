"""What a method is, and the letters used everywhere.

B unlabelled images and S labelled (support) images of a global batch, b and s their shares on one replica,
V views, R replicas, D feature width, C classes, H x W pixels.
"""

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import keras

from semisup_core.layers import BatchNorm
from semisup_core.methods import METHODS
from semisup_core.replica import Replica

Tensor = Any


@dataclass(frozen=True)
class View:
    """One augmented look at a batch that a method asks for.

    Attributes:
        name: the key in `Batch.images`.
        pool: which index stream the images come from.
        policy: which policy of the run's augmentation draws it: "strong", "weak" or "none".
        count: how many independently drawn copies.
        size: side in pixels when it differs from the data set's (multi-crop).
        no_gradient: its features are a target only; the method stops their gradient.
        network: the encoder it is meant for.
    """

    name: str
    pool: Literal["unlabelled", "labelled"]
    policy: str
    count: int = 1
    size: int | None = None
    no_gradient: bool = False
    network: Literal["student", "teacher"] = "student"


class Batch(NamedTuple):
    """What one replica sees of one step.

    Attributes:
        images: view name -> tuple of `count` tensors (b, H, W, 3) or (s, H, W, 3), float pixels in 0-255.
        labels: (s,) int32, classes of the labelled rows.
        rows: pool -> (b,) or (s,) int64, row ids in the store.
    """

    images: dict[str, tuple[Tensor, ...]]
    labels: Tensor
    rows: dict[str, Tensor]


class Progress(NamedTuple):
    """Where the run is, as tensors (a Python number would freeze when the step is traced).

    Attributes:
        step: scalar int64, optimiser steps done before this one.
        fraction: scalar float32 in [0, 1), step / all steps of the run.
    """

    step: Tensor
    fraction: Tensor


@dataclass(frozen=True)
class VariableGroup:
    """Variables that share optimiser settings.

    Attributes:
        variables: trainable Keras variables.
        learning_rate_scale: multiplies the run's learning rate.
        weight_decay: whether the run's weight decay applies.
        frozen_until: fraction of the run before which the learning rate is 0.
        clip: whether the run's clipping counts and scales their gradient; not for what merely watches the encoder.
    """

    variables: list[Any] = field(default_factory=list)
    learning_rate_scale: float = 1.0
    weight_decay: bool = True
    frozen_until: float = 0.0
    clip: bool = True


class Method(Protocol):
    """A training objective: which views it wants, and the loss over them.

    Attributes:
        views: what the pipeline and the augmenter must deliver.
        modules: name -> Keras object with all the state that a checkpoint holds (encoder, heads, teacher, queue).
        classifier: the head that maps features (N, D) to logits (N, C), or None.
    """

    views: tuple[View, ...]
    modules: dict[str, Any]
    classifier: keras.Model | None

    def loss(self, batch: Batch, progress: Progress, replica: Replica) -> tuple[Tensor, dict[str, Tensor], Any]:
        """The mean loss over this replica's rows, scalars to log, and tensors for `after_update`.

        A method with labelled views and without a classifier adds to those tensors "labelled_features" (s, D): of the
        labelled images in their first view, by the encoder that it exports.
        """

    def after_update(self, carry: Any, progress: Progress, replica: Replica) -> None:
        """Updates what the optimiser does not: a teacher, a queue, a centre. Must leave all replicas equal."""

    def variable_groups(self) -> list[VariableGroup]:
        """Every trainable variable, once."""

    def export_encoder(self) -> keras.Model:
        """The encoder to evaluate and keep: the student's, or the teacher's."""


def build_method(params: Any, encoder: keras.Model, num_classes: int) -> Method:
    """The method that a settings object of `METHODS` names.

    Args:
        params: an instance of the first member of a METHODS entry.
        encoder: images (N, H, W, 3) in 0-255 to features (N, D).
        num_classes: C.

    Returns:
        The method, its variables created in the current strategy scope.
    """
    module, _, name = METHODS[params.name][1].partition(":")
    return getattr(importlib.import_module(module), name)(params, encoder, num_classes)


def decay_groups(modules: list[Any], **settings: Any) -> list[VariableGroup]:
    """The usual two groups: matrices and kernels decay; biases and normalisation scales (rank 1) do not.

    Args:
        modules: Keras objects whose trainable variables are taken; frozen ones have none.
        **settings: further attributes of both groups.
    """
    variables = [variable for module in modules for variable in module.trainable_variables]
    groups = [
        VariableGroup([v for v in variables if len(v.shape) > 1], weight_decay=True, **settings),
        VariableGroup([v for v in variables if len(v.shape) <= 1], weight_decay=False, **settings),
    ]
    return [group for group in groups if group.variables]


def encode_views(encoder: keras.Model, views: list[Tensor]) -> list[Tensor]:
    """Encodes equally sized views in one call, so that BatchNorm sees them as one batch.

    Args:
        encoder: (N, H, W, 3) -> (N, D), run in training mode.
        views: tensors (n_i, H, W, 3).

    Returns:
        One (n_i, D) tensor a view.
    """
    if len(views) == 1:
        return [encoder(views[0], training=True)]
    features = encoder(keras.ops.concatenate(views, axis=0), training=True)
    ends = [sum(view.shape[0] for view in views[: i + 1]) for i in range(len(views) - 1)]
    return keras.ops.split(features, ends, axis=0)


def project_views(head: keras.Model | None, features: list[Tensor]) -> list[Tensor]:
    """`encode_views` through the projection head, or the features themselves where there is none."""
    return features if head is None else encode_views(head, features)


def encode_and_project(encoder: keras.Model, head: keras.Model | None, views: list[Tensor]) -> list[Tensor]:
    """`encode_views` through the encoder and, if there is one, the projection head."""
    return project_views(head, encode_views(encoder, views))


def projection_head(
    features: int, widths: tuple[int, ...], *, norm: bool = True, name: str = "projection"
) -> keras.Model | None:
    """An MLP of dense layers, each but the last followed by BatchNorm (with `norm`) and ReLU; None without layers.

    Args:
        features: D, the width of its input.
        widths: of its layers.
        norm: whether hidden layers are normalised; they have a bias when not.
        name: of the model, and the start of its layers' names.

    Returns:
        A model (N, D) -> (N, widths[-1]), or None when `widths` is empty.

    Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020, sec. 4.2.
    """
    if not widths:
        return None
    inputs = outputs = keras.Input((features,))
    for i, width in enumerate(widths[:-1]):
        outputs = keras.layers.Dense(width, use_bias=not norm, name=f"{name}_dense{i + 1}")(outputs)
        if norm:
            outputs = BatchNorm(name=f"{name}_norm{i + 1}")(outputs)
        outputs = keras.layers.ReLU(name=f"{name}_relu{i + 1}")(outputs)
    outputs = keras.layers.Dense(widths[-1], name=f"{name}_dense{len(widths)}")(outputs)
    return keras.Model(inputs, outputs, name=name)
