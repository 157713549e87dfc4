"""One trial of a search, in a process of Ray Tune: a run in the search's folder, which its checkpoints resume."""

import dataclasses
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

from jobs.checkpoint import Checkpoint, Spool
from jobs.folder import RunFolder
from jobs.lease import Lease
from jobs.quiet import quiet_environment
from jobs.runtime import TRIAL_STATE, Progress, TuneRuntime, report_to_tune
from jobs.schema import RunConfig
from jobs.search_config import Search
from jobs.selection import Selection
from jobs.storage import open_storage, write_text
from jobs.tracking import read_rows
from jobs.watchdog import Watchdog
from semisup_core.errors import DataError

LOG, CHANGES = "log.txt", "changes.jsonl"
# A function that is told to stop leaves after its save; a process whose function did not leave cannot be used again.
LEAVE_SECONDS = 60
_SAVE_SECONDS = 60.0  # that a save beside training may take


class Job(NamedTuple):
    """What the trials of a search share.

    Attributes:
        search: the search.
        storage: URL of the storage that the search's folder lies in.
        name: of that folder.
        attempt: that holds the search's lease.
        store: name of the prepared store.
        cpus: of one worker.
        gpus: of one worker.
        contents: what counts by content in a run's identity.
        split: of `Split.to_json`, or one a value of `seed`… all trials share it.
        initial: the file that encoders start from, or None.
    """

    search: Search
    storage: str
    name: str
    attempt: str | None
    store: str
    cpus: float
    gpus: float
    contents: dict[str, str]
    split: dict[str, Any]
    initial: Path | None

    def folder(self, trial: str) -> RunFolder:
        """The run folder of a trial, under the search's lease."""
        storage = open_storage(self.storage)
        return RunFolder(storage.root / self.name / trial, storage, lease=Lease(storage, self.name, self.attempt))

    def config(self, trial: str, values: dict[str, Any]) -> RunConfig:
        """The configuration of a trial as its folder describes it.

        Raises:
            ConfigError: values that do not go together.
        """
        chosen = self.search.trial_config(values)
        tracking = dataclasses.replace(chosen.tracking, group=chosen.tracking.group or self.name)
        return dataclasses.replace(chosen, name=trial, storage=self.storage, tracking=tracking, resume=True)


def run_trial(values: dict[str, Any], job: Job) -> None:
    """The trainable of one worker: trains, and reports each evaluation to Tune.

    Args:
        values: dotted key -> value, by Tune.
        job: of the search.

    Raises:
        SystemExit: Tune stops or pauses the trial.
    """
    folder, config = _begin(values, job)
    if folder is None:
        return
    quiet_environment()
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import keras

    from jobs.worker import worker_loop

    keras.backend.clear_session()  # the process may have had another trial before
    with open(folder.path / LOG, "a") as log:
        print(_introduced(values), file=log, flush=True)
        watchdog = Watchdog(config.runtime.hang_seconds, folder.stacks, "trial")
        runtime = TuneRuntime(folder.name, job.cpus, log, watchdog)
        worker_loop(_as_trial(config, job.search), folder, job.store, runtime, test=False)


def run_trial_of_several(values: dict[str, Any], job: Job) -> None:
    """The trainable of a group of workers: what `jobs.train` does, with evaluations passed on to Tune.

    Raises:
        SystemExit: Tune stops the trial; its workers have saved and ended.
    """
    folder, config = _begin(values, job)
    if folder is None:
        return
    quiet_environment()
    from jobs.cluster import fit_workers

    with open(folder.path / LOG, "a") as log:

        def say(line: str) -> None:
            print(line, file=log, flush=True)

        say(_introduced(values))

        def listen(measured: list[Progress]) -> None:
            for progress in measured:
                report_to_tune(folder.name, progress)

        config = _as_trial(config, job.search)
        fit_workers(config, folder, job.store, job.cpus, int(job.gpus), test=False, say=say, listen=listen)


def _introduced(values: dict[str, Any]) -> str:
    return f"process {os.getpid()} on {platform.node()}: {values}"


