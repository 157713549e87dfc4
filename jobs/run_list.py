"""What `python -m jobs.runs` says of each run; reads its files, changes none, and imports nothing heavy."""

import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from jobs.folder import INITIAL_ENCODER, RunFolder, run_folders
from jobs.storage import FolderStorage, Storage, open_storage
from jobs.text import columns, duration, interval_text, printable


class RunLine(NamedTuple):
    """One run for the list.

    Attributes:
        name: of the run.
        state: finished, stopped and why, unfinished and where, or broken and why.
        method: its name.
        dataset: its name.
        best: the accuracy that counts, with its protocol, or "-".
        age: time since its folder last changed.
        command: what resumes the run; "" for a broken one.
    """

    name: str
    state: str
    method: str
    dataset: str
    best: str
    age: str
    command: str


def list_runs(storage: Storage) -> str:
    """A table of the runs of a storage, and the command that resumes each (of a finished one: shows its result)."""
    lines = [run_line(folder) for folder in run_folders(storage)]
    if not lines:
        return f"no runs in {storage.url}"
    rows = [list(RunLine._fields[:-1]), *([printable(cell) for cell in line[:-1]] for line in lines)]
    head, *table = columns(rows, left=range(len(rows[0])), indent="")
    return "\n".join(
        [head] + [text for row, line in zip(table, lines, strict=True) for text in _with_command(row, line)]
    )


def _with_command(row: str, line: RunLine) -> list[str]:
    return [row, f"    {line.command}"] if line.command else [row]


def run_line(folder: RunFolder) -> RunLine:
    """One run, whatever state its folder is in."""
    folder.fetch_to_list()
    try:
        config = yaml.load((folder.path / "config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        state, best = _state(folder, config)
        method, dataset = str(config["method"]["name"]), str(config["dataset"]["name"])
        return RunLine(folder.name, state, method, dataset, best, _age(folder), _resume_command(folder, config))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        why = f"broken: {type(error).__name__} {' '.join(str(error).split())}"[:80]
        return RunLine(folder.name, why, "-", "-", "-", _age(folder), "")


def _state(folder: RunFolder, config: dict[str, Any]) -> tuple[str, str]:
    summary = folder.finished()
    epochs = config["trainer"]["epochs"]
    if summary and summary["complete"]:
        return f"finished, epoch {summary['epoch']} kept", _test_accuracy(summary, config)
    meta = folder.checkpoints.newest_meta()
    if summary and (meta is None or meta["step"] <= summary["steps"]):
        return f"stopped: {summary['stopped']}", _test_accuracy(summary, config)
    if meta is None:
        return "no checkpoint", "-"
    chosen = meta["selection"]
    best = f"validation {chosen['monitor']} {chosen['value']:.4f}" if chosen["step"] is not None else "-"
    return f"unfinished, epoch {meta['epoch']} of {epochs}", best


def _test_accuracy(summary: dict[str, Any], config: dict[str, Any]) -> str:
    """Test accuracy under the protocol that selects, or the first one that was measured."""
    test = summary["test"]
    if not test:
        return "-"
    protocol = config["evaluation"]["monitor"]
    protocol = protocol if protocol in test else next(iter(test))
    return f"test {protocol} {test[protocol]['accuracy']:.4f} ({interval_text(test[protocol].get('interval'))})"


def _age(folder: RunFolder) -> str:
    """Since training last left something in it; of a folder without any of that, since it changed."""
    path = folder.path
    places = [folder.metrics, folder.summary, path / "environment.json", path / "checkpoints"]
    there = [place for place in places if place.exists()] or [place for place in [path] if place.exists()]
    return duration(max(0.0, time.time() - max(place.stat().st_mtime for place in there))) if there else "-"


def _resume_command(folder: RunFolder, config: dict[str, Any]) -> str:
    """The command that goes on with a run, from the working folder of now."""
    words = ["python", "-m", "jobs.train", "--config", _shown(folder, folder.path / "config.yaml")]
    if config["name"] != folder.name:
        words.append(f"name={folder.name}")
    if open_storage(config["storage"]).url != folder.storage.url:
        here = isinstance(folder.storage, FolderStorage)
        words.append(f"storage={_here(folder.storage.root) if here else folder.storage.url}")
    if folder.has_initial_encoder:  # the run's own copy; what encoder.init named may be gone
        words.append(f"encoder.init={_shown(folder, folder.path / INITIAL_ENCODER)}")
    if not config["resume"]:
        words.append("resume=true")
    if config["debug"]["steps"] is not None:
        words.append("debug.steps=null")
    return shlex.join(words)


def _shown(folder: RunFolder, path: Path) -> str:
    return _here(path) if isinstance(folder.storage, FolderStorage) else folder.shown(path)


def _here(path: Path) -> str:
    """A path relative to the working folder where it lies below, else absolute."""
    path, here = path.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
