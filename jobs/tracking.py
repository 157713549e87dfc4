"""Where metrics go: always `metrics.jsonl` in the run folder, and Weights & Biases when asked for.

Rows are held back until a checkpoint of their last step is committed; the checkpoint carries those that the file does
not have yet. A run that resumes cuts the file to its checkpoint and adds what that carries, so the file has every step
once. W&B, which cannot be cut, is never sent a step again: after a crash it gets a row that names the steps that were
done twice (and, resumed exactly, came out the same).

Logging never stops training: what W&B refuses is said in one line.
"""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jobs.checkpoint import Checkpoint, Spool
from jobs.config import to_dict
from jobs.errors import UnavailableError
from jobs.folder import RunFolder
from jobs.layers import one_line
from jobs.schema import RunConfig
from jobs.storage import write_text
from semisup_core.durable import flush

_ANSWER_SECONDS = 30.0  # of W&B's server when a run begins


class Tracker:
    """Collects rows of one run on worker 0."""

    def __init__(self, config: RunConfig, folder: RunFolder, restored: Checkpoint | None, say: Callable[[str], Any]):
        """Makes the file end with the checkpoint that the run resumes from.

        Args:
            config: the run.
            folder: the run folder.
            restored: the checkpoint that training resumes from, or None.
            say: prints a line to the user.
        """
        self._path, self._sent_file, self._say = folder.metrics, folder.path / ".wandb_sent", say
        self._held: list[dict[str, Any]] = []
        self._unpublished: list[dict[str, Any]] = []
        spool = restored.spool() if restored else None
        self._written = restored.step if restored else 0
        after = spool.after if spool else self._written
        kept = [row for row in read_rows(self._path) if row["step"] <= after] + (spool.rows if spool else [])
        write_text(self._path, _lines(kept))
        self._storage = folder.storage
        self._storage.send(self._path)
        self._size = self._path.stat().st_size
        self._wandb = None
        if config.tracking.name == "wandb":
            self._wandb = _start_wandb(config, folder.path, folder.name, say)
            self._sent = int(self._sent_file.read_text()) if self._sent_file.exists() else 0
            self._unpublished = kept
            if self._written < self._sent:
                window = {"rollback/from": self._sent, "rollback/to": self._written}
                self._publish([{"step": self._sent, **window}])

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Adds a row for a step: `{"step": …, **values}`."""
        self._held.append({"step": step, **values})

    def forget_after(self, step: int) -> None:
        """Drops the rows of later steps, which no good checkpoint has; no save may be under way."""
        self._held[:] = [row for row in self._held if row["step"] <= step]
        self._unpublished = [row for row in self._unpublished if row["step"] <= step]
        if step < self._written:  # checkpoints that held them were damaged since
            write_text(self._path, _lines([row for row in read_rows(self._path) if row["step"] <= step]))
            self._size, self._written = self._path.stat().st_size, step
        if self._wandb and step < self._sent:
            self._publish([{"step": self._sent, "rollback/from": self._sent, "rollback/to": step}])

    def unwritten(self) -> Spool:
        """The rows that the file does not have yet, for a checkpoint to carry."""
        return Spool(self._written, list(self._held))

    def write(self, spool: Spool) -> None:
        """Ends the file with the rows of a committed checkpoint, or as it was; `confirm` says that they are safe."""
        if self._path.stat().st_size < self._size:
            raise OSError(f"{self._path}: another process has cut it")
        try:
            os.truncate(self._path, self._size)
            with open(self._path, "a") as file:
                file.write(_lines(spool.rows))
                flush(file)
        except OSError:
            os.truncate(self._path, self._size)
            raise

    def confirm(self, spool: Spool) -> None:
        """From now on, checkpoints need not carry these rows: the file has them, in the storage too."""
        self._size = self._path.stat().st_size
        self._written = max([row["step"] for row in spool.rows], default=self._written)
        del self._held[: len(spool.rows)]  # in place: training may be adding rows
        self._unpublished += spool.rows

    def publish(self) -> None:
        """Sends W&B what the file has and it has not."""
        rows, self._unpublished = self._unpublished, []
        self._publish([row for row in rows if self._wandb and row["step"] > self._sent])

    def _publish(self, rows: list[dict[str, Any]]) -> None:
        if not self._wandb or not rows:
            return
        sent = max(self._sent, rows[-1]["step"])
        try:
            write_text(self._sent_file, str(sent))  # before it is true: W&B cannot take a row back
            self._storage.send(self._sent_file)
        except (OSError, UnavailableError):
            self._unpublished = rows + self._unpublished  # sent with the next ones
            return
        self._sent = sent
        try:
            for row in rows:
                self._wandb.log({"train/step": row["step"], **{k: v for k, v in row.items() if k != "step"}})
        except Exception as error:  # whatever W&B raises, the run goes on with its local files
            self._say(f"Weights & Biases failed ({error}); metrics go on in {self._path}")
            self._wandb = None

    def abandon(self) -> None:
        """Ends W&B's run where it is: another one may follow in this process."""
        if self._wandb:
            try:
                self._wandb.finish()
            except Exception as error:  # what is lost there is in the run folder
                self._say(f"Weights & Biases failed at the end ({error}); everything is in {self._path.parent}")

    def close(self, summary: dict[str, Any]) -> None:
        """Hands W&B the last rows and the final numbers, and ends its run."""
        self.publish()
        if self._wandb:
            try:
                try:
                    self._wandb.summary.update(summary)
                finally:
                    self._wandb.finish()
            except Exception as error:  # the run is done and its results are local
                self._say(f"Weights & Biases failed at the end ({error}); everything is in {self._path.parent}")


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


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
    """An online run where that is asked for and can be had, else an offline one, else None."""
    later = f"logging offline; send it later: wandb sync {folder}/wandb/offline-*"
    try:
        import wandb

        if config.tracking.mode == "online":
            if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
                say(f"Weights & Biases: no API key, {later}")
            else:
                try:
                    return _wandb_run(config, folder, name, "online")
                except Exception as error:  # no network, or a key that is not accepted
                    say(f"Weights & Biases: {one_line(error)}; {later}")
                    wandb.teardown()  # its process still has the id
        return _wandb_run(config, folder, name, "offline")
    except Exception as error:  # logging never stops training
        say(f"Weights & Biases failed to start ({one_line(error)}); metrics go to {folder}/metrics.jsonl only")
        return None


def _wandb_run(config: RunConfig, folder: Path, name: str, mode: Literal["online", "offline"]) -> Any:
    import wandb

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
        settings=wandb.Settings(console="off", silent=True, init_timeout=_ANSWER_SECONDS),
    )
    run.define_metric("train/step")
    run.define_metric("*", step_metric="train/step")
    return run


def _wandb_id(folder: Path) -> str:
    """One id a run folder: a resumed run goes on in W&B, a new run of the same name is another one there."""
    file = folder / ".wandb_id"
    if not file.exists():
        write_text(file, uuid.uuid4().hex[:12])
    return file.read_text()
