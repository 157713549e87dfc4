"""Where runs lie: a folder that all machines see, or an object store with a working copy on every machine.

The rest of the program works on files below `root`. It says `fetch` before it reads what another machine may have
written, and `send` after it has written what others must see; for a folder neither does anything. An object store's
files appear whole or not at all, but one by one: what belongs together is sent in order, its manifest last.

The processes of a run on one machine share its working copy, and of those only worker 0 writes once training has
begun. Whoever looks on (lists, evaluation, pictures) has a copy of its own and sends what it adds, so it neither sees a
file half-changed nor brings an old one back.
"""

import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from jobs.errors import ConfigError, UnavailableError

SCHEMES = ("s3", "gs", "az")


class Storage(Protocol):
    """What both kinds can do.

    Attributes:
        url: what the user calls it, absolute.
        root: the folder to work in; every path below belongs to it.
    """

    url: str
    root: Path

    def check(self) -> None:
        """Writes and removes a small file.

        Raises:
            UnavailableError: it cannot be reached, or does not allow it.
        """

    def names(self, folder: Path) -> list[str]:
        """What lies directly in a folder, sorted; nothing when it is not there."""

    def read(self, path: Path) -> bytes | None:
        """What a small file has there now, past the working copy; None when it is not there."""

    def write(self, path: Path, content: bytes) -> None:
        """Writes a small file there, whole or not at all, past the working copy."""

    def fetch(self, path: Path, skip: Iterable[str] = ()) -> None:
        """Makes a file or folder here what it is there; `skip` names entries of a folder to leave alone."""

    def send(self, *paths: Path) -> None:
        """Makes files and folders there what they are here, in this order; a folder's `manifest.json` goes last."""

    def remove(self, path: Path) -> None:
        """Deletes a file or folder, here and there."""

    def move(self, path: Path, target: Path) -> None:
        """Renames a folder, here and there."""

    def for_ray(self, path: Path) -> dict[str, Any]:
        """What Ray's RunConfig needs to keep its own files under a path."""


def open_storage(place: str, own_copy: bool = False) -> Storage:
    """The storage of a configuration.

    Args:
        place: a folder, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`.
        own_copy: of an object store, a working copy that no other process has and that goes with this one.

    Raises:
        ConfigError: an address that is not understood.
        UnavailableError: an object store that cannot be found.
    """
    if "://" not in place:
        return FolderStorage(Path(place))
    from jobs.object_storage import ObjectStorage

    return ObjectStorage(place, own_copy)


def local_file(place: str, *beside: str) -> Path:
    """A file that a user names, on this machine: a path as it is, an object in a copy; it need not be there.

    Args:
        place: a path or an address.
        *beside: names of files that are wanted beside it.

    Raises:
        ConfigError: an address that is not understood.
    """
    if "://" not in place:
        return Path(place).expanduser()
    folder, _, name = place.rpartition("/")
    storage = open_storage(folder, own_copy=True)
    for each in (name, *beside):
        storage.fetch(storage.root / each)
    return storage.root / name


class FolderStorage:
    """A folder: what is written is there for all."""

    def __init__(self, root: Path) -> None:
        """Keeps the path; makes nothing."""
        self.root = root.expanduser().resolve()
        self.url = str(self.root)

    def check(self) -> None:
        """Makes a file and removes it again, in the folder or in the nearest one above that is there."""
        there = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        probe = there / f".probe-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"semisup")
        except OSError as error:
            raise UnavailableError(f"storage={self.url}: cannot be written: {error.strerror or error}") from error
        finally:
            if probe.exists():
                probe.unlink()

    def names(self, folder: Path) -> list[str]:
        """What lies directly in a folder."""
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def read(self, path: Path) -> bytes | None:
        """The file's content."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, content: bytes) -> None:
        """Writes the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path)
        partial.write_bytes(content)
        partial.replace(path)

    def fetch(self, path: Path, skip: Iterable[str] = ()) -> None:
        """Nothing to do."""

    def send(self, *paths: Path) -> None:
        """Nothing to do."""

    def remove(self, path: Path) -> None:
        """Deletes a file or folder."""
        delete(path)

    def move(self, path: Path, target: Path) -> None:
        """Renames a folder."""
        path.rename(target)

    def for_ray(self, path: Path) -> dict[str, Any]:
        """The path."""
        return {"storage_path": str(path)}


def check_address(place: str) -> None:
    """Checks what can be seen of a storage without asking it.

    Raises:
        ConfigError: another scheme, no bucket, or a key in the address.
    """
    if "://" not in place:
        scheme, colon, _ = place.partition(":")
        if colon and scheme in SCHEMES:
            raise ConfigError(f"storage: expected {scheme}://BUCKET/PREFIX, got {place}")
        return
    parts = urlsplit(place)
    if parts.scheme not in SCHEMES:
        expected = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"storage: expected a folder or an address that begins with {expected}; got {place}")
    if "@" in parts.netloc:
        raise ConfigError(
            "storage: expected an address without a key, it would be written into every run folder; give credentials "
            "in the environment or in the cloud's own files"
        )
    if not parts.netloc:
        raise ConfigError(f"storage: expected {parts.scheme}://BUCKET/PREFIX, got {place}")
    if parts.scheme == "az" and "AZURE_STORAGE_ACCOUNT" not in os.environ:
        raise ConfigError("storage: az:// needs the name of the account in AZURE_STORAGE_ACCOUNT")


def is_shared(place: str) -> bool:
    """Whether a place can be the same one for another machine: a bucket, or a path that starts at the root."""
    return "://" in place or Path(place).expanduser().is_absolute()


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = partial_path(path)
    partial.write_text(text)
    partial.replace(path)


def partial_path(path: Path) -> Path:
    """Where a file is written before it takes its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def delete(path: Path) -> None:
    """Removes a file or a folder; nothing when it is not there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
