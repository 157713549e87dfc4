"""Where metrics go: always `metrics.jsonl` in the run folder, and Weights & Biases when asked for.

Rows are held back until the checkpoint that contains their steps is committed, so a run that resumes has every step
once. Logging never stops training: what W&B refuses is said in one line and training goes on.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.config import to_dict
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
            name: the run's name, also its id in W&B.
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
        """Writes the rows held back; called when a checkpoint of their last step is safe."""
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
            self._wandb.summary.update(summary)
            self._wandb.finish()


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
    import wandb

    mode: Any = config.tracking.mode
    if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        mode = "offline"
        say(f"Weights & Biases: no API key, logging offline; send it later with: wandb sync {folder}/wandb/offline-*")
    try:
        run = wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            group=config.tracking.group,
            tags=list(config.tracking.tags),
            id=name,
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
