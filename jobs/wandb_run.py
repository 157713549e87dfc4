"""A run's counterpart in Weights & Biases: its start, its pictures, and what it leaves."""

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from jobs.config import to_dict
from jobs.folder import RunFolder
from jobs.layers import one_line
from jobs.schema import RunConfig
from jobs.storage import FolderStorage, write_text

_ANSWER_SECONDS = 30.0  # of W&B's server when a run begins
_FILES = ("config.yaml", "split.json", "environment.json", "summary.json")  # beside the encoder in its artifact


def start(config: RunConfig, folder: RunFolder, say: Callable[[str], Any]) -> Any:
    """An online run where that is asked for and can be had, else an offline one, else None."""
    later = f"logging offline; send it later: wandb sync {folder.path}/wandb/offline-*"
    try:
        import wandb

        if config.tracking.mode == "online":
            if not has_key():
                say(f"Weights & Biases: no API key, {later}")
            else:
                try:
                    return _run(config, folder, "online")
                except Exception as error:  # no network, or a key that is not accepted
                    say(f"Weights & Biases: {one_line(error)}; {later}")
                    wandb.teardown()  # its process still has the id
        return _run(config, folder, "offline")
    except Exception as error:  # logging never stops training
        say(f"Weights & Biases failed to start ({one_line(error)}); metrics go to {folder.metrics} only")
        return None


def has_key() -> bool:
    """Whether Weights & Biases has a key here."""
    import wandb

    return bool(os.environ.get("WANDB_API_KEY")) or wandb.login(prompt=False, verify=False)


def _run(config: RunConfig, folder: RunFolder, mode: Literal["online", "offline"]) -> Any:
    import wandb

    environment = folder.path / "environment.json"
    run = wandb.init(
        project=config.tracking.project,
        entity=config.tracking.entity,
        group=config.tracking.group,
        tags=list(config.tracking.tags),
        notes=config.tracking.notes,
        id=_id(folder.path),
        name=folder.name,
        resume="allow",
        reinit="create_new",  # else a failed run of this process is handed out again
        mode=mode,
        dir=str(folder.path),
        config={**to_dict(config), "environment": json.loads(environment.read_text()) if environment.exists() else {}},
        settings=wandb.Settings(console="off", silent=True, init_timeout=_ANSWER_SECONDS),
    )
    run.define_metric("train/step")
    run.define_metric("*", step_metric="train/step")
    return run


def give_up() -> None:
    """After a failure: lets W&B's process go, so that the next run here (a trial's) begins with another."""
    import wandb

    with suppress(Exception):  # whatever it raises when that process is dead
        wandb.teardown()


def _id(folder: Path) -> str:
    """One id a run folder: a resumed run goes on in W&B, a new run of the same name is another one there."""
    file = folder / ".wandb_id"
    if not file.exists():
        write_text(file, uuid.uuid4().hex[:12])
    return file.read_text()


def show(run: Any, name: str, picture: Path, step: int) -> None:
    """Logs a picture."""
    import wandb

    run.log({"train/step": step, f"pictures/{name}": wandb.Image(str(picture))})


def leave(run: Any, folder: RunFolder) -> None:
    """Logs the encoder as an artifact with what describes it; of a bucket, the address where it lies there."""
    import wandb

    if not folder.encoder.exists():
        return
    # W&B's own references want each cloud's library on this machine.
    artifact = wandb.Artifact(folder.name, type="encoder", metadata={"folder": folder.url})
    for name in _FILES:
        if (folder.path / name).exists():
            artifact.add_file(str(folder.path / name))
    for file in (folder.encoder, folder.classifier):
        if file.exists() and isinstance(folder.storage, FolderStorage):
            artifact.add_file(str(file))
    run.log_artifact(artifact)
