"""One run from the outside: data, preflight, the run folder, and workers in this process or under Ray Train."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.errors import ConfigError, TrainingError
from jobs.folder import RunFolder
from jobs.identity import run_name
from jobs.initial import check_held_out, content, initial_encoder
from jobs.plan import check_workers
from jobs.prepare import prepare_store, split_of
from jobs.quiet import quiet_environment, stderr_aside
from jobs.report import final_table
from jobs.schema import RunConfig
from jobs.stopping import signals_ask
from jobs.storage import is_shared, open_storage
from semisup_core.data.store import Store


def train(config: RunConfig, keep_cluster: bool = False) -> dict[str, Any] | None:
    """Runs one training to its end and prints its result.

    Args:
        config: the checked configuration.
        keep_cluster: leave Ray running until the process ends, for runs that follow.

    Returns:
        The run's summary, or None when debug.steps ended it early.

    Raises:
        ConfigError: the data or the devices do not allow it.
        DataError: the data cannot be used.
        NumericalError: a loss or a weight is not finite.
        UnavailableError: the storage or the cluster does not answer.
        SupersededError: another attempt took the run over.
        TrainingError: the workers failed.
    """
    quiet_environment()
    check_storage(config)
    storage = open_storage(config.storage)
    storage.check()
    initial = initial_encoder(config)
    store = prepare_store(config)
    _mention_left_out(store)
    contents = {"dataset.fingerprint": store.fingerprint}
    if initial:
        contents["encoder.initial_weights"] = content(initial)
    folder = RunFolder(storage.root / run_name(config, contents), storage)
    with folder.lease.held(print):  # what another attempt has done shows only once it is over
        return _attempt(config, folder, store, contents, initial, keep_cluster)


def _attempt(
    config: RunConfig,
    folder: RunFolder,
    store: Store,
    contents: dict[str, str],
    initial: Path | None,
    keep_cluster: bool,
) -> dict[str, Any] | None:
    """What `train` does while it holds the lease."""
    folder.fetch()
    if config.resume:
        folder.check_identity(config, contents)
        folder.checkpoints.check_format()
        summary = folder.finished()
        if summary and summary["complete"]:
            print(f"{folder.name} is finished; resume=false starts it anew\n{final_table(summary)}", flush=True)
            return summary
    split = split_of(config, store)
    if initial:
        check_held_out(initial, split, store.fingerprint)
        if not config.resume and initial.parent == folder.path:
            raise ConfigError("encoder.init: is the run that resume=false would move aside; give this one another name")

    def begin(replicas: dict[int, int]) -> None:
        """The last check, then the first change to the storage."""
        check_workers(config, split, len(store.class_names), replicas)
        aside = None if config.resume else folder.move_aside()
        if aside:
            print(f"resume=false: moved the earlier run to {aside}")
        folder.forget_incomplete_result()
        folder.describe(config, contents, split.to_json(store), initial)

    if config.runtime.name == "local":
        _run_here(config, folder, store, begin)
    else:
        from jobs import cluster

        cluster.run(config, folder, store, begin, keep_cluster)
    summary = folder.finished()
    if summary:
        print(final_table(summary), flush=True)
    elif config.debug.steps is None:
        raise TrainingError(f"the workers ended without a summary in {folder.url}; see the lines above")
    return summary


def _run_here(config: RunConfig, folder: RunFolder, store: Store, begin: Callable[[dict[int, int]], None]) -> None:
    with stderr_aside():
        import tensorflow as tf

        gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus and config.debug.logical_devices > 1:
        raise ConfigError(f"debug.logical_devices: splits a CPU, and this machine has {gpus} GPU(s); leave it at 1")
    begin({1: gpus or config.debug.logical_devices})
    from jobs.runtime import LocalRuntime
    from jobs.worker import worker_loop

    with signals_ask() as asked:
        worker_loop(config, folder, store.path.name, LocalRuntime(asked))
    if asked.is_set():
        raise KeyboardInterrupt


def check_storage(config: RunConfig) -> None:
    """A job on somebody else's cluster runs in a folder that the cluster throws away."""
    elsewhere = config.runtime.address or os.environ.get("RAY_ADDRESS")
    if config.runtime.name == "ray" and elsewhere not in (None, "local") and not is_shared(config.storage):
        raise ConfigError(
            f"storage: expected an absolute path that all nodes share, got {config.storage}; the working folder of a "
            f"job on {elsewhere} does not outlive it; add storage=/shared/runs"
        )


def _mention_left_out(store: Store) -> None:
    manifest = store.manifest
    left_out = sum(manifest.skipped.values())
    if left_out or manifest.corrupt:
        print(
            f"{manifest.source}: {left_out} files that are no images skipped, {len(manifest.corrupt)} damaged images "
            "left out; python -m jobs.data with the same dataset and storage keys says more"
        )
