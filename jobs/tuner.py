"""The trials of a search under Ray Tune."""

import json
import logging
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train._internal.session import get_session
from ray.tune.progress_reporter import ProgressReporter
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, PopulationBasedTraining
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.basic_variant import BasicVariantGenerator

from jobs.cluster import free_lost_groups
from jobs.errors import UnavailableError
from jobs.search_config import Search
from jobs.search_space import Dimension
from jobs.search_table import LiveTable, Row, short_names, value_text
from jobs.stopping import signals_ask
from jobs.storage import Storage
from jobs.trial import LEAVE_SECONDS, Job, measure_winner, run_trial, run_trial_of_several

TUNE, LOG = "tune", "tune.log"  # Tune's own folder in the search's folder; what it says
_TIME = "epoch"  # of Progress, as "best" and "validation"
_MEDIAN_OF = 3  # trials, before one may be stopped for being below
_LOOK_SECONDS = 0.5
_LONGEST_NAME = 80
_STATES = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused", "ERROR": "failed"}


def run_trials(job: Job, folder: Path, storage: Storage, slots: int, live: LiveTable) -> tuple[list[Row], bool]:
    """Runs the trials that have not ended yet.

    Args:
        job: of the search.
        folder: of the search.
        storage: that the folder lies in.
        slots: trials at a time.
        live: shows them.

    Returns:
        All trials, and whether a signal ended the search.
    """
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output takes no reporter
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # signals are ours
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # its CSV, JSON and TensorBoard files
    if job.search.settings.scheduler == "population":
        random.seed(job.search.settings.seed)  # it draws from Python's own
        slots = job.search.trials  # all members live, and take turns
    with signals_ask() as asked, _logged(folder / LOG), _interruptible():
        reporter = _Reporter(live, asked, job.search.several_workers)
        tuner = _tuner(job, folder, storage, slots)
        run_config = tuner._local_tuner.get_run_config()
        run_config.progress_reporter = reporter  # here, for a tuner is pickled when it is made
        run_config.failure_config = tune.FailureConfig(max_failures=job.search.settings.max_failures)
        tuner.fit()
    storage.send(folder / LOG)
    return reporter.rows, asked.is_set()


def _tuner(job: Job, folder: Path, storage: Storage, slots: int) -> tune.Tuner:
    """A tuner that goes on from its record where there is a good one."""
    trainable, searcher = _trainable(job), _searcher(job.search, slots)
    if restored := _restored(trainable, searcher, folder / TUNE, storage):
        return restored
    storage.remove(folder / TUNE)
    above = storage.for_ray(folder)
    return tune.Tuner(
        trainable,
        param_space={each.key: each.domain() for each in job.search.space},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(job.search),
            num_samples=1 if job.search.settings.searcher == "grid" else job.search.settings.num_samples,
            metric=_metric(job.search),
            mode="max",
            reuse_actors=not job.search.several_workers,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            **above,
            verbose=1,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=10),  # a population may take up any recent one
        ),
    )


def measured(job: Job, best: Row) -> dict[str, Any]:
    """The summary of the best trial, measured on test in a process with the share of a trial if it is not measured yet.

    Raises:
        UnavailableError: the process was lost.
    """
    folder = job.folder(best.trial)
    folder.fetch()
    if not (folder.finished() or {}).get("test"):
        task = ray.remote(num_cpus=job.cpus, num_gpus=job.gpus, max_retries=0)(measure_winner)
        answer = task.remote(job, best.trial, best.values)
        while not ray.wait([answer], timeout=_LOOK_SECONDS)[0]:
            free_lost_groups()  # the cores may be those of a trial that was killed at the very end
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise UnavailableError(
                f"{best.trial}: the process that measured it on test was lost ({_first_line(error)}); the same command "
                "measures it again"
            ) from error
        folder.fetch()
    summary = folder.finished()
    assert summary is not None  # the task has written it
    return summary


def _restored(trainable: Any, searcher: Any, record: Path, storage: Storage) -> tune.Tuner | None:
    """A tuner that goes on from what Tune wrote, or None; trials that failed are tried again.

    Without trials in its state, Tune would search a single one without values, and say so in its log only.
    """
    states = [name for name in storage.names(record) if name.startswith("experiment_state-")]
    if not states:
        return None
    place = storage.for_ray(record)
    files = place.get("storage_filesystem")
    try:
        known = [json.loads(state) for state, _ in json.loads(storage.read(record / max(states)) or b"")["trial_data"]]
        if not known:
            return None
        tuner = tune.Tuner.restore(place["storage_path"], trainable, storage_filesystem=files, resume_errored=True)
        # The record's searcher has the number of slots of another time, and Optuna's forgets which trials take one.
        if isinstance(searcher, ConcurrencyLimiter):
            searcher.live_trials |= {state["trial_id"] for state in known if state["status"] != "TERMINATED"}
        tuner._local_tuner._tune_config.search_alg = searcher
        return tuner
    except Exception as error:  # whatever JSON and pickle make of a cut file
        print(
            f"Ray Tune's record of this search is damaged ({type(error).__name__}): the search begins anew, and trials "
            "that are finished are not trained again"
        )
        return None


