"""The run folder: one layout for every way in."""

import difflib
import json
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from jobs.checkpoint import Checkpoints
from jobs.config import to_yaml
from jobs.errors import ConfigError
from jobs.identity import differing, identity
from jobs.lease import Lease
from jobs.schema import RunConfig
from jobs.storage import FolderStorage, Storage, delete, open_storage, partial_path, write_text

_PACKAGES = ("tensorflow", "keras", "ray", "numpy", "scikit-learn", "omegaconf", "wandb")
INITIAL_ENCODER = "initial_encoder.keras"
SEARCH = "search.yaml"  # what makes a folder a search's, and the folders in it its trials
_APART = ("checkpoints", "ray", "stacks")  # ray/ is Ray's own, stacks/ what each machine saw
# What commands add to a run, which training neither reads nor writes.
_ADDED = ("embedded", "embeddings", "evaluation.json", "evaluation-validation.json", "pictures", "test_curves.jsonl")
_LISTED = ("config.yaml", "summary.json", "metrics.jsonl", "environment.json")  # what a list of runs reads
_MARKS = ("config.yaml", "identity.json", "summary.json")  # any of them makes a folder a run, if a broken one


class RunFolder:
    """Paths of one run, and the files that describe it.

    Attributes:
        storage: that the run lies in.
        checkpoints: its checkpoints.
        lease: who may change it.
    """

    def __init__(
        self, path: Path, storage: Storage | None = None, attempt: str | None = None, lease: Lease | None = None
    ) -> None:
        """Keeps the path; makes nothing.

        Args:
            path: of the run; in an object store, of this machine's copy.
            storage: that it lies in; none for the folder above.
            attempt: at the run, that this process works for.
            lease: that the run is under; none for one of its own.
        """
        self.path = path
        self.name = path.name
        self.storage = storage or FolderStorage(path.parent)
        self.lease = lease or Lease(self.storage, self.name, attempt)
        self.checkpoints = Checkpoints(path / "checkpoints", self.storage, self.lease.check)
        self.encoder = path / "encoder.keras"
        self.classifier = path / "classifier.keras"
        self.summary = path / "summary.json"
        self.metrics = path / "metrics.jsonl"
        self.stacks = path / "stacks"
        self._initial_encoder = path / INITIAL_ENCODER
        self._identity = path / "identity.json"
        self._fetched: dict[Path, tuple[int, int]] = {}

    @property
    def url(self) -> str:
        """Where the user finds it."""
        return f"{self.storage.url}/{self.path.relative_to(self.storage.root).as_posix()}"

    def shown(self, path: Path) -> str:
        """What the user calls a file of the run, or any other file."""
        return f"{self.url}/{path.relative_to(self.path).as_posix()}" if path.is_relative_to(self.path) else str(path)

    def fetch(self) -> None:
        """Makes this machine's copy what the storage has of training, to go on with it.

        Checkpoints are fetched when they are opened; nobody but who holds the lease, and its worker 0, may call this.
        """
        self.storage.fetch(self.path, skip=(*_APART, *_ADDED))

    def fetch_initial_encoder(self) -> None:
        """Fetches only what a worker beside worker 0 needs."""
        self.storage.fetch(self._initial_encoder)

    def fetch_to_read(self) -> None:
        """Makes a copy for this process alone, of all but checkpoints and W&B's own files."""
        self.storage.fetch(self.path, skip=(*_APART, "wandb"))
        self._fetched = self._added()

    def fetch_to_list(self) -> None:
        """Makes a copy for this process alone, of what a list of runs needs."""
        for name in _LISTED:
            self.storage.fetch(self.path / name)

    def send(self) -> None:
        """Makes the storage have what training left here, but for checkpoints, which are sent when saved.

        The summary goes last: with it, a run is finished.
        """
        apart = (*_APART, *_ADDED, self.summary.name)
        parts = [path for path in self.path.iterdir() if path.name not in apart]
        self.storage.send(*sorted(parts), *([self.summary] if self.summary.exists() else []))

    def send_added(self) -> None:
        """Makes the storage have what this command has written, file by file: another one may be adding, too."""
        self.storage.send(*(file for file, facts in self._added().items() if self._fetched.get(file) != facts))

    def _added(self) -> dict[Path, tuple[int, int]]:
        """Size and time of change of each file that commands added."""
        places = [path for name in _ADDED for path in (self.path / name, *(self.path / name).rglob("*"))]
        facts = {path: path.stat() for path in sorted(places) if path.is_file()}
        return {path: (each.st_size, each.st_mtime_ns) for path, each in facts.items()}

    def finished(self) -> dict[str, Any] | None:
        """The summary of a run that was measured, with the name and the folder that it has now, or None."""
        if not self.summary.exists():
            return None
        return json.loads(self.summary.read_text()) | {"run": self.name, "folder": self.url}

    def forget_incomplete_result(self) -> None:
        """Removes the summary of a run that was stopped early and now goes on: the next one is of other weights."""
        summary = self.finished()
        if summary and not summary["complete"]:
            self.storage.remove(self.summary)

    def forget_result(self) -> None:
        """Lets `describe` write the configuration anew, as a population changes it, and removes the summary."""
        (self.path / "config.yaml").unlink(missing_ok=True)
        self.storage.remove(self.summary)

    @property
    def has_initial_encoder(self) -> bool:
        """Whether the storage has the weights that the encoder starts from."""
        return INITIAL_ENCODER in self.storage.names(self.path)

    @property
    def initial_encoder(self) -> Path | None:
        """The weights that the encoder starts from, or None when they start at random."""
        return self._initial_encoder if self._initial_encoder.exists() else None

    def move_aside(self) -> str | None:
        """Renames an existing folder to NAME.old-N; returns its new place, or None when there was nothing."""
        there = self.storage.names(self.path.parent)
        if self.name not in there:
            return None
        number = 1
        while (name := f"{self.name}.old-{number}") in there:
            number += 1
        self.storage.move(self.path, self.path.with_name(name))
        return f"{self.storage.url}/{name}"

    def check_identity(self, config: RunConfig, contents: dict[str, str]) -> None:
        """Refuses to go on with a run of another identity.

        Raises:
            ConfigError: names the keys that differ.
        """
        if not self._identity.exists():
            if self.storage.names(self.path):
                raise ConfigError(f"name: {self.url} exists and is not a run; choose another name or storage")
            delete(self.path)  # what a copy has left of a run that was removed from the storage
            return
        keys = differing(json.loads(self._identity.read_text()), config, contents)
        if keys:
            raise ConfigError(
                f"name: {self.url} holds a run that differs in {', '.join(keys)}; expected the same values to "
                "resume it, another name for another run, or resume=false to move it aside"
            )

    def describe(
        self, config: RunConfig, contents: dict[str, str], split: dict[str, Any], initial: Path | None = None
    ) -> None:
        """Writes config.yaml, split.json, identity.json and environment.json; a resumed run keeps the first three.

        Args:
            config: the run.
            contents: what counts by content in its identity.
            split: of `Split.to_json`.
            initial: the file that the encoder starts from, kept in the folder so that the run needs nothing else.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # The identity first: after a kill between two of these files the same command goes on with the missing ones.
        files = {
            self._identity: json.dumps(identity(config, contents), indent=1),
            self.path / "config.yaml": to_yaml(config),
            self.path / "split.json": json.dumps(split, indent=1),
        }
        for file, text in files.items():
            if not file.exists():
                write_text(file, text)
        if initial and not self._initial_encoder.exists():
            _copy(initial, self._initial_encoder)
        write_text(self.path / "environment.json", json.dumps(environment(), indent=1))
        self.send()

    def add_environment(self, facts: dict[str, Any]) -> None:
        """Adds what only a worker knows to environment.json."""
        file = self.path / "environment.json"
        write_text(file, json.dumps(json.loads(file.read_text()) | facts, indent=1))

    def note_time(self, what: str, ago: float = 0.0) -> None:
        """Adds to the timeline of environment.json that something happened now, or some seconds ago."""
        timeline = json.loads((self.path / "environment.json").read_text())["timeline"]
        self.add_environment({"timeline": {**timeline, what: time.time() - ago}})


def run_folders(storage: Storage) -> list[RunFolder]:
    """The folders of a storage that are runs, by name."""
    paths = [storage.root / name for name in storage.names(storage.root)]
    return [RunFolder(path, storage) for path in paths if set(_MARKS) & set(storage.names(path))]


def find_run(word: str, storage: str) -> RunFolder:
    """The run folder that a user means, to look at and to add to; of an object store, in a copy for this process alone.

    Args:
        word: a run's name in the storage, or the path of its folder.
        storage: the folder or object store of the runs.

    Raises:
        ConfigError: there is no such run; names those that are like it.
    """
    if "://" in word:
        upper, _, name = word.rstrip("/").rpartition("/")
        return find_run(name, upper)
    place = open_storage(storage, own_copy=True)
    if Path(word).name == word and SEARCH in place.names(place.root):  # a trial: its data lie where the search lies
        upper, _, search = place.url.rpartition("/")
        place, word = open_storage(upper, own_copy=True), f"{search}/{word}"
        return _to_read(place, word)
    if Path(word).name == word and "config.yaml" in place.names(place.root / word):
        return _to_read(place, word)
    path = Path(word).expanduser().resolve()
    if (path / "config.yaml").is_file():
        of_search = (path.parent / SEARCH).exists()
        return RunFolder(path, FolderStorage(path.parent.parent) if of_search else None)
    names = [folder.name for folder in run_folders(place)]
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.3)
    there = f"did you mean {' or '.join(close)}?" if close else f"runs there: {', '.join(names[:10]) or 'none'}"
    raise ConfigError(f"{word}: expected a run in {place.url} or the path of a run folder, found neither; {there}")


def _to_read(place: Storage, name: str) -> RunFolder:
    found = RunFolder(place.root / name, place)
    found.fetch_to_read()
    return found


def _copy(source: Path, target: Path) -> None:
    partial = partial_path(target)
    shutil.copyfile(source, partial)
    partial.replace(target)


def environment() -> dict[str, Any]:
    """What a run, or a measurement, ran with."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "timeline": {"command": psutil.Process().create_time(), "described": time.time()},
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (changes := _git("status", "--porcelain")) is None else bool(changes),
    }


def _git(*words: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # a copy without git history, as on a cluster
    return done.stdout.strip()
