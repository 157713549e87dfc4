"""Replicas as the maths sees them; the only user of tf.distribute contexts in the library.

A loss receives a `Replica` and compares its own rows with gathered ones. Three rules keep R replicas equal to one:
the loss a method returns is the mean over its own rows, `Replica.scale` divides it by R (the trainer sums gradients
over replicas), and whatever is averaged before a non-linear function is averaged over all replicas first.
"""

from typing import Any

import tensorflow as tf

from semisup_core.similarity import at_least_float32

Tensor = Any


class Replica:
    """The calling replica; valid inside `strategy.run`, or anywhere as the only replica."""

    @property
    def count(self) -> int:
        """R, the number of replicas in all processes."""
        return self._context.num_replicas_in_sync

    @property
    def index(self) -> Tensor:
        """This replica's place in 0 … R-1, a scalar int32 tensor; slices of the global batch follow this order."""
        return tf.convert_to_tensor(self._context.replica_id_in_sync_group, tf.int32)

    def all_gather(self, values: Tensor) -> Tensor:
        """The rows of all replicas in global order.

        Args:
            values: (b, …), the same shape on every replica.

        Returns:
            (R * b, …), at least float32. The gradient of a row flows back to the replica that sent it.
        """
        values = at_least_float32(values)
        if self.count == 1:
            return values
        # The multi-worker gather needs to know a tensor's device, which one fresh from an iterator lacks.
        gathered = self._context.all_gather(tf.identity(values), axis=0)
        gathered.set_shape((self.count * values.shape[0], *values.shape[1:]))  # which a gather leaves open
        return gathered

    def sum(self, values: Tensor) -> Tensor:
        """The sum over replicas, same shape, at least float32; differentiable."""
        return self.sums([values])[0]

    def sums(self, values: list[Tensor]) -> list[Tensor]:
        """The sum over replicas of each tensor of a list, all sent together."""
        values = [at_least_float32(value) for value in values]
        return values if self.count == 1 else self._context.all_reduce(tf.distribute.ReduceOp.SUM, values)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over replicas, same shape, at least float32; differentiable."""
        return self.sum(values) / self.count

    def mean_where(self, values: Tensor, keep: Tensor) -> Tensor:
        """This replica's part of a mean over the kept rows of the whole global batch.

        Args:
            values: (b,), one value per row.
            keep: (b,) bool or 0/1, which rows count; the number kept may differ between replicas.

        Returns:
            Scalar whose mean over replicas is the global mean of the kept rows (0 when none is kept).
        """
        values = at_least_float32(values)
        keep = tf.cast(keep, values.dtype)
        kept = self.sum(tf.reduce_sum(keep))
        return self.count * tf.math.divide_no_nan(tf.reduce_sum(values * keep), kept)

    def positions(self, rows: int) -> Tensor:
        """The places of this replica's `rows` rows in the global batch, (rows,) int32."""
        return self.index * rows + tf.range(rows)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss divided by R: the trainer sums the replicas' gradients, and we want their mean."""
        return loss / self.count

    @property
    def _context(self) -> Any:
        context = tf.distribute.get_replica_context()
        if context is None:
            raise RuntimeError(
                "Replica is used outside strategy.run: expected a replica context, found a cross-replica one"
            )
        return context
