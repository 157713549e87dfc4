"""A teacher: a copy of the student's networks whose weights follow the student's as a moving average.

He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", 2019, arXiv 1911.05722,
eq. 2. Weights follow; BatchNorm's moving statistics are the teacher's own, from the views that it encodes itself.
"""

import keras

from semisup_core.methods.base import Tensor, encode_views


class Teacher:
    """Networks that no gradient reaches.

    Attributes:
        modules: the copies, "teacher_" before the student's names.
    """

    def __init__(self, students: dict[str, keras.Model]) -> None:
        """Copies structure and weights.

        Args:
            students: by name, in the order in which they are applied.
        """
        self.modules = {}
        self._pairs = []
        for name, student in students.items():
            copy = keras.models.clone_model(student)
            copy.set_weights(student.get_weights())
            pairs = zip(copy.variables, student.variables, strict=True)
            self._pairs += [(mine, theirs) for mine, theirs in pairs if theirs.trainable]
            # By variable, not by layer: a frozen BatchNorm layer would normalise by its moving statistics.
            for variable in copy.variables:
                variable.trainable = False
            self.modules[f"teacher_{name}"] = copy

    def encode(self, views: list[Tensor]) -> list[Tensor]:
        """What the copies make of views (n_i, H, W, 3), in training mode and without gradient: a (n_i, D) each."""
        for module in self.modules.values():
            views = encode_views(module, views)
        return [keras.ops.stop_gradient(view) for view in views]

    def follow(self, momentum: Tensor) -> None:
        """Moves every weight to `momentum` (scalar in [0, 1]) of itself plus 1 - `momentum` of the student's."""
        for mine, theirs in self._pairs:
            share = keras.ops.convert_to_tensor(momentum, mine.dtype)
            mine.assign(share * mine.value + (1 - share) * theirs.value)
