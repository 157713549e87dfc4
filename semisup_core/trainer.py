"""The loop: augment, loss, gradient, update, after_update, compiled over several steps at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from semisup_core.augmenters import Look, augment, view_seed
from semisup_core.errors import NumericalError
from semisup_core.methods.base import Batch, Method, Progress
from semisup_core.optimizers import GroupOptimizer
from semisup_core.policy import Policy
from semisup_core.replica import Replica

Tensor = Any


class Trainer:
    """Trains a method under a strategy and counts its steps exactly.

    Attributes:
        step: optimiser steps done.
        flags: which flags some process raised in the last `run`; the same on all processes.
    """

    def __init__(
        self,
        method: Method,
        optimizer: GroupOptimizer,
        strategy: tf.distribute.Strategy,
        *,
        policies: dict[str, Policy],
        image_size: int,
        seed: int,
        total_steps: int,
        clip: float | None = None,
        eager: bool = False,
        xla: bool = False,
    ) -> None:
        """Compiles nothing yet; the first `run` does.

        Args:
            method: built in the strategy's scope.
            optimizer: built in the strategy's scope over the method's variables.
            strategy: where it runs.
            policies: "strong", "weak" and "none" view policies.
            image_size: side of a view in pixels unless the view says otherwise.
            seed: of the augmentation.
            total_steps: steps of the whole run, the end of every schedule.
            clip: largest global norm of the gradient, or None.
            eager: run without compilation, for debugging.
            xla: compile loss and gradient with XLA, which takes a single device; not when eager.
        """
        self.step: int = 0
        self.flags: list[bool] = []
        self._method, self._optimizer, self._strategy = method, optimizer, strategy
        self._policies, self._image_size, self._seed = policies, image_size, seed
        self._total_steps, self._clip, self._replica = total_steps, clip, Replica()
        self._names: list[str] = []
        self._run_steps = self._each_step if eager else self.compiled(self._train_step)
        self._eager, self._xla = eager, xla and not eager

    def run(self, iterators: Sequence[Any], steps: int, flags: Sequence[bool] = ()) -> dict[str, np.ndarray]:
        """Takes steps.

        Args:
            iterators: one for each replica of this process, over its batches from `data.pipeline`; the next one is that
                of `self.step`.
            steps: how many.
            flags: of this process, told to all with the values that are logged; always as many.

        Returns:
            "loss" and the method's metrics, each (steps,), means over replicas.

        Raises:
            NumericalError: a loss is not finite; names the step.
        """
        raised = tf.constant([float(flag) for flag in flags], keras.config.floatx())
        rows = self._run_steps(iterators, steps if self._eager else tf.constant(steps), raised).numpy()
        logs = {name: rows[:, i] for i, name in enumerate(self._names)}
        self.flags = rows[:, len(self._names) :].any(axis=0).tolist()
        bad = np.flatnonzero(~np.isfinite(logs["loss"]))
        if len(bad):
            step = self.step + int(bad[0]) + 1
            raise NumericalError(f"the loss of step {step} is {logs['loss'][bad[0]]}", step)
        self.step += steps
        return logs

    def see(self, iterators: Sequence[Any]) -> Batch:
        """The next batch as the loss sees it, of the first replica in this process, as arrays; takes no step."""

        def augmented(elements: dict[str, Tensor]) -> Batch:
            batch = self.augmented(elements)
            return batch._replace(labels=() if batch.labels is None else batch.labels)  # None cannot be collected

        seen = self._strategy.run(augmented, args=(self._next(iterators),))
        return tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0].numpy(), seen)

    def learning_rate(self) -> float:
        """The learning rate of the next step, before any group's own factor."""
        return self._optimizer.learning_rate(self.step)

    def check_finite(self) -> None:
        """Checks the weights themselves: the last update can spoil them after a finite loss.

        Raises:
            NumericalError: names the first variable that is not finite.
        """
        for name, variable in self.variables().items():
            if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
                raise NumericalError(f"after step {self.step} the variable {name} is not finite", self.step)

    def compiled(self, step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A loop over some steps as one function of the graph.

        Args:
            step: of a replica's batch and the arguments that follow, (k,) values; the trainer's own, or parts of it.

        Returns:
            `run(iterators, steps, *arguments)`: (steps, k), means over replicas; `steps` is a scalar int32 tensor.
        """
        step = tf.autograph.experimental.do_not_convert(step)  # only this loop needs conversion

        def loop(iterators: Sequence[Any], steps: Tensor, *arguments: Tensor) -> Tensor:
            rows = tf.TensorArray(keras.config.floatx(), size=0, dynamic_size=True)
            for i in tf.range(steps):
                values = self._strategy.run(step, args=(self._next(iterators), *arguments))
                rows = rows.write(i, self._strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None))
            return rows.stack()

        return tf.function(loop, reduce_retracing=True)

    def _next(self, iterators: Sequence[Any]) -> Any:
        """The next batch of each replica of this process."""
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: next(iterators[context.replica_id_in_sync_group % len(iterators)])
        )

    def _each_step(self, iterators: Sequence[Any], steps: int, flags: Tensor) -> Tensor:
        """The compiled loop's rows, one step after the other."""
        rows = [self._strategy.run(self._train_step, args=(self._next(iterators), flags)) for _ in range(steps)]
        return tf.stack([self._strategy.reduce(tf.distribute.ReduceOp.MEAN, row, axis=None) for row in rows])

    def _train_step(self, elements: dict[str, Tensor], flags: Tensor) -> Tensor:
        """What the step logs, then the replica's flags, (1 + metrics + flags,)."""
        progress = self.progress(elements)
        gradients, logged, carry = self.gradients(self.augmented(elements), progress)
        self.update(self._replica.sums(gradients))
        self._method.after_update(carry, progress, self._replica)
        self._names = list(logged)
        values = tf.stack([tf.cast(value, keras.config.floatx()) for value in logged.values()])
        return tf.concat([values, flags], axis=0)

    # The parts of a step, in replica context.

    def progress(self, elements: dict[str, Tensor]) -> Progress:
        """Where the run is at a batch."""
        return Progress(elements["step"], tf.cast(elements["step"], tf.float32) / self._total_steps)

    def loss(self, batch: Batch, progress: Progress) -> tuple[dict[str, Tensor], Any]:
        """The "loss" and the method's metrics, scalars, and what `after_update` needs."""
        loss, metrics, carry = self._method.loss(batch, progress, self._replica)
        return {"loss": loss, **metrics}, carry

    def gradients(self, batch: Batch, progress: Progress) -> tuple[list[Tensor], dict[str, Tensor], Any]:
        """This replica's share of the gradients, and what `loss` returns."""
        compute = tf.function(self._gradients, jit_compile=True) if self._xla else self._gradients
        return compute(batch, progress)

    def _gradients(self, batch: Batch, progress: Progress) -> tuple[list[Tensor], dict[str, Tensor], Any]:
        with tf.GradientTape() as tape:
            logged, carry = self.loss(batch, progress)
            scaled = self._replica.scale(logged["loss"])
        return tape.gradient(scaled, [variable.value for variable in self._optimizer.variables]), logged, carry

    def update(self, gradients: list[Tensor]) -> None:
        """One step of the optimisers with the sums over replicas."""
        self._optimizer.apply(self._clipped(gradients))

    def augmented(self, elements: dict[str, Tensor]) -> Batch:
        """All views of a batch."""
        looks: dict[tuple[str, int], dict[tuple[str, int], Look]] = {}  # by policy and size, then by view and copy
        for i, view in enumerate(self._method.views):
            pixels = elements[view.pool]
            count = pixels.shape[0]
            for copy in range(view.count):
                seed = view_seed(self._seed, elements["step"], i, copy)
                look = Look(pixels, seed, self._replica.positions(count), count * self._replica.count)
                looks.setdefault((view.policy, view.size or self._image_size), {})[view.name, copy] = look
        made: dict[tuple[str, int], Tensor] = {}
        for (policy, size), alike in looks.items():
            made |= dict(zip(alike, augment([*alike.values()], self._policies[policy], size), strict=True))
        images = {
            view.name: tuple(tf.cast(made[view.name, copy], keras.config.floatx()) for copy in range(view.count))
            for view in self._method.views
        }
        rows = {key.removesuffix("_rows"): value for key, value in elements.items() if key.endswith("_rows")}
        return Batch(images, elements.get("labels"), rows)

    def _clipped(self, gradients: list[Tensor]) -> list[Tensor]:
        if self._clip is None:
            return gradients
        taking_part = [i for i, clipped in enumerate(self._optimizer.clipped) if clipped]
        clipped, _ = tf.clip_by_global_norm([gradients[i] for i in taking_part], self._clip)
        result = list(gradients)
        for i, gradient in zip(taking_part, clipped, strict=True):
            result[i] = gradient
        return result

    def state(self) -> dict[str, np.ndarray]:
        """All that training changes, as arrays by name: `MODULE/INDEX/NAME`."""
        return {name: keras.ops.convert_to_numpy(variable) for name, variable in self.variables().items()}

    def load_state(self, state: dict[str, np.ndarray], step: int) -> None:
        """Takes over what `state` returned at `step`.

        Raises:
            ValueError: names or shapes differ from this trainer's, which are listed.
        """
        variables = self.variables()
        wrong = sorted(set(state) ^ set(variables)) or [
            f"{name} {state[name].shape} instead of {tuple(variable.shape)}"
            for name, variable in variables.items()
            if state[name].shape != tuple(variable.shape)
        ]
        if wrong:
            raise ValueError(f"the checkpoint does not fit this model; they differ in: {', '.join(wrong[:5])}")
        for name, variable in variables.items():
            variable.assign(state[name])
        self.step = step

    def variables(self) -> dict[str, Any]:
        """Every variable that training changes, by name `MODULE/INDEX/NAME`."""
        modules = dict(self._method.modules)
        modules |= {f"optimizer{i}": optimizer for i, optimizer in enumerate(self._optimizer.optimizers)}
        return {
            f"{name}/{i:03d}/{variable.name}": variable
            for name, module in modules.items()
            for i, variable in enumerate(module.variables)
        }
