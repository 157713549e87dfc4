"""Aids for someone who looks for a mistake; each is a switch of `debug`."""

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from jobs.errors import TrainingError
from jobs.folder import RunFolder
from jobs.report import draw_gallery
from jobs.schema import DebugConfig
from semisup_core.errors import NumericalError
from semisup_core.trainer import Trainer

_PICTURED = 8  # images of each view
_PROFILED_CALLS = 5  # of the compiled function, after the first
_LEARNT = 0.5  # of the way from the first loss to the least one
# What TensorFlow's check says: the operation, and in a compiled function the lines that made it.
_OPERATION = re.compile(r"Detected (.+) in output \d+ of .*?op \"(.+?)\"")
_MADE_AT = re.compile(r"\+ (\S+) \(L(\d+)\) (\S+)\s*\n -> \|")


class Debugging:
    """What a run does beside training when it is asked to."""

    def __init__(
        self,
        config: DebugConfig,
        smallest_loss: float,
        folder: RunFolder,
        trainer: Trainer,
        say: Callable[[str], Any],
    ) -> None:
        """Changes nothing yet.

        Args:
            config: which aids.
            smallest_loss: about the least loss that a batch can have.
            folder: the run folder.
            trainer: of the run.
            say: prints a line to the user.
        """
        self._config, self._folder, self._trainer, self._say = config, folder, trainer, say
        self._smallest_loss = smallest_loss
        self._calls, self._profiling = 0, False
        self._losses: list[float] = []

    def run(self, iterators: Sequence[Any], steps: int, flags: Sequence[bool]) -> dict[str, np.ndarray]:
        """`Trainer.run`, with the aids around it.

        Raises:
            NumericalError: as there; with `check_numerics`, names the first operation whose result is not finite.
        """
        self._profile()
        with _numerics_checked(self._trainer.step, steps) if self._config.check_numerics else _nothing():
            logs = self._trainer.run(iterators, steps, flags)
        self._losses += logs["loss"].tolist()
        return logs

    def _profile(self) -> None:
        """Begins a trace with the second call, which compiles no more, and ends it a few calls later."""
        self._calls += 1
        if self._config.profile and self._calls == 2:
            tf.profiler.experimental.start(str(self._trace))
            self._profiling = True
        if self._calls == 2 + _PROFILED_CALLS:
            self._end_profile()

    @property
    def _trace(self) -> Path:
        return self._folder.path / "profile"

    def _end_profile(self) -> None:
        if self._profiling:
            self._profiling = False
            tf.profiler.experimental.stop()
            self._say(f"profiler trace: {self._trace} (tensorboard --logdir {self._trace} with its profile plugin)")

    def begin(self, make_iterators: Callable[[], Sequence[Any]]) -> None:
        """Writes `batch.npz` and, for each view, `batch_VIEW.png`: the first batch as the loss sees it."""
        if not self._config.dump_batch:
            return
        seen = self._trainer.see(make_iterators())
        views = {f"{name}_{copy}": view for name, copies in seen.images.items() for copy, view in enumerate(copies)}
        rows = {f"{pool}_rows": rows for pool, rows in seen.rows.items()}
        file = self._folder.path / "batch.npz"
        np.savez_compressed(file, **views, **rows, labels=seen.labels)
        for name, copies in seen.images.items():
            draw_gallery([view[:_PICTURED] for view in copies], self._folder.path / f"batch_{name}.png")
        shapes = ", ".join(f"{name} {view.shape}" for name, view in views.items())
        self._say(f"first batch: {shapes}; {file}, batch_*.png")

    def end(self) -> None:
        """Ends the trace, and says whether the one batch was learnt by heart.

        Raises:
            TrainingError: it was not.
        """
        self._end_profile()
        if not self._config.overfit_batch or not self._losses:
            return
        first, last, least = self._losses[0], self._losses[-1], self._smallest_loss
        way = (first - last) / (first - least)
        words = (
            f"debug.overfit_batch: the loss went from {first:.4f} to {last:.4f} in {len(self._losses)} steps, "
            f"{way:.0%} of the way to the least possible, {least:.4f}"
        )
        if way < _LEARNT:
            raise TrainingError(
                f"{words}; expected at least {_LEARNT:.0%}, for a batch that is seen again and again must be learnt by "
                "heart; look at batch_*.png, try more debug.steps or a higher optimizer.learning_rate"
            )
        self._say(f"{words}: learnt")


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _numerics_checked(done: int, steps: int) -> Iterator[None]:
    tf.debugging.enable_check_numerics()
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = _OPERATION.search(str(error))
        if not found:
            raise
        what, operation = found.groups()
        where = f"step {done + 1}" if steps == 1 else f"one of the steps {done + 1} to {done + steps}"
        raise NumericalError(
            f"{what} in {where}: first in the result of {operation}{_place(error)}", done + steps
        ) from error
    finally:
        tf.debugging.disable_check_numerics()


def _place(error: Exception) -> str:
    """The innermost line of code outside of installed packages that led to an operation."""
    made_at = _MADE_AT.findall(str(error))
    if made_at:
        file, line, function = made_at[-1]
    else:
        installed = tuple(path for path in sys.path if path.endswith("-packages"))
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(installed)
        ]
        file, line, function = frames[-1].filename, frames[-1].lineno, frames[-1].name
    return f", {file}:{line} in {function}"
