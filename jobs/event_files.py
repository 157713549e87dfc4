"""A run's log as TensorBoard reads it, made from the rows that are safe."""

import shutil
from pathlib import Path
from typing import Any


class EventFiles:
    """Event files in `tensorboard/` of a run folder; `tensorboard --logdir runs` shows all runs that have some."""

    def __init__(self, folder: Path) -> None:
        """Begins anew, as event files cannot be cut: whoever resumes a run writes all its rows again.

        Args:
            folder: the run folder.
        """
        import tensorflow as tf

        self._tf = tf
        # tf.summary.scalar is TensorBoard's own and not there without it; this is what it writes.
        data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        self._metadata = tf.compat.v1.SummaryMetadata(plugin_data=data)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Adds rows."""
        with self._writer.as_default():
            for row in rows:
                for name, value in row.items():
                    if name != "step" and not isinstance(value, str):
                        number = self._tf.constant(value, self._tf.float32)
                        self._tf.summary.write(name, number, step=row["step"], metadata=self._metadata)
        self._writer.flush()
