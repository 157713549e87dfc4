"""Commits what a run has so far, beside training: a checkpoint first, then the log rows that it carries.

A checkpoint holds the rows that `metrics.jsonl` may not have yet, so a crash between the two loses none: whoever
resumes writes them. A failed save costs that save only, until too many fail in a row; the best weights by validation
are saved with the next one.
"""

import shutil
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from jobs.checkpoint import Checkpoint, Spool, checkpoint_name
from jobs.errors import UnavailableError
from jobs.folder import RunFolder
from jobs.schema import CheckpointConfig
from jobs.tracking import Tracker
from semisup_core.errors import StorageError


class Saver:
    """Writes checkpoints in a thread, one at a time.

    Attributes:
        last: the newest committed checkpoint, or None.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        folder: RunFolder,
        tracker: Tracker,
        restored: Checkpoint | None,
        say: Callable[[str], Any],
    ) -> None:
        """Takes over from the checkpoint that training resumes from, if there is one."""
        self._config, self._folder, self._tracker, self._say = config, folder, tracker, say
        self.last = restored.path if restored else None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failures = 0
        self._best: tuple[dict[str, np.ndarray], dict[str, Any], Spool] | None = None  # best weights, not saved yet

    def save(self, state: dict[str, np.ndarray], meta: dict[str, Any], best_step: int | None) -> None:
        """Begins to save; first waits until the save before is done.

        Args:
            state: arrays by name, copies that training does not touch.
            meta: what the checkpoint says of itself; must have "step".
            best_step: of the checkpoint that is kept whatever its age.

        Raises:
            StorageError: `checkpoint.failures` saves failed in a row.
        """
        self.wait()
        if self.last and self.last.name == checkpoint_name(meta["step"]):
            return  # nothing has happened since
        spool = self._tracker.unwritten()
        best, self._best = self._best, None

        def commit() -> None:
            try:
                if best and best[1]["step"] == best_step:
                    self.last = self._folder.checkpoints.save(*best).path
                saved = self._folder.checkpoints.save(state, meta, spool)
                self._folder.lease.check()
                self._tracker.write(spool)
                self._folder.send()
                self._tracker.confirm(spool)
                self._folder.checkpoints.prune(meta["step"], self._config.keep, best_step)
                self.last = saved.path
                self._tracker.publish()
            except BaseException as error:  # looked at in the main thread
                self._error = error
                self._best = (state, meta, spool) if meta["step"] == best_step else best

        self._step = meta["step"]
        self._thread = threading.Thread(target=commit, name="save")
        self._thread.start()

    def wait(self, last: bool = False) -> None:
        """Waits for the save that is under way.

        Args:
            last: no other save follows that could make up for this one.

        Raises:
            StorageError: it failed and is the last, or `checkpoint.failures` saves failed in a row.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is None:
            self._failures = 0
            return
        if not isinstance(error, (OSError, StorageError, UnavailableError)):
            raise error
        self._failures += 1
        kept = f"the last good one is {self.last.name}" if self.last else "there is none yet"
        problem = f"the checkpoint of step {self._step} could not be written: {error}; {kept}"
        if last or self._failures >= self._config.failures:
            raise StorageError(f"{problem}; mend or make room, then the same command resumes")
        self._say(f"{problem}; training goes on")

    def go_back(self, good: Checkpoint) -> None:
        """Takes over from an earlier checkpoint; no save may be under way."""
        self.last, self._best = good.path, None

    def abandon(self) -> None:
        """Waits for the save that is under way, whatever comes of it: it must not outlive this attempt."""
        if self._thread:
            self._thread.join()

    def check_space(self, state_bytes: int, epochs: int) -> None:
        """Checks before the first step that the checkpoints which will be kept fit.

        Args:
            state_bytes: of one checkpoint's arrays.
            epochs: of the run.

        Raises:
            StorageError: they do not fit.
        """
        saved = -(-epochs // self._config.every)
        kept = saved if isinstance(self._config.keep, str) else min(saved, self._config.keep)
        needed = state_bytes * (kept + 2)  # the best one, and the one that is being written
        there = sum(file.stat().st_size for file in self._folder.checkpoints.path.rglob("*") if file.is_file())
        free = shutil.disk_usage(self._folder.path).free
        if needed > free + there:
            raise StorageError(
                f"{self._folder.path}: expected room for {kept + 2} checkpoints of {state_bytes / 1e6:,.0f} MB, found "
                f"{free / 1e6:,.0f} MB; make room, choose another storage, or keep fewer (checkpoint.keep)"
            )
