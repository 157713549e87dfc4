"""A search from the outside: data, preflight, its folder, the trials under Ray Tune, and the winner's test result."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jobs import driver
from jobs.errors import ConfigError, TrainingError
from jobs.folder import SEARCH, RunFolder
from jobs.initial import check_held_out, content, initial_encoder
from jobs.plan import check_workers
from jobs.prepare import prepare_store, split_of
from jobs.quiet import quiet_environment
from jobs.search_config import ENOUGH_VALIDATION, Search
from jobs.search_table import LiveTable, Row, best_first
from jobs.storage import Storage, open_storage, write_text
from jobs.trial import Job
from semisup_core.data.splits import Split
from semisup_core.data.store import Store

_IDENTITY = "search_identity.json"


def run(search: Search, retrain: bool = False) -> dict[str, Any]:
    """Runs a search to its end and prints its result.

    Args:
        search: the checked search.
        retrain: train the winner's configuration afterwards, as a run of its own.

    Returns:
        What `search.json` holds.

    Raises:
        ConfigError: the data or the devices do not allow it, or the name belongs to something else.
        TrainingError: all trials failed.
        UnavailableError: the storage or the cluster does not answer.
    """
    quiet_environment()
    driver.check_storage(search.config)
    storage = open_storage(search.config.storage)
    storage.check()
    initial = initial_encoder(search.config)
    store = prepare_store(search.config)
    contents = {"dataset.fingerprint": store.fingerprint}
    if initial:
        contents["encoder.initial_weights"] = content(initial)
    found = _Found(search, storage, store, split_of(search.config, store), contents, initial)
    with found.folder.lease.held(print):
        result = found.run()
    if retrain:
        _retrain(found.folder, search.config.resume)
    return result


def _retrain(folder: RunFolder, resume: bool) -> None:
    """Trains best.yaml as a plain run; `resume` as of the search."""
    from jobs import config
    from jobs.search_report import BEST

    words = [f"name={folder.name}-retrained", f"storage={folder.storage.url}", f"resume={str(resume).lower()}"]
    driver.train(config.load(words, str(folder.path / BEST)))


class _Found:
    """One search whose data are there."""

    def __init__(
        self,
        search: Search,
        storage: Storage,
        store: Store,
        split: Split,
        contents: dict[str, str],
        initial: Path | None,
    ) -> None:
        self._search, self._storage, self._store, self._split = search, storage, store, split
        self._contents, self._initial = contents, initial
        self.folder = RunFolder(storage.root / search.name(contents), storage)

    def run(self) -> dict[str, Any]:
        """What `run` does while it holds the lease."""
        from jobs import search_report

        self._fetch(SEARCH, _IDENTITY, search_report.RESULT, search_report.BEST)
        path = self.folder.path
        if self._search.config.resume:
            self._check_identity()
            if (path / search_report.RESULT).exists():
                print(f"{self.folder.name} is finished; resume=false starts it anew", flush=True)
                return self._shown(json.loads((path / search_report.RESULT).read_text()))
        if self._initial:
            check_held_out(self._initial, self._split, self._store.fingerprint)
        return self._shown(self._searched())

    def _fetch(self, *names: str) -> None:
        for name in names:
            self._storage.fetch(self.folder.path / name)

    def _check_identity(self) -> None:
        file = self.folder.path / _IDENTITY
        if not file.exists():
            if self._storage.names(self.folder.path):
                raise ConfigError(f"name: {self.folder.url} exists and is no search; choose another name or storage")
            return
        before, now = json.loads(file.read_text()), self._identity()
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if keys:
            raise ConfigError(
                f"name: {self.folder.url} holds a search that differs in {', '.join(keys)}; expected the same values "
                "to go on with it, another name for another search, or resume=false to move it aside"
            )

    def _identity(self) -> dict[str, Any]:
        return json.loads(json.dumps(self._search.identity(self._contents)))

    def _searched(self) -> dict[str, Any]:
        """Connects, checks that the trials fit, runs them, and measures the winner."""
        from jobs import cluster
        from jobs.resources import nodes, trial_share

        self._warn()
        with cluster.connected(self._search.config):
            cpus, gpus, slots = trial_share(self._search, nodes())
            self._check_corners(max(int(gpus), 1))
            self._begin()
            job = Job(
                self._search,
                self._storage.url,
                self.folder.name,
                self.folder.lease.attempt,
                self._store.path.name,
                cpus,
                gpus,
                self._contents,
                self._split.to_json(self._store),
                self._initial,
            )
            self._introduce(job, slots)
            live = LiveTable(self._search.trials, self._search.most_epochs, len(self._split.validation))
            from jobs.tuner import measured, run_trials

            rows, stopped = run_trials(job, self.folder.path, self._storage, slots, live)
            if stopped:
                raise KeyboardInterrupt
            best = self._report(rows, job)
            print(f"measuring {best.trial} on test", flush=True)
            summary = measured(job, best)
        return self._finish(rows, summary)

    def _warn(self) -> None:
        given = self._search.config.dataset.validation_per_class
        if given < ENOUGH_VALIDATION:
            print(
                f"dataset.validation_per_class={given}: the choice between trials will be mostly chance; "
                f"{ENOUGH_VALIDATION} or more make it worth its time"
            )

    def _check_corners(self, devices: int) -> None:
        """Batches must fit the data and the replicas, whatever is sampled."""
        for values in self._search.corners():
            config = self._search.trial_config(values)
            replicas = {workers: workers * devices for workers in config.runtime.workers}
            try:
                check_workers(config, self._split, len(self._store.class_names), replicas)
            except ConfigError as error:
                shown = " ".join(f"{key}={value}" for key, value in values.items())
                raise ConfigError(f"search.space: with {shown}: {error}") from error

    def _begin(self) -> None:
        """The first change to the storage."""
        if not self._search.config.resume and (aside := self.folder.move_aside()):
            print(f"resume=false: moved the earlier search to {aside}")
        path = self.folder.path
        path.mkdir(parents=True, exist_ok=True)
        if not (path / _IDENTITY).exists():
            write_text(path / _IDENTITY, json.dumps(self._identity(), indent=1))
            write_text(path / SEARCH, OmegaConf.to_yaml(OmegaConf.create(self._search.to_dict())))
        self._storage.send(path / _IDENTITY, path / SEARCH)

    def _introduce(self, job: Job, slots: int) -> None:
        search, settings = self._search, self._search.settings
        workers = f"{search.config.runtime.asked} workers of " if search.several_workers else ""
        share = f"{workers}{job.cpus:g} cores" + (f" and {job.gpus:g} GPUs" if job.gpus else "")
        print(
            f"{self.folder.name}: {search.trials} trials of at most {search.most_epochs} epochs, {slots} at a time "
            f"with {share} each; {settings.searcher}, {settings.scheduler}; chosen by validation/"
            f"{search.config.evaluation.monitor} of {len(self._split.validation)} images\n"
            f"  trials and their logs: {self.folder.url}",
            flush=True,
        )

    def _report(self, rows: list[Row], job: Job) -> Row:
        """Writes what is known before test images are looked at, and names the best trial.

        Raises:
            TrainingError: no trial came to an end with a result.
        """
        from jobs import search_report

        path = self.folder.path
        search_report.write_trials(rows, path / search_report.TRIALS)
        self._storage.send(path / search_report.TRIALS)
        good = [row for row in best_first(rows) if row.state != "failed" and row.objective is not None]
        if not good:
            errors = dict.fromkeys(row.error for row in rows if row.error)
            why = "; ".join(errors) or "none was evaluated"
            raise TrainingError(f"all {len(rows)} trials failed: {why}; their logs are in {self.folder.url}")
        best = good[0]
        why = f"{best.trial}: validation {best.objective:.4f}, the best of {len(rows)} trials of {self.folder.name}"
        chosen = dataclasses.replace(job.config(best.trial, best.values), resume=True)
        chosen = dataclasses.replace(chosen, tracking=self._search.config.tracking)
        search_report.write_best(chosen, path / search_report.BEST, why)
        for row in rows:
            self._storage.fetch(path / row.trial / "metrics.jsonl")
        search_report.draw(self._search, rows, path)
        self._storage.send(path / search_report.BEST, *sorted(path.glob("*.png")))
        return best

    def _finish(self, rows: list[Row], summary: dict[str, Any]) -> dict[str, Any]:
        from jobs import search_report

        labels = {pool: len(getattr(self._split, pool)) for pool in ("labelled", "validation")}
        path = self.folder.path
        result = search_report.write_result(self._search, rows, summary, labels["validation"], labels, path)
        self._storage.send(path / search_report.RESULT)
        return result

    def _shown(self, result: dict[str, Any]) -> dict[str, Any]:
        from jobs.search_report import result_text

        print(result_text(result, self.folder.url, self._search.most_epochs), flush=True)
        return result
