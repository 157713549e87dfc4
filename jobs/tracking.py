"""Where metrics go: always `metrics.jsonl` in the run folder, and Weights & Biases when asked for.

Rows are held back until a checkpoint of their last step is committed; the checkpoint carries those that the file does
not have yet. A run that resumes cuts the file to its checkpoint and adds what that carries, so the file has every step
once. W&B, which cannot be cut, is never sent a step again: after a crash it gets a row that names the steps that were
done twice (and, resumed exactly, came out the same). Of its offline files, what arrived in them is what was sent.

Logging never stops training: what W&B refuses is said in one line.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs import wandb_run
from jobs.checkpoint import Checkpoint, Spool
from jobs.errors import UnavailableError
from jobs.event_files import EventFiles
from jobs.folder import RunFolder
from jobs.schema import RunConfig
from jobs.storage import write_text
from jobs.wandb_files import arrived
from semisup_core.durable import flush


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
        self._folder = folder
        self._path, self._sent_file, self._say = folder.metrics, folder.path / ".wandb_sent", say
        self._held: list[dict[str, Any]] = []
        spool = restored.spool() if restored else None
        self._written = restored.step if restored else 0
        after = spool.after if spool else self._written
        kept = [row for row in read_rows(self._path) if row["step"] <= after] + (spool.rows if spool else [])
        write_text(self._path, _lines(kept))
        self._storage = folder.storage
        self._storage.send(self._path)
        self._size = self._path.stat().st_size
        self._unpublished = kept
        self._events = EventFiles(folder.path) if config.tracking.tensorboard else None
        self._wandb: Any = None
        if config.tracking.name == "wandb":
            recorded = int(self._sent_file.read_text()) if self._sent_file.exists() else 0
            self._sent = arrived(folder.path, recorded)
            self._wandb = wandb_run.start(config, folder, say)
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
            if self._events:
                self._events = EventFiles(self._folder.path)
                self._unpublished = read_rows(self._path)
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
        """Sends W&B and TensorBoard's files what metrics.jsonl has and they have not."""
        rows, self._unpublished = self._unpublished, []
        if self._events:
            try:
                self._events.write(rows)
            except Exception as error:  # whatever TensorFlow raises, the run goes on with its local files
                self._say(f"TensorBoard's files cannot be written ({error}); metrics go on in {self._path}")
                self._events = None
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
        self._unless_it_fails(lambda: self._send(rows))

    def _send(self, rows: list[dict[str, Any]]) -> None:
        steps: dict[int, dict[str, Any]] = {}  # one row of W&B's has all of a step: a kill loses it whole or not at all
        for row in rows:
            steps.setdefault(row["step"], {"train/step": row["step"]}).update(row)
        for values in steps.values():
            self._wandb.log({key: value for key, value in values.items() if key != "step"})

    def abandon(self) -> None:
        """Ends W&B's run where it is: another one may follow in this process."""
        if self._wandb:
            try:
                self._wandb.finish()
            except Exception as error:  # what is lost there is in the run folder
                self._say(f"Weights & Biases failed at the end ({error}); everything is in {self._path.parent}")

    def show(self, name: str, picture: Path) -> None:
        """Hands W&B a picture of a run that it knows nothing of yet; a resumed one has it."""
        if self._wandb and not self._sent:
            self._unless_it_fails(lambda: wandb_run.show(self._wandb, name, picture, 0))

    def _unless_it_fails(self, log: Callable[[], Any]) -> None:
        try:
            log()
        except Exception as error:  # whatever W&B raises, the run goes on with its local files
            self._say(f"Weights & Biases failed ({error}); metrics go on in {self._path}")
            self._wandb = None
            wandb_run.give_up()

    def close(self, summary: dict[str, Any]) -> None:
        """Hands W&B the last rows, the curves, the encoder and the final numbers, and ends its run."""
        self.publish()
        curves = self._path.parent / "curves.png"
        for leave in (
            lambda: wandb_run.show(self._wandb, "curves", curves, self._written),
            lambda: wandb_run.leave(self._wandb, self._folder),
        ):
            if self._wandb and curves.exists():
                try:
                    leave()
                except Exception as error:  # whatever W&B raises, the result below still goes there
                    self._say(f"Weights & Biases took no picture or encoder ({error}); both are in {self._path.parent}")
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
