"""Folders for this process alone, gone when it ends; what killed processes left is removed by the next one."""

import atexit
import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import IO

_PREFIX, _LOCK = "own-", ".owner"
_kept: list[tuple[Path, IO[str]]] = []  # the open lock of each says that its process lives


def own_folder(parent: Path) -> Path:
    """Makes a new, empty folder.

    Args:
        parent: where; made if it is not there.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(f"{_PREFIX}*"):
        if folder not in [path for path, _ in _kept] and not _alive(folder):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = open(folder / _LOCK, "w")  # noqa: SIM115  open until the process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    _kept.append((folder, lock))
    return folder


def _alive(folder: Path) -> bool:
    try:
        with open(folder / _LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, or only just being made
        return True
    return False


@atexit.register
def remove_own_copies() -> None:
    """Removes all that this process made; for an end that passes over what is registered for it."""
    for folder, lock in _kept:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()
    _kept.clear()
