"""Checkpoints: one folder a step, complete or not there.

A folder is written under a temporary name, its manifest (sizes and SHA-256 of every file) last, then renamed; to an
object store the manifest is sent last. Reading believes the manifest only: a folder that does not match it is named,
skipped, and the one before is used.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.manifest import FORMAT_VERSION, MANIFEST, problem, write_json, write_manifest
from jobs.storage import FolderStorage, Storage
from semisup_core.durable import flush, flush_folder
from semisup_core.errors import DataError

if TYPE_CHECKING:  # lists of runs read checkpoints' names without NumPy
    import numpy as np

_STATE, _META, _ROWS = "state.npz", "meta.json", "rows.json"


class Spool(NamedTuple):
    """Log rows that a checkpoint carries.

    Attributes:
        after: `metrics.jsonl` has all rows up to this step, and may have some of these.
        rows: in order.
    """

    after: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that matched its manifest when it was opened."""

    path: Path
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done when it was written."""
        return self.meta["step"]

    @property
    def digest(self) -> str:
        """SHA-256 of its arrays, from its manifest."""
        return json.loads((self.path / MANIFEST).read_text())["files"][_STATE]["sha256"]

    @property
    def skipped(self) -> list[tuple[int, int]]:
        """(step, step) pairs: training went back to the first from the second and left the batches between out."""
        return [(start, end) for start, end in self.meta.get("skipped", [])]

    def spool(self) -> Spool | None:
        """The log rows that it carries; none when it was saved without."""
        file = self.path / _ROWS
        return Spool(**json.loads(file.read_text())) if file.exists() else None

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        import numpy as np

        with np.load(self.path / _STATE, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        path: the run's `checkpoints/`, which need not exist.
    """

    def __init__(
        self, path: Path, storage: Storage | None = None, may_commit: Callable[[], None] = lambda: None
    ) -> None:
        """Keeps the place; reads nothing.

        Args:
            path: the run's `checkpoints/`.
            storage: that it belongs to; none for a folder.
            may_commit: raises when this process may not.
        """
        self.path = path
        self._storage = storage or FolderStorage(path.parent)
        self._may_commit = may_commit

    def save(self, state: dict[str, np.ndarray], meta: dict[str, Any], spool: Spool | None = None) -> Checkpoint:
        """Writes a checkpoint of `meta["step"]` and commits it.

        Args:
            state: arrays by name.
            meta: JSON values; must have "step".
            spool: log rows that it carries.

        Returns:
            The committed checkpoint.

        Raises:
            OSError: it could not be written; what was there before is still there.
            UnavailableError: the object store could not take it, likewise.
            SupersededError: another attempt took the run over.
        """
        final, meta = self._of_step(meta["step"]), {**meta, "format_version": FORMAT_VERSION}
        partial = self.path / f".{final.name}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had the same id, as in containers
        try:
            _write(partial, state, meta, spool)
            self._may_commit()
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        flush_folder(self.path)
        self._storage.send(final)
        return Checkpoint(final, meta)

    def newest(self, say: Any = print) -> Checkpoint | None:
        """The newest checkpoint that matches its manifest, or None; `say` is told of every one that is skipped."""
        for path in reversed(self._paths()):
            found = self._open(path)
            if isinstance(found, Checkpoint):
                return found
            say(f"checkpoint {path.name} is not usable ({found}); trying the one before")
        return None

    def usable(self, say: Any = print) -> list[Checkpoint]:
        """All checkpoints that match their manifest, oldest first; `say` is told of every other one."""
        kept = []
        for path in self._paths():
            found = self._open(path)
            if isinstance(found, Checkpoint):
                kept.append(found)
            else:
                say(f"checkpoint {path.name} is not usable ({found}) and left out")
        return kept

    def newest_manifest(self) -> bytes | None:
        """The manifest of the newest one, unchecked; another one means that something was saved since."""
        return self._storage.read(paths[-1] / MANIFEST) if (paths := self._paths()) else None

    def open_step(self, step: int) -> Checkpoint | None:
        """The checkpoint of one step, or None when it is missing or does not match its manifest."""
        found = self._open(self._of_step(step))
        return found if isinstance(found, Checkpoint) else None

    def check_format(self) -> None:
        """Checks that a run can go on from its newest checkpoint, before anything in its folder is changed.

        Raises:
            DataError: one was written in another format; to go on from an older one, or anew, would throw it away.
        """
        for path in self._paths():
            try:
                version = json.loads(self._storage.read(path / MANIFEST) or b"")["format_version"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # damaged, and passed over by `newest`
            if version != FORMAT_VERSION:
                raise DataError(
                    f"{path}: expected checkpoint format {FORMAT_VERSION}, got {version}; go on with the version that "
                    "wrote it (environment.json in the run folder names its commit), or start anew with resume=false"
                )

    def prune(self, step: int, keep: int | str, best_step: int | None) -> None:
        """Deletes all but the newest `keep` up to `step` and the best one, and what interrupted writes left.

        `keep` is a number, or "all" to delete none.

        What lies beyond `step` was not usable when the run resumed, or it would have resumed from there.
        """
        known = [path for path in self._paths() if path.name <= self._of_step(step).name]
        whole = [path for path in known if MANIFEST in self._storage.names(path)]
        for path in [] if isinstance(keep, str) else whole[:-keep]:
            if path != self._of_step(best_step or 0):
                self._storage.remove(path)
        for path in set(known) - set(whole):  # half sent when the storage went away
            self._storage.remove(path)
        for path in self.path.glob(".step-*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def newest_meta(self) -> dict[str, Any] | None:
        """What the newest one says of itself, unchecked; for lists of runs."""
        for path in reversed(self._paths()):
            return json.loads(self._storage.read(path / _META) or b"")
        return None

    def _paths(self) -> list[Path]:
        """Of all steps, oldest first."""
        return [self.path / name for name in self._storage.names(self.path) if name.startswith("step-")]

    def _of_step(self, step: int) -> Path:
        return self.path / checkpoint_name(step)

    def _open(self, path: Path) -> Checkpoint | str:
        """The checkpoint, or what is wrong with it."""
        self._storage.fetch(path)
        return problem(path) or Checkpoint(path, json.loads((path / _META).read_text()))


def _write(folder: Path, state: dict[str, np.ndarray], meta: dict[str, Any], spool: Spool | None) -> None:
    """All files of a checkpoint, the manifest last."""
    import numpy as np

    folder.mkdir(parents=True)
    with open(folder / _STATE, "wb") as file:
        np.savez(file, allow_pickle=False, **state)
        flush(file)
    write_json(folder / _META, meta)
    if spool:
        write_json(folder / _ROWS, spool._asdict())
    write_manifest(folder)


def checkpoint_name(step: int) -> str:
    """The name of the folder of a step."""
    return f"step-{step:09d}"
