"""An object store as a storage: a working copy on every machine, and pyarrow's file systems beneath."""

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from jobs.errors import ConfigError, UnavailableError
from jobs.own_copy import own_folder
from jobs.storage import check_address, delete, partial_path

_BLOCK = 1 << 22  # bytes copied at a time
_SMALL = 1 << 20  # bytes; smaller objects are fetched each time, because a store's clock shows seconds only


class ObjectStorage:
    """An object store; this machine works on a copy in its cache folder."""

    def __init__(self, url: str, own_copy: bool = False) -> None:
        """Finds the place of the working copy; asks nobody yet.

        Args:
            url: of the storage.
            own_copy: work in a temporary folder that goes with this process.

        Raises:
            ConfigError: another scheme, no bucket, or a key in the address.
            UnavailableError: nobody says where the bucket is.
        """
        self.url = url.rstrip("/")
        self._files, self._base = _file_system(self.url)
        if own_copy:
            self.root = own_folder(cache_folder())
            return
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.url)[:60]
        self.root = cache_folder() / f"{readable}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"

    def check(self) -> None:
        """Writes an object and removes it again."""
        probe = self.root / f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"semisup")
        with self._said("write to"):
            self._files.delete_file(self._there(probe))
        self.root.mkdir(parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        """What lies directly under a prefix."""
        return sorted(info.base_name for info in self._list(folder, recursive=False))

    def read(self, path: Path) -> bytes | None:
        """An object's content."""
        with self._said("read from"):
            try:
                with self._files.open_input_stream(self._there(path)) as source:
                    return source.read()
            except FileNotFoundError:
                return None

    def write(self, path: Path, content: bytes) -> None:
        """Writes an object."""
        with self._said("write to"), self._files.open_output_stream(self._there(path)) as out:
            out.write(content)

    def fetch(self, path: Path, skip: Iterable[str] = ()) -> None:
        """Downloads what is new or was changed, and deletes here what is not there."""
        left_alone = {path / name for name in skip}
        with self._said("read from"), self._alone():
            infos = {self._here(info.path): info for info in self._list(path, recursive=True) if info.is_file}
            for local, info in infos.items():
                if not left_alone & {local, *local.parents}:
                    self._download(local, info)
            for local in [*sorted(path.rglob("*"), reverse=True), path]:
                if left_alone & {local, *local.parents} or local in infos:
                    continue
                if local.is_file():
                    local.unlink()
                elif local.is_dir() and not any(local.iterdir()):
                    local.rmdir()

    def send(self, *paths: Path) -> None:
        """Uploads what is new or was changed, and deletes there what is no longer here."""
        with self._said("write to"):
            for path in paths:
                infos = {self._here(info.path): info for info in self._list(path, recursive=True) if info.is_file}
                found = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
                for local in sorted(found, key=lambda each: (each.name == "manifest.json", each)):
                    self._upload(local, infos.get(local))
                for gone in infos.keys() - set(found):
                    self._files.delete_file(self._there(gone))

    def remove(self, path: Path) -> None:
        """Deletes objects first, so that no reader finds a copy that is going."""
        with self._said("write to"):
            for manifest in self._manifests(path):
                self._files.delete_file(manifest)
            self._delete_there(path)
        delete(path)

    def move(self, path: Path, target: Path) -> None:
        """Copies every object, then deletes the old ones; interrupted, it leaves both, and the old ones whole."""
        with self._said("write to"):
            for info in self._list(path, recursive=True):
                if info.is_file:
                    self._files.copy_file(info.path, self._there(target / self._here(info.path).relative_to(path)))
            self._delete_there(path)
        delete(target)
        if path.exists():
            path.rename(target)

    def for_ray(self, path: Path) -> dict[str, Any]:
        """The same file system that we use."""
        return {"storage_path": self._there(path), "storage_filesystem": self._files}

    def _manifests(self, path: Path) -> list[str]:
        return [info.path for info in self._list(path, recursive=True) if info.base_name == "manifest.json"]

    def _delete_there(self, path: Path) -> None:
        place = self._there(path)
        kind = self._files.get_file_info(place).type
        if kind == fs.FileType.Directory:
            self._files.delete_dir(place)
        elif kind == fs.FileType.File:
            self._files.delete_file(place)

    def _there(self, path: Path) -> str:
        return f"{self._base}/{path.relative_to(self.root).as_posix()}"

    def _here(self, key: str) -> Path:
        return self.root / key.removeprefix(f"{self._base}/")

    def _list(self, path: Path, recursive: bool) -> list[Any]:
        """The objects under a path, or the one that it names."""
        with self._said("read from"):
            place = self._there(path) if path != self.root else self._base
            info = self._files.get_file_info(place)
            if info.type == fs.FileType.File:
                return [info]
            return self._files.get_file_info(fs.FileSelector(place, recursive=recursive, allow_not_found=True))

    def _download(self, local: Path, info: Any) -> None:
        if info.size > _SMALL and local.is_file() and _same(local, info):
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(local)
        with self._files.open_input_stream(info.path) as source, open(partial, "wb") as out:
            shutil.copyfileobj(source, out, _BLOCK)
        os.utime(partial, ns=(info.mtime_ns, info.mtime_ns))
        partial.replace(local)

    def _upload(self, local: Path, info: Any) -> None:
        if info is not None and _same(local, info):
            return
        before = local.stat()
        with open(local, "rb") as source, self._files.open_output_stream(self._there(local)) as out:
            left = before.st_size  # of a file that is growing (W&B's), what it has now
            while left and (block := source.read(min(_BLOCK, left))):
                out.write(block)
                left -= len(block)
        sent, now = self._files.get_file_info(self._there(local)), local.stat()
        if sent.size != before.st_size:
            raise OSError(f"{local.name} has {sent.size} bytes there and {before.st_size} here")
        if (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            os.utime(local, ns=(sent.mtime_ns, sent.mtime_ns))  # equal times and sizes are the same file from now on

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process of this machine at a time, so that the second finds what the first has fetched."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _said(self, doing: str) -> Iterator[None]:
        """Errors of the file system as ours, with the address."""
        try:
            yield
        except OSError as error:
            raise UnavailableError(f"storage={self.url}: cannot {doing} it: {_first_sentence(error)}") from error


def cache_folder() -> Path:
    """Where this machine keeps working copies: $SEMISUP_CACHE, else the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("SEMISUP_CACHE") or Path(cache) / "semisup").expanduser().resolve()


def _file_system(url: str) -> tuple[Any, str]:
    check_address(url)
    parts = urlsplit(url)
    if parts.scheme == "az":
        return fs.AzureFileSystem(account_name=os.environ["AZURE_STORAGE_ACCOUNT"]), parts.netloc + parts.path
    try:
        files, base = fs.FileSystem.from_uri(url)
    except ValueError as error:
        raise ConfigError(f"storage={url}: {_first_sentence(error)}") from error
    except OSError as error:  # it asks Amazon for the bucket's region when the environment does not say it
        raise UnavailableError(
            f"storage={url}: cannot find it: {_first_sentence(error)}; check the network and the bucket's name, or set "
            "AWS_DEFAULT_REGION, or AWS_ENDPOINT_URL for a store that is not Amazon's"
        ) from error
    return files, base


def _same(local: Path, info: Any) -> bool:
    facts = local.stat()
    return facts.st_size == info.size and facts.st_mtime_ns == info.mtime_ns


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split("(Request ID")[0].split())
