"""What rank 0 does beside training: speak, evaluate, log, save, and leave the results."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from jobs.checkpoint import Checkpoint, checkpoint_name
from jobs.folder import RunFolder
from jobs.gallery import gallery_columns
from jobs.plan import Plan
from jobs.report import described, draw_curves, draw_gallery, epoch_line
from jobs.result import measure_test, put_in_place
from jobs.runtime import Progress
from jobs.saver import Saver
from jobs.schema import RunConfig
from jobs.selection import patience_used_up, restored_selection
from jobs.storage import write_text
from jobs.text import duration
from jobs.tracking import Tracker, read_rows
from semisup_core.data.splits import POOLS, Split
from semisup_core.data.store import Store
from semisup_core.devices import anonymous_mib, device_names, processor, threads
from semisup_core.errors import NumericalError
from semisup_core.evaluation.evaluator import Evaluator
from semisup_core.methods.base import Method
from semisup_core.trainer import Trainer

_HEARTBEAT_SECONDS = 20.0  # an epoch longer than this shows where it is


class Leader:
    """Rank 0's duties in one run.

    Attributes:
        stopped: why training ends before its last step, or None.
        progress: the evaluation of the newest epoch, or None when it had none.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        store: Store,
        split: Split,
        plan: Plan,
        method: Method,
        trainer: Trainer,
        say: Callable[[str], Any],
        restored: Checkpoint | None,
    ) -> None:
        """Takes over from the checkpoint that training resumes from, if there is one."""
        self._config, self._folder, self._store, self._split = config, folder, store, split
        self._plan, self._trainer, self._say = plan, trainer, say
        self._evaluator = Evaluator(method, store, split)
        self._tracker = Tracker(config, folder, restored, say)
        self._saver = Saver(config.checkpoint, folder, self._tracker, restored, say)
        self._selection = restored_selection(restored.meta if restored else None, config.evaluation.monitor)
        self._out_of_patience = patience_used_up(self._selection, config.trainer.early_stop)
        self.stopped = self._out_of_patience
        self.progress: Progress | None = None
        earlier = restored.meta.get("phases_seconds", {}) if restored else {}
        self._phases: dict[str, float] = {"train": 0.0, "validate": 0.0, "checkpoint": 0.0, **earlier}
        self._epoch_seconds: list[float] = []
        self._losses: list[float] = []
        self._skipped = restored.skipped if restored else []
        self._begun = self._spoken = self._ended = time.perf_counter()
        self._stepped = False

    def introduce(self, replicas: int, streams: dict[str, Any], build_seconds: float) -> None:
        """Says what is about to run, checks that its checkpoints fit, and draws the gallery."""
        self._phases["build"] = build_seconds
        self._saver.check_space(
            sum(array.nbytes for array in self._trainer.state().values()), self._config.trainer.epochs
        )
        config, plan, epochs = self._config, self._plan, self._config.trainer.epochs
        sizes = {"unlabelled": plan.unlabelled_batch, "labelled": plan.labelled_batch}
        batches = " + ".join(f"{sizes[pool]} {pool}" for pool in streams)
        self._say(
            f"{self._folder.name}: {config.method.name}, {config.encoder.name}, {config.dataset.name}; {replicas} "
            f"replica{'s' * (replicas > 1)}, batches of {batches}, {epochs} epoch{'s' * (epochs > 1)} of "
            f"{plan.steps_per_epoch} steps"
        )
        if self._trainer.step:
            self._say(f"resuming after step {self._trainer.step} of {plan.total_steps}")
        hung = [file.name for file in self._folder.stacks.glob("*.txt") if file.stat().st_size]
        if hung:
            self._say(f"{len(hung)} workers of this run hung so far; what their threads did: {self._folder.stacks}")
        if "labelled" in streams and streams["labelled"].repeats:
            self._say(f"trainer.labelled_batch={plan.labelled_batch}: more of a class than is labelled; batches repeat")
        if not len(self._split.validation):
            self._say("no validation labels: the last epoch is kept; dataset.validation_per_class=5 keeps the best")
        draw_gallery(gallery_columns(config, self._store, self._split), self._folder.path / "gallery.png")
        self._tracker.show("gallery", self._folder.path / "gallery.png")
        machine = {"devices": device_names(), "processor": processor()[0], "threads": threads()}
        self._folder.add_environment({"replicas": replicas, **machine})
        self._folder.note_time("worker", build_seconds)
        self._folder.note_time("built")
        self._ended = time.perf_counter()

    @property
    def final_progress(self) -> Progress | None:
        """What the run has reached when it ends, by the epoch that is kept; None without validation."""
        if self._selection.step is None:
            return None
        epoch, value = -(-self._trainer.step // self._plan.steps_per_epoch), self._selection.value
        validation = self.progress.validation if self.progress else value
        return Progress(epoch, self._trainer.step, validation, value, finished=True)

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest committed checkpoint, or None."""
        return self._saver.last

    def begin_epoch(self) -> None:
        """Starts the clock of an epoch."""
        self._losses, self.progress = [], None
        self._begun = self._spoken = time.perf_counter()

    def log(self, first: int, logs: dict[str, np.ndarray]) -> None:
        """Logs steps first+1 … and shows a sign of life in a long epoch."""
        if not self._stepped:
            with suppress(OSError):  # a full disk stops no run before its checkpoints do
                self._folder.note_time("first_steps")
            self._stepped = True
        for i, values in enumerate(zip(*logs.values(), strict=True)):
            row = {f"train/{name}": float(value) for name, value in zip(logs, values, strict=True)}
            self._tracker.log(first + i + 1, row)
        self._losses += logs["loss"].tolist()
        now = time.perf_counter()
        if now - self._spoken > _HEARTBEAT_SECONDS:
            self._spoken = now
            done = len(self._losses)
            of_epoch = (self._trainer.step - 1) % self._plan.steps_per_epoch + 1
            place = f"  step {of_epoch}/{self._plan.steps_per_epoch}  loss {np.mean(self._losses[-50:]):.4f}"
            left = (now - self._begun) / done * (self._plan.total_steps - self._trainer.step)
            self._say(f"{place}  left {duration(left)}")

    def end_epoch(self, epoch: int, last: bool, minutes: float, save: bool = False) -> None:
        """Evaluates, logs, says one line, decides on stopping, and saves when it is time.

        Args:
            epoch: 1 for the first.
            last: whether no step follows.
            minutes: since this attempt at the run began.
            save: whatever `checkpoint.every` says.
        """
        config, step = self._config, self._trainer.step
        train_seconds = time.perf_counter() - self._begun
        self._phases["train"] += train_seconds
        rate = len(self._losses) * self._images_per_step() / train_seconds
        validation = self._validate(epoch, last)
        if validation:
            self._selection.consider(step, validation[config.evaluation.monitor])
            self.progress = Progress(epoch, step, validation[config.evaluation.monitor], self._selection.value)
        values = {"epoch": epoch} | {f"validation/{name}": value for name, value in validation.items()}
        values |= {"learning_rate": self._trainer.learning_rate(), "images_per_second": rate}
        self._tracker.log(step, {**values, "epoch_seconds": train_seconds})
        self._decide(minutes, last)
        due = epoch % config.checkpoint.every == 0 or self._selection.step == step
        if due or save or last or self.stopped:
            self._save(epoch)
        seconds = time.perf_counter() - self._ended
        self._ended = time.perf_counter()
        self._epoch_seconds.append(seconds)
        usual = self._epoch_seconds[1:] or self._epoch_seconds  # the first one compiles
        left = median(usual[-5:]) * (config.trainer.epochs - epoch)
        shown = {config.evaluation.monitor: validation[config.evaluation.monitor]} if validation else {}
        self._say(epoch_line(epoch, config.trainer.epochs, float(np.mean(self._losses)), rate, shown, seconds, left))
        if self.stopped:
            self._say(f"stopping: {self.stopped}")

    def _images_per_step(self) -> int:
        sizes = {"unlabelled": self._plan.unlabelled_batch, "labelled": self._plan.labelled_batch}
        return sum(sizes[pool] for pool in self._config.pools)

    def _decide(self, minutes: float, last: bool) -> None:
        """Whether training ends before its last step."""
        trainer = self._config.trainer
        self._out_of_patience = patience_used_up(self._selection, trainer.early_stop)
        out_of_time = trainer.max_minutes is not None and minutes >= trainer.max_minutes and not last
        self.stopped = self._out_of_patience or (
            f"trainer.max_minutes={trainer.max_minutes} used up" if out_of_time else None
        )

    def _validate(self, epoch: int, last: bool) -> dict[str, float]:
        due = last or epoch % self._config.evaluation.every == 0
        if not len(self._split.validation) or not due:
            return {}
        begun = time.perf_counter()
        measured = self._evaluator.measure("validation", self._config.evaluation.protocols)
        self._phases["validate"] += time.perf_counter() - begun
        return {result.protocol: result.accuracy for result in measured}

    def _save(self, epoch: int) -> None:
        """Begins to save in the background."""
        begun = time.perf_counter()
        meta = {
            "step": self._trainer.step,
            "epoch": epoch,
            "seed": self._config.seed,
            "selection": asdict(self._selection),
            "skipped": self._skipped,
            "phases_seconds": self._phases,
        }
        self._saver.save(self._trainer.state(), meta, self._selection.step)
        self._phases["checkpoint"] += time.perf_counter() - begun

    def save_to_leave(self, epoch: int) -> None:
        """Saves in mid-epoch because a machine will be taken away, and goes on."""
        self._say("a machine of this run is about to leave")
        self._save(epoch)
        self._saver.wait()
        if self._saver.last and self._saver.last.name == checkpoint_name(self._trainer.step):
            self._say(f"saved step {self._trainer.step} before it leaves; training goes on")

    def abandon(self) -> None:
        """Lets go of a run that fails or is stopped by its search."""
        self._saver.abandon()
        self._tracker.abandon()

    def settle(self) -> None:
        """Waits for the save that is under way; whether it succeeded shows in the checkpoints."""
        self._saver.wait()

    def go_back(self, good: Checkpoint, error: NumericalError, skipped: list[tuple[int, int]]) -> None:
        """Forgets what came after a checkpoint that training has gone back to."""
        self._skipped = skipped
        self._selection = restored_selection(good.meta, self._config.evaluation.monitor)
        self._saver.go_back(good)
        self._tracker.forget_after(good.step)
        self._tracker.log(good.step + 1, {"rollback/from": error.step, "rollback/to": good.step})
        self._say(
            f"{error}; going back to step {good.step} and leaving out the batches up to step {error.step} "
            f"({len(skipped)} of at most {self._config.trainer.max_rollbacks} times)"
        )

    def finish(self) -> None:
        """Loads the selected weights, measures them on test, once, and writes the results."""
        begun = time.perf_counter()
        self._saver.wait(last=True)
        final_step, protocols = self._trainer.step, self._config.evaluation.protocols
        selected = put_in_place(self._selection, self._trainer, self._folder.checkpoints, self._say)
        test, pixels = measure_test(
            self._folder.storage, self._store, self._split, self._evaluator, protocols, self._say
        )
        self._folder.lease.check()
        self._evaluator.update()  # where there is nothing to measure, too
        self._evaluator.encoder.save(self._folder.encoder)
        if self._evaluator.classifier:
            self._evaluator.classifier.save(self._folder.classifier)
        rows = read_rows(self._folder.metrics)
        draw_curves(rows, self._folder.path / "curves.png")
        self._phases["finish"] = time.perf_counter() - begun
        epoch = -(-self._trainer.step // self._plan.steps_per_epoch)
        summary = self._summary(final_step) | {
            "epoch": epoch,
            "selected": selected,
            "test": {result.protocol: result._asdict() for result in test},
            "pixels": {result.protocol: result._asdict() for result in pixels},
            "protocols": described(list(protocols)),
            "images_per_second": median(
                [row["images_per_second"] for row in rows if "images_per_second" in row] or [0.0]
            ),
        }
        write_text(self._folder.summary, json.dumps(summary, indent=1))
        self._tracker.close({f"test/{name}": row["accuracy"] for name, row in summary["test"].items()})
        self._folder.send()

    def finish_untested(self) -> None:
        """Ends a trial of a search: nothing but its winner is measured on test or exported."""
        self._saver.wait(last=True)
        self._folder.lease.check()
        epoch = (self._selection.step or self._trainer.step) // self._plan.steps_per_epoch
        facts = {"epoch": epoch, "selected": "a trial, not measured on test", "test": {}, "pixels": {}, "protocols": {}}
        progress = self.final_progress
        summary = self._summary(self._trainer.step) | facts | {"progress": progress and progress._asdict()}
        write_text(self._folder.summary, json.dumps(summary, indent=1))
        self._tracker.close({})
        self._folder.send()

    def _summary(self, steps: int) -> dict[str, Any]:
        """What every end of a run says."""
        complete = steps >= self._plan.total_steps or self._out_of_patience is not None
        return {
            "complete": complete,
            "stopped": self.stopped or (None if complete else "its search"),
            "steps": steps,
            "counts": {pool: len(getattr(self._split, pool)) for pool in POOLS},
            "phases_seconds": {name: round(seconds, 2) for name, seconds in self._phases.items()},
            "plan": asdict(self._plan),
            "anonymous_mib": round(anonymous_mib()),
        }

    def pause(self, epoch: int, why: str) -> None:
        """Saves in mid-epoch, without evaluating: the run that goes on from here must equal one that never paused."""
        self._save(epoch)
        self._saver.wait(last=True)
        where = f"stopped after step {self._trainer.step} of {self._plan.total_steps}"
        again = "the same command without it" if why == "debug.steps" else "the same command"
        onward = f"; {again} goes on from here" if self._config.resume else ""
        self._say(f"{where} ({why}){onward}")
