"""Optimisers by name over groups of variables, and the learning-rate schedule."""

from typing import Any

import keras
import tensorflow as tf
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
        """One update of every replica's copies, in replica context.

        Args:
            gradients: of `variables`, already summed over replicas.
        """
        start = 0
        for group, optimizer in zip(self._groups, self.optimizers, strict=True):
            end = start + len(group.variables)
            optimizer.update(gradients[start:end], group.variables)
            start = end

    def learning_rate(self, step: int) -> float:
        """The first group's learning rate at a step."""
        return float(self.optimizers[0]._learning_rate(step))


def _keras_optimizer(
    name: str, rate: Schedule, weight_decay: float, momentum: float, epsilon: float
) -> keras.optimizers.Optimizer:
    if name in ("adam", "adamw"):
        return _Adam(rate, weight_decay, epsilon)
    return _SGD(rate, weight_decay, momentum)


# Keras' optimisers and their variables, but one of TensorFlow's own operations updates a variable instead of a dozen of
# Keras': of a deep network's step those would be most of the graph, and most of the time that a run takes to start.


class _Adam(keras.optimizers.Adam):
    """Kingma and Ba, 1412.6980, the efficient form of sec. 2; decoupled decay as in 1711.05101."""

    def __init__(self, rate: Schedule, decay: float, epsilon: float) -> None:
        super().__init__(rate, epsilon=epsilon)
        self._decay = decay

    def update(self, gradients: list[Any], variables: list[keras.Variable]) -> None:
        """One step of all copies that belong to the calling replica."""
        rate, step = self.learning_rate, ops.cast(self.iterations + 1, keras.config.floatx())
        powers = {"beta1_power": self.beta_1**step, "beta2_power": self.beta_2**step}
        constants = {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}
        _shrink(variables, self._decay, rate)
        for gradient, variable, m, v in zip(gradients, variables, self._momentums, self._velocities, strict=True):
            handles = {"var": variable.value.handle, "m": m.value.handle, "v": v.value.handle}
            tf.raw_ops.ResourceApplyAdam(**handles, **powers, **constants, lr=rate, grad=gradient)
        self.iterations.assign_add(1)


class _SGD(keras.optimizers.SGD):
    """Nesterov momentum in the form of Sutskever et al., 2013; decoupled decay."""

    def __init__(self, rate: Schedule, decay: float, momentum: float) -> None:
        super().__init__(rate, momentum=momentum, nesterov=momentum > 0)
        self._decay = decay

    def update(self, gradients: list[Any], variables: list[keras.Variable]) -> None:
        """One step of all copies that belong to the calling replica."""
        rate = self.learning_rate
        _shrink(variables, self._decay, rate)
        for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            handle = variable.value.handle
            if self.momentum:
                tf.raw_ops.ResourceApplyKerasMomentum(
                    var=handle,
                    accum=self.momentums[i].value.handle,
                    lr=rate,
                    grad=gradient,
                    momentum=self.momentum,
                    use_nesterov=True,
                )
            else:
                tf.raw_ops.ResourceApplyGradientDescent(var=handle, alpha=rate, delta=gradient)
        self.iterations.assign_add(1)


def _shrink(variables: list[keras.Variable], decay: float, rate: Any) -> None:
    if decay:
        for variable in variables:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.value.handle, alpha=decay * rate, delta=variable.value)
