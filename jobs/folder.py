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

from jobs.config import to_yaml
from jobs.errors import ConfigError
from jobs.identity import differing, identity
from jobs.schema import RunConfig

_PACKAGES = ("tensorflow", "keras", "ray", "numpy", "scikit-learn", "omegaconf", "wandb")
_MARKS = ("config.yaml", "identity.json", "summary.json")  # any of them makes a folder a run, if a broken one


class RunFolder:
    """Paths of one run, and the files that describe it."""

    def __init__(self, path: Path) -> None:
        """Keeps the path; makes nothing."""
        self.path = path
        self.name = path.name
        self.checkpoints = path / "checkpoints"
        self.encoder = path / "encoder.keras"
        self.classifier = path / "classifier.keras"
        self.summary = path / "summary.json"
        self.metrics = path / "metrics.jsonl"
        self._initial_encoder = path / "initial_encoder.keras"
        self._identity = path / "identity.json"

    def finished(self) -> dict[str, Any] | None:
        """The summary of a run that was measured, with the name and the folder that it has now, or None."""
        if not self.summary.exists():
            return None
        return json.loads(self.summary.read_text()) | {"run": self.name, "folder": str(self.path)}

    def forget_incomplete_result(self) -> None:
        """Removes the summary of a run that was stopped early and now goes on: the next one is of other weights."""
        summary = self.finished()
        if summary and not summary["complete"]:
            self.summary.unlink()

    @property
    def initial_encoder(self) -> Path | None:
        """The weights that the encoder starts from, or None when they start at random."""
        return self._initial_encoder if self._initial_encoder.exists() else None

    def move_aside(self) -> Path | None:
        """Renames an existing folder to NAME.old-N; returns the new path, or None when there was nothing."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.name}.old-{number}")).exists():
            number += 1
        return self.path.rename(aside)

    def check_identity(self, config: RunConfig, contents: dict[str, str]) -> None:
        """Refuses to go on with a run of another identity.

        Raises:
            ConfigError: names the keys that differ.
        """
        if not self._identity.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise ConfigError(f"name: {self.path} exists and is not a run; choose another name or storage")
            return
        keys = differing(json.loads(self._identity.read_text()), config, contents)
        if keys:
            raise ConfigError(
                f"name: {self.path} holds a run that differs in {', '.join(keys)}; expected the same values to "
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
        write_text(self.path / "environment.json", json.dumps(_environment(), indent=1))

    def add_environment(self, facts: dict[str, Any]) -> None:
        """Adds what only a worker knows to environment.json."""
        file = self.path / "environment.json"
        write_text(file, json.dumps(json.loads(file.read_text()) | facts, indent=1))


def run_folders(storage: Path) -> list[RunFolder]:
    """The folders of a storage that are runs, by name."""
    found = storage.iterdir() if storage.is_dir() else ()
    return [RunFolder(path) for path in sorted(found) if any((path / name).exists() for name in _MARKS)]


def find_run(word: str, storage: str) -> RunFolder:
    """The run folder that a user means.

    Args:
        word: a run's name in the storage, or the path of its folder.
        storage: the folder of the runs.

    Raises:
        ConfigError: there is no such run; names those that are like it.
    """
    place = Path(storage).expanduser()
    for path in (place / word, Path(word).expanduser()):
        if (path / "config.yaml").is_file():
            return RunFolder(path.resolve())
    names = [folder.name for folder in run_folders(place)]
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.3)
    there = f"did you mean {' or '.join(close)}?" if close else f"runs there: {', '.join(names[:10]) or 'none'}"
    raise ConfigError(f"{word}: expected a run in {place} or the path of a run folder, found neither; {there}")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = _partial(path)
    partial.write_text(text)
    partial.replace(path)


def _copy(source: Path, target: Path) -> None:
    partial = _partial(target)
    shutil.copyfile(source, partial)
    partial.replace(target)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _environment() -> dict[str, Any]:
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
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
