"""Where metrics go: always `metrics.jsonl` in the run folder, and Weights & Biases when asked for.

Rows are held back until the checkpoint of their last step is about to be committed; a run that resumes drops the rows
beyond its checkpoint, so `metrics.jsonl` has every step once. (After a crash in the moment between the two, W&B has the
rows of that one interval twice.) Logging never stops training: what W&B refuses is said in one line.
"""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.config import to_dict
from jobs.folder import write_text
from jobs.schema import RunConfig


class Tracker:
    """Collects rows of one run on worker 0."""

    def __init__(
        self, config: RunConfig, folder: Path, name: str, resumed_step: int, say: Callable[[str], Any]
    ) -> None:
        """Drops the rows beyond the step that the run resumes from.

        Args:
            config: the run.
            folder: the run folder.
            name: the run's name.
            resumed_step: 0 for a new run.
            say: prints a line to the user.
        """
        self._path = folder / "metrics.jsonl"
        self._rows: list[dict[str, Any]] = []
        self._say = say
        kept = [row for row in read_rows(self._path) if row["step"] <= resumed_step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self._path)
        self._wandb = _start_wandb(config, folder, name, say) if config.tracking.name == "wandb" else None

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Adds a row for a step: `{"step": …, **values}`."""
        self._rows.append({"step": step, **values})

    def commit(self) -> None:
        """Writes the rows held back; called just before the checkpoint of their last step is committed."""
        with open(self._path, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in self._rows)
            file.flush()
            os.fsync(file.fileno())
        if self._wandb:
            try:
                for row in self._rows:
                    self._wandb.log({"train/step": row["step"], **{k: v for k, v in row.items() if k != "step"}})
            except Exception as error:  # whatever W&B raises, the run goes on with its local files
                self._say(f"Weights & Biases failed ({error}); metrics go on in {self._path}")
                self._wandb = None
        self._rows = []

    def close(self, summary: dict[str, Any]) -> None:
        """Hands W&B the final numbers and ends its run."""
        if self._wandb:
            try:
                try:
                    self._wandb.summary.update(summary)
                finally:
                    self._wandb.finish()
            except Exception as error:  # the run is done and its results are local
                self._say(f"Weights & Biases failed at the end ({error}); everything is in {self._path.parent}")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that was cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _start_wandb(config: RunConfig, folder: Path, name: str, say: Callable[[str], Any]) -> Any:
    mode: Any = config.tracking.mode
    try:
        import wandb

        if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            mode = "offline"
            say(f"Weights & Biases: no API key, logging offline; send it later: wandb sync {folder}/wandb/offline-*")
        run = wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            group=config.tracking.group,
            tags=list(config.tracking.tags),
            id=_wandb_id(folder),
            name=name,
            resume="allow",
            mode=mode,
            dir=str(folder),
            config=to_dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
        run.define_metric("train/step")
        run.define_metric("*", step_metric="train/step")
    except Exception as error:  # logging never stops training
        say(f"Weights & Biases failed to start ({error}); metrics go to {folder}/metrics.jsonl only")
        return None
    return run


def _wandb_id(folder: Path) -> str:
    """One id a run folder: a resumed run goes on in W&B, a new run of the same name is another one there."""
    file = folder / ".wandb_id"
    if not file.exists():
        write_text(file, uuid.uuid4().hex[:12])
    return file.read_text()
