"""Optimisers by name over groups of variables, and the learning-rate schedule."""

from typing import Any

import keras
from keras import ops

from semisup_core.methods.base import VariableGroup


@keras.saving.register_keras_serializable("semisup")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0, then constant or half a cosine down to 0 (Loshchilov and Hutter, 1608.03983)."""

    def __init__(
        self, peak: float, total_steps: int, warmup_steps: int = 0, kind: str = "cosine", frozen_steps: int = 0
    ) -> None:
        """Keeps the numbers.

        Args:
            peak: learning rate after the warm-up.
            total_steps: steps of the run.
            warmup_steps: steps of the linear rise.
            kind: "constant" or "cosine".
            frozen_steps: the rate is 0 before this step.
        """
        self.peak, self.total_steps, self.warmup_steps = peak, total_steps, warmup_steps
        self.kind, self.frozen_steps = kind, frozen_steps

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, a scalar."""
        step = ops.cast(step, keras.config.floatx())
        rate = self.peak * ops.ones_like(step)
        if self.kind == "cosine":
            done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
            rate = self.peak * 0.5 * (1 + ops.cos(3.141592653589793 * ops.clip(done, 0.0, 1.0)))
        if self.warmup_steps:
            rate = ops.where(step < self.warmup_steps, self.peak * (step + 1) / self.warmup_steps, rate)
        return ops.where(step < self.frozen_steps, 0.0, rate)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("peak", "total_steps", "warmup_steps", "kind", "frozen_steps")
        return {name: getattr(self, name) for name in names}


class GroupOptimizer:
    """One Keras optimiser per variable group, applied together.

    Attributes:
        variables: all trainable variables, in the order that `apply` takes their gradients.
        clipped: for each variable, whether its gradient takes part in clipping.
        optimizers: the Keras optimisers, built; their variables belong in a checkpoint.
    """

    def __init__(
        self,
        groups: list[VariableGroup],
        *,
        name: str,
        learning_rate: float,
        weight_decay: float,
        momentum: float,
        epsilon: float,
        schedule: str,
        warmup_steps: int,
        total_steps: int,
    ) -> None:
        """Builds the optimisers.

        Args:
            groups: every trainable variable once.
            name: "adam", "adamw" (decoupled decay) or "sgd" (Nesterov momentum, decay decoupled as well).
            learning_rate: peak rate, scaled by each group.
            weight_decay: for the groups that decay; must be 0 with "adam".
            momentum: of sgd.
            epsilon: added to the root of the second moment, by adam and adamw.
            schedule: "constant" or "cosine".
            warmup_steps: steps of linear warm-up.
            total_steps: steps of the run.
        """
        self._groups = groups
        self.variables = [variable for group in groups for variable in group.variables]
        self.clipped = [group.clip for group in groups for _ in group.variables]
        self.optimizers = []
        for group in groups:
            rate = Schedule(
                learning_rate * group.learning_rate_scale,
                total_steps,
                warmup_steps,
                schedule,
                int(group.frozen_until * total_steps),
            )
            decay = weight_decay if group.weight_decay else 0.0
            optimizer = _keras_optimizer(name, rate, decay, momentum, epsilon)
            optimizer.build(group.variables)
            self.optimizers.append(optimizer)

    def apply(self, gradients: list[Any]) -> None:
        """One update in replica context; Keras sums the gradients over replicas."""
        start = 0
        for group, optimizer in zip(self._groups, self.optimizers, strict=True):
            end = start + len(group.variables)
            optimizer.apply(gradients[start:end], group.variables)
            start = end

    def learning_rate(self, step: int) -> float:
        """The first group's learning rate at a step."""
        return float(self.optimizers[0]._learning_rate(step))


def _keras_optimizer(
    name: str, rate: Schedule, weight_decay: float, momentum: float, epsilon: float
) -> keras.optimizers.Optimizer:
    if name in ("adam", "adamw"):
        # Decay of 0 is left out, not applied: Keras would compute the whole schedule again for every variable.
        return keras.optimizers.Adam(rate, epsilon=epsilon, weight_decay=weight_decay or None)
    return keras.optimizers.SGD(rate, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay or None)