def _begin(values: dict[str, Any], job: Job) -> tuple[RunFolder | None, RunConfig]:
    """Describes the trial's run; no folder when the trial is finished, which is reported again."""
    import ray.tune

    name = ray.tune.get_context().get_trial_name()
    config, folder = job.config(name, values), job.folder(name)
    folder.lease.check()
    # Tune reads it in this process.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(int(max(LEAVE_SECONDS, 2 * config.runtime.grace_seconds)))
    folder.fetch()
    source, summary = _source(), folder.finished()
    if source and source["trial"] != name:
        _go_on_from(job.folder(source["trial"]), source["step"], folder, values)
    elif summary and summary.get("progress"):
        report_to_tune(name, Progress(**summary["progress"]))
        return None, config
    folder.describe(config, job.contents, job.split, job.initial)
    return folder, config


def _as_trial(config: RunConfig, search: Search) -> RunConfig:
    """A trial measures nothing but what trials are compared by, and keeps what a population may take up."""
    only = dataclasses.replace(config.evaluation, protocols=(config.evaluation.monitor,))
    checkpoint = config.checkpoint
    if search.settings.scheduler == "population" and not isinstance(checkpoint.keep, str):
        # Tune names a checkpoint that is at most two rounds old; each epoch of them may have one.
        checkpoint = dataclasses.replace(checkpoint, keep=max(checkpoint.keep, 2 * search.grace_epochs + 1))
    return dataclasses.replace(config, evaluation=only, checkpoint=checkpoint)


def _source() -> dict[str, Any] | None:
    """Which trial's checkpoint Tune wants this one to go on from; None at its beginning."""
    import ray.tune

    checkpoint = ray.tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return json.loads((Path(folder) / TRIAL_STATE).read_text())


def _go_on_from(other: RunFolder, step: int, folder: RunFolder, values: dict[str, Any]) -> None:
    """Gives a trial of a population another one's weights, with the log that led to them.

    What was selected or finished so far was trained with other values, so selection begins anew.

    Raises:
        DataError: the other one's checkpoint is gone.
    """
    until = time.monotonic() + _SAVE_SECONDS
    while (found := other.checkpoints.open_step(step)) is None:
        if time.monotonic() > until:
            raise DataError(f"{other.url}: expected a checkpoint of step {step} to go on from, found none")
        time.sleep(1)  # it is written beside the other one's training
    other.storage.fetch(other.metrics)
    spool = found.spool()
    after = spool.after if spool else found.step
    rows = [row for row in read_rows(other.metrics) if row["step"] <= after] + (spool.rows if spool else [])
    change = {"step": found.step, "from": other.name, **values}
    changes = folder.path / CHANGES
    earlier = changes.read_text() if changes.exists() else ""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.forget_result()
    replace_all(folder, found, Spool(0, [*rows, {"step": found.step, "population/from": other.name}]))
    write_text(changes, earlier + json.dumps(change) + "\n")


def replace_all(folder: RunFolder, found: Checkpoint, spool: Spool) -> None:
    """Makes another run's checkpoint the only one of a run."""
    meta = found.meta | {"selection": dataclasses.asdict(Selection(found.meta["selection"]["monitor"]))}
    state = found.state()
    folder.storage.remove(folder.checkpoints.path)
    folder.checkpoints.save(state, meta, spool)
    write_text(folder.metrics, "")


def measure_winner(job: Job, trial: str, values: dict[str, Any]) -> None:
    """Measures a trial's best weights on test, once, and exports its encoder; for a process of its own.

    Args:
        job: of the search.
        trial: its name.
        values: of the trial at its end.
    """
    quiet_environment()
    from jobs.runtime import LocalRuntime
    from jobs.worker import worker_loop

    folder, config = job.folder(trial), job.config(trial, values)
    folder.fetch()
    runtime = LocalRuntime()
    runtime.cpus = job.cpus
    tracking = dataclasses.replace(config.tracking, name="none")  # its W&B run has ended
    worker_loop(dataclasses.replace(config, tracking=tracking), folder, job.store, runtime, train=False)