def _metric(search: Search) -> str:
    """A population takes over weights as they are now, so it compares by what they reach now."""
    return "validation" if search.settings.scheduler == "population" else "best"


def _searcher(search: Search, slots: int) -> Any:
    settings = search.settings
    if settings.searcher == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        return ConcurrencyLimiter(OptunaSearch(seed=settings.seed), max_concurrent=slots)
    # Tune ends a process that no trial waits for, and the next trial would start another one.
    waiting = 0 if settings.max_concurrent else slots
    return _Drawn(max_concurrent=slots + waiting, random_state=settings.seed)


class _Drawn(BasicVariantGenerator):
    """Random draws and grids, with as many trials at a time as there is room for now, whatever a record says."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a record."""
        super().set_state({**state, "max_concurrent": self.max_concurrent})


def _scheduler(search: Search) -> Any:
    settings, grace, most = search.settings, search.grace_epochs, search.most_epochs
    if settings.scheduler == "asha":
        return AsyncHyperBandScheduler(
            time_attr=_TIME,
            max_t=most,
            grace_period=grace,
            reduction_factor=settings.reduction_factor,
        )
    if settings.scheduler == "median":
        return MedianStoppingRule(time_attr=_TIME, grace_period=grace, min_samples_required=_MEDIAN_OF)
    if settings.scheduler == "population":
        return PopulationBasedTraining(
            time_attr=_TIME,
            perturbation_interval=grace,
            hyperparam_mutations={each.key: _mutation(each) for each in search.space},
            custom_explore_fn=partial(_clamped, search.space),
        )
    return FIFOScheduler()


def _mutation(each: Dimension) -> Any:
    return list(each.values) if each.kind == "choice" else each.domain()


def _clamped(space: tuple[Dimension, ...], values: dict[str, Any]) -> dict[str, Any]:
    """Values that a population has moved, within their ranges."""
    return {each.key: each.clamped(values[each.key]) for each in space}


class _EndsInOrder:
    """Makes Tune wait for the thread that trains before it ends a process: a save, a log or workers may have to end."""

    def cleanup(self) -> None:
        """Waits, then does what Tune does."""
        get_session().finish(timeout=int(os.environ.get("TUNE_FUNCTION_THREAD_TIMEOUT_S", LEAVE_SECONDS)))
        super().cleanup()  # type: ignore[misc]


def _trainable(job: Job) -> Any:
    def trial(config: dict[str, Any]) -> None:  # Tune wants this name
        (run_trial_of_several if job.search.several_workers else run_trial)(config, job)

    trial.__mixins__ = (_EndsInOrder,)  # type: ignore[attr-defined]
    if job.search.several_workers:  # waits for its workers, beside the head, and takes nothing from them
        return tune.with_resources(trial, {"CPU": 0, "node:__internal_head__": 1e-3})
    return tune.with_resources(trial, {"CPU": job.cpus, **({"GPU": job.gpus} if job.gpus else {})})


def _trial_name(trial: Any) -> str:
    """Its number and the values that it begins with."""
    names = short_names([*trial.config])
    values = "-".join(f"{name}_{value_text(trial.config[key])}" for key, name in names.items())
    number = int(trial.experiment_tag.split("_")[0])
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{number:04d}-{values}")[:_LONGEST_NAME]


class _Reporter(ProgressReporter):
    """Follows the trials, passes a signal on to Tune, and keeps what they were before Tune cleans up."""

    def __init__(self, live: LiveTable, asked: threading.Event, several_workers: bool) -> None:
        self.rows: list[Row] = []
        self._several_workers = several_workers
        self._live, self._asked, self._passed_on, self._looked = live, asked, False, 0.0

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Looks at the trials; Tune asks after everything that happens."""
        if self._asked.is_set() and not self._passed_on:
            self._passed_on = True
            handler = signal.getsignal(signal.SIGINT)
            signal.raise_signal(signal.SIGUSR1)
            signal.signal(signal.SIGINT, handler)  # Tune puts back what it found when it began
        if done or time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self.rows = [_row(trial) for trial in trials]
            self._live.show(self.rows)
            if self._several_workers:
                free_lost_groups()
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Never asked for."""


def _row(trial: Any) -> Row:
    last = trial.last_result or {}
    state = _STATES.get(trial.status) or ("finished" if last.get("finished") else "stopped")
    error = _last_words(trial) if state == "failed" else ""
    measured = last.get("best")
    seconds, ended = last.get("time_total_s", 0.0), last.get("timestamp")
    return Row(str(trial), dict(trial.config), state, last.get(_TIME, 0), measured, seconds, ended, error)


def _last_words(trial: Any) -> str:
    """What made a trial fail, in one line."""
    error = trial.get_error()
    if error is None:
        return f"Ray Tune gave no reason; see {LOG}"
    cause = getattr(error, "cause", None) or error
    words = _first_line(error) if isinstance(error, ray.exceptions.RayActorError) else _lines(cause)[-1]
    return re.sub(r"^(\w+\.)+", "", words)  # the module of an exception


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [""]


def _first_line(error: BaseException) -> str:
    return _lines(error)[0]


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Sends what Tune says to a file; what a person wants to know of it stands in the table."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air", "optuna")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        handler.close()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Tune ends in good order at SIGUSR1; before it listens, the signal must not end this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGINT)}
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
