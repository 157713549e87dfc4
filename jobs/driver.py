"""One run from the outside: data, preflight, the run folder, and workers in this process or under Ray Train."""

from pathlib import Path
from typing import Any

from jobs.errors import TrainingError
from jobs.folder import RunFolder
from jobs.identity import run_name
from jobs.prepare import prepare_store, split_of
from jobs.quiet import quiet_environment, stderr_aside
from jobs.report import final_table
from jobs.schema import RunConfig


def train(config: RunConfig) -> dict[str, Any]:
    """Runs one training to its end and prints its result.

    Args:
        config: the checked configuration.

    Returns:
        The run's summary.

    Raises:
        ConfigError: the data or the devices do not allow it.
        DataError: the data cannot be used.
        NumericalError: a loss is not finite.
        UnavailableError: the cluster does not answer.
        TrainingError: the workers failed.
    """
    quiet_environment()
    store = prepare_store(config)
    split = split_of(config, store)
    folder = RunFolder(Path(config.storage).expanduser().resolve() / run_name(config, store.fingerprint))
    summary = _finished(config, folder, store.fingerprint)
    if summary is None:
        folder.describe(config, store.fingerprint, split.to_json(store))
        if config.runtime.name == "local":
            _run_here(config, folder, store.path)
        else:
            from jobs import cluster

            cluster.run(config, folder, store.path, split, len(store.class_names))
        summary = folder.finished()
        if summary is None:
            raise TrainingError(f"the workers ended without a summary in {folder.path}; see the lines above")
    print(final_table(summary), flush=True)
    return summary


def _finished(config: RunConfig, folder: RunFolder, fingerprint: str) -> dict[str, Any] | None:
    """The summary of a run that has nothing left to do; moves an old folder aside when it must not be resumed."""
    if not config.resume:
        aside = folder.move_aside()
        if aside:
            print(f"resume=false: moved the earlier run to {aside}")
        return None
    folder.check_identity(config, fingerprint)
    summary = folder.finished()
    if summary is None or not summary["complete"]:
        return None
    print(f"{folder.name} is finished; resume=false starts it anew")
    return summary


def _run_here(config: RunConfig, folder: RunFolder, store: Path) -> None:
    with stderr_aside():
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")
    from jobs.runtime import LocalRuntime
    from jobs.worker import worker_loop

    worker_loop(config, folder, store, LocalRuntime())
