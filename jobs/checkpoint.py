"""Checkpoints: one folder a step, complete or not there.

A folder is written under a temporary name, its manifest (sizes and SHA-256 of every file) last, then renamed.
Reading believes the manifest only: a folder that does not match it is named, skipped, and the one before is used.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semisup_core.errors import DataError

FORMAT_VERSION = 1
_MANIFEST, _STATE, _META = "manifest.json", "state.npz", "meta.json"


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
        return json.loads((self.path / _MANIFEST).read_text())["files"][_STATE]["sha256"]

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        with np.load(self.path / _STATE, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def save(folder: Path, state: dict[str, np.ndarray], meta: dict[str, Any]) -> Checkpoint:
    """Writes a checkpoint of `meta["step"]` and commits it.

    Args:
        folder: the run's `checkpoints/`.
        state: arrays by name.
        meta: JSON values; must have "step".

    Returns:
        The committed checkpoint.
    """
    final = folder / f"step-{meta['step']:09d}"
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with open(partial / _STATE, "wb") as file:
        np.savez(file, allow_pickle=False, **state)
        _flush(file)
    meta = {**meta, "format_version": FORMAT_VERSION}
    _write_json(partial / _META, meta)
    files = {
        name: {"bytes": (partial / name).stat().st_size, "sha256": _sha256(partial / name)} for name in (_STATE, _META)
    }
    _write_json(partial / _MANIFEST, {"format_version": FORMAT_VERSION, "files": files})
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush_folder(folder)
    return Checkpoint(final, meta)


def newest(folder: Path, say: Any = print) -> Checkpoint | None:
    """The newest checkpoint that matches its manifest, or None.

    Args:
        folder: the run's `checkpoints/`, which need not exist.
        say: told of every checkpoint that is skipped, and why.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = _problem(path)
        if problem is None:
            return Checkpoint(path, json.loads((path / _META).read_text()))
        say(f"checkpoint {path.name} is not usable ({problem}); trying the one before")
    return None


def check_format(folder: Path) -> None:
    """Checks that a run can go on from its newest checkpoint, before anything in its folder is changed.

    Args:
        folder: the run's `checkpoints/`, which need not exist.

    Raises:
        DataError: one was written in another format; to go on from an older one, or anew, would throw it away.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            version = json.loads((path / _MANIFEST).read_text())["format_version"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged, and passed over by `newest`
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: expected checkpoint format {FORMAT_VERSION}, got {version}; go on with the version that "
                "wrote it (environment.json in the run folder names its commit), or start anew with resume=false"
            )


def usable(folder: Path, say: Any = print) -> list[Checkpoint]:
    """All checkpoints that match their manifest, oldest first; `say` is told of every other one."""
    found = []
    for path in sorted(folder.glob("step-*")):
        problem = _problem(path)
        if problem is None:
            found.append(Checkpoint(path, json.loads((path / _META).read_text())))
        else:
            say(f"checkpoint {path.name} is not usable ({problem}) and left out")
    return found


def open_step(folder: Path, step: int) -> Checkpoint | None:
    """The checkpoint of one step, or None when it is missing or does not match its manifest."""
    path = folder / f"step-{step:09d}"
    return Checkpoint(path, json.loads((path / _META).read_text())) if _problem(path) is None else None


def prune(folder: Path, step: int, keep: int | str, best_step: int | None) -> None:
    """Deletes all but the newest `keep` checkpoints up to `step` and the best one, and what interrupted writes left.

    `keep` is a number, or "all" to delete none.

    What lies beyond `step` was not usable when the run resumed, or it would have resumed from there.
    """
    usable = [path for path in sorted(folder.glob("step-*")) if path.name <= f"step-{step:09d}"]
    for path in [] if isinstance(keep, str) else usable[:-keep]:
        if path.name != f"step-{best_step or 0:09d}":
            shutil.rmtree(path)
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _problem(path: Path) -> str | None:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        version, files = manifest["format_version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_MANIFEST} cannot be read: {error}"
    if version != FORMAT_VERSION:
        return f"format version {version}, this program reads {FORMAT_VERSION}"
    for name, expected in files.items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            return f"{name}: {error.strerror}"
        if size != expected["bytes"]:
            return f"{name} has {size} bytes, its manifest says {expected['bytes']}"
        if _sha256(path / name) != expected["sha256"]:
            return f"{name} does not have the SHA-256 of its manifest"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with open(path, "w") as file:
        json.dump(values, file, indent=1)
        _flush(file)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
