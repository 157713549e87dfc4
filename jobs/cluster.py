"""Workers under Ray Train, on a private local cluster or on one that is running."""

import dataclasses
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray.train
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup, remove_placement_group

from jobs.config import from_dict, to_dict
from jobs.console import Console, Listener
from jobs.errors import ConfigError, SupersededError, TrainingError, UnavailableError
from jobs.folder import RunFolder
from jobs.lease import Lease
from jobs.quiet import stderr_aside
from jobs.resources import RoomWatch, nodes, shares
from jobs.runtime import DRIVER_VARIABLE, LONGER, Progress
from jobs.schema import RunConfig
from jobs.stopping import signals_ask
from jobs.storage import open_storage
from semisup_core.data.store import Store
from semisup_core.errors import SemisupError

_LONGEST_ERROR = 600  # characters of a worker's error in the terminal; all of it is in Ray's log
_PROBE_SECONDS = 5.0
_POLL_SECONDS = 0.3  # how soon a signal is heard, and how often a search asks for evaluations
_SMALLER_AFTER_SECONDS = 10.0
_RAY = "ray"  # Ray's folder in the run folder
_FIT = "fit"  # the thread that Ray's trainer runs in
_LEFT_OUT = ("PlacementGroupCleanerCallback", "DatasetsCallback")  # of its trainer
_PRIVATE = "semisup/private"  # a label of the only node of a private cluster
# What looks there every few moments, for somebody who would read it, looks seldom or not at all: there are no other
# machines and no dashboard, and the driver reads no logs.
_PRIVATE_ENVIRONMENT = {
    "LOG_NAME_UPDATE_INTERVAL_S": "inf",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",  # from so many files on, that interval holds
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    "RAY_enable_metrics_collection": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor that asks whether a machine will leave
}
# TensorFlow is imported in a worker before our code runs, so what it reads at import comes from here.
_WORKER_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
_PRIVATE_WORKER_ENVIRONMENT = {"RAY_worker_niceness": "0"}  # as any program; Ray's own actors keep the lower priority


def _print(line: str) -> None:
    print(line, flush=True)


def run(
    config: RunConfig,
    folder: RunFolder,
    store: Store,
    begin: Callable[[dict[int, int]], None],
    keep: bool = False,
) -> None:
    """Trains under Ray Train and passes the workers' lines on.

    Args:
        config: the run.
        folder: on storage that every node reads and writes.
        store: the prepared store, likewise.
        begin: called with number of workers -> replicas once it is known that the workers can exist; describes the run.
        keep: leave the cluster connected for the next call, which then starts at once.

    Raises:
        ConfigError: workers that cannot exist on this cluster, or batches that they do not divide.
        UnavailableError: the cluster does not answer.
        TrainingError: the workers failed; the errors of the library come as they are.
    """
    with connected(config, keep):
        cpus, gpus = shares(config, nodes())
        begin({workers: workers * max(gpus, 1) for workers in config.runtime.workers})
        stopped = fit_workers(config, folder, store.path.name, cpus, gpus)
        folder.fetch()  # another machine may have written it
        if stopped:
            raise KeyboardInterrupt


@contextmanager
def connected(config: RunConfig, keep: bool = False) -> Iterator[None]:
    """Ray, on the cluster that a configuration means.

    Args:
        config: the run.
        keep: leave it connected.

    Raises:
        UnavailableError: the cluster does not answer.
    """
    if not ray.is_initialized():
        _connect(config)
    try:
        yield
    except BaseException as error:
        # Shutting Ray down under a fit() that still runs can end this process with Ray's exit code. A private cluster
        # dies with its driver, and a shared one ends the job's actors when the driver is gone.
        if not _fits() and not isinstance(error, KeyboardInterrupt):
            ray.shutdown()
        raise
    if not keep:
        ray.shutdown()


def _fits() -> bool:
    return any(thread.name == _FIT for thread in threading.enumerate())


def fit_workers(
    config: RunConfig,
    folder: RunFolder,
    store_name: str,
    cpus: float,
    gpus: int,
    test: bool = True,
    say: Callable[[str], Any] = _print,
    listen: Callable[[list[Progress]], None] | None = None,
) -> bool:
    """Trains one run with a group of workers on the connected cluster.

    Args:
        config: the run.
        folder: described.
        store_name: of the prepared store in the run's storage.
        cpus: of a worker.
        gpus: of a worker.
        test: as of `worker_loop`.
        say: takes the workers' lines.
        listen: takes their evaluations; when it raises SystemExit, they save and end first.

    Returns:
        Whether a signal ended it.
    """
    console = Console()
    listener = Listener(console, say)
    room = RoomWatch(config, cpus, gpus, say)
    private = any(_PRIVATE in node["Labels"] for node in ray.nodes())
    job = {
        "config": to_dict(dataclasses.replace(config, storage=folder.storage.url)),
        "folder": folder.path.relative_to(folder.storage.root).as_posix(),
        "lease": folder.lease.name,
        "attempt": folder.lease.attempt,
        "store": store_name,
        "cpus": cpus,
        "test": test,
        "console": console,
    }

    def look() -> None:
        room.look()
        listener.check()
        if listen:
            listen(listener.measured())

    try:
        return _fit_while_it_helps(config, folder, lambda: _trainer(config, folder, job, gpus, private), console, look)
    finally:
        try:
            listener.stop()
        finally:
            if not _fits():  # else workers may still ask whether to stop
                with suppress(UnavailableError):
                    console.clear()


def free_lost_groups() -> None:
    """Gives back what killed controllers of this job held, which else only the end of the job does."""
    here = bytes.fromhex(ray.get_runtime_context().get_job_id())
    for found in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(found)
        lost = group.creator_actor_dead and not ray.ActorID(group.creator_actor_id).is_nil()
        if lost and group.creator_job_id == here and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def _fit_while_it_helps(
    config: RunConfig, folder: RunFolder, make_trainer: Callable[[], Any], console: Console, look: Callable[[], None]
) -> bool:
    """Lets Ray restart lost workers, and begins anew when its restarts are used up but brought the run on.

    Returns:
        Whether a signal ended it.
    """
    allowed = config.runtime.max_failures
    # A stopped process cannot end itself. Ray ends it when it does not answer, after what only this variable says.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(config.runtime.hang_seconds * LONGER)
    if len(config.runtime.workers) > 1:
        # When a machine leaves, Ray first asks for as many workers as before, and a smaller number only after this.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_SMALLER_AFTER_SECONDS))
    while True:
        before = folder.checkpoints.newest_manifest()
        # Ray's own record of an earlier attempt is not read: the run's checkpoints say where it is, and are never
        # half-written.
        folder.storage.remove(folder.path / _RAY)
        try:
            stopped = _fit(make_trainer(), console, look, config.runtime.grace_seconds)
            error = None
        except ray.train.TrainingFailedError as failed:
            error = failed
        for file in folder.stacks.glob("*.txt"):
            if not file.stat().st_size:
                file.unlink()  # of a worker that was killed from outside
        failure = console.failure()
        if failure:
            raise failure from error
        if error is None:
            return stopped
        if folder.checkpoints.newest_manifest() == before:
            if not allowed:
                raise console.missed() or TrainingError(str(error)) from error
            raise UnavailableError(
                f"{allowed} restarts without a new checkpoint (runtime.max_failures={allowed}), the last after: "
                f"{str(error)[-_LONGEST_ERROR:]}"
            ) from error


def _trainer(config: RunConfig, folder: RunFolder, job: dict[str, Any], gpus: int, private: bool) -> Any:
    workers = config.runtime.workers
    with stderr_aside():
        from ray.train.tensorflow import TensorflowTrainer  # brings TensorFlow along, so only after the checks

        from jobs.scaling import OneMachine

    class Trainer(TensorflowTrainer):
        """Without some parts of Ray's own.

        The cleaner of groups, which end with the job: without a dashboard its own end takes 12 seconds. What would hand
        out Ray's data sets, an actor more for every run. And on a private cluster, what asks for machines, another one.
        """

        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ not in _LEFT_OUT]

        def _initialize_and_run_controller(self, **parts: Any) -> Any:
            if len(workers) == 1 and private:
                parts["scaling_policy"] = OneMachine(self.scaling_config)
            return super()._initialize_and_run_controller(**parts)

    return Trainer(
        _work,
        train_loop_config=job,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers[0] if len(workers) == 1 else (workers[0], workers[-1]),  # a pair is Ray's elastic range
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": job["cpus"]} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=_RAY,
            **folder.storage.for_ray(folder.path),
            failure_config=ray.train.FailureConfig(max_failures=config.runtime.max_failures),
            worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT | (_PRIVATE_WORKER_ENVIRONMENT if private else {})},
        ),
    )


def _fit(trainer: Any, console: Console, look: Callable[[], None], grace_seconds: float) -> bool:
    """Runs `fit` beside the main thread, where Ray would take the signals for itself and end with exit code 0.

    Returns:
        Whether a signal ended it.

    Raises:
        Exception, SystemExit: `look` raised it; the workers have saved and ended, or their grace is over.
        KeyboardInterrupt: the workers did not end within their grace, or a second signal came.
    """
    outcome: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # raised again in the main thread
            outcome.append(error)

    thread = threading.Thread(target=fit, name=_FIT, daemon=True)
    thread.start()
    with signals_ask() as asked:
        try:
            while thread.is_alive() and not asked.is_set():
                thread.join(_POLL_SECONDS)
                look()
            look()
        except (Exception, SystemExit):  # a second signal is not waited for
            _stop(console)
            thread.join(grace_seconds)
            raise
        if asked.is_set():
            _stop(console)
            thread.join(grace_seconds)
            if thread.is_alive():
                raise KeyboardInterrupt
    if outcome and not asked.is_set():
        raise outcome[0]
    return asked.is_set()


def _stop(console: Console) -> None:
    with suppress(UnavailableError):  # without its head, Ray ends the workers
        console.stop()


def _work(job: dict[str, Any]) -> None:
    """The train function of each worker.

    An error that a retry cannot mend (configuration, data, numbers) is left with the console; the workers that
    Ray then starts again find it there and end at once, and the driver raises it.
    """
    os.environ.pop("TF_USE_LEGACY_KERAS", None)  # Ray sets it; this project is Keras 3
    console = job["console"]
    if console.failure():
        return
    from jobs.runtime import RayTrainRuntime
    from jobs.worker import worker_loop

    try:
        config = from_dict(job["config"])
        storage = open_storage(config.storage)
        lease = Lease(storage, job["lease"], job["attempt"])
        folder = RunFolder(storage.root / job["folder"], storage, lease=lease)
        runtime = RayTrainRuntime(console, job["cpus"], config.runtime.hang_seconds, folder.stacks)
        worker_loop(config, folder, job["store"], runtime, test=job["test"])
    except (SemisupError, ConfigError, SupersededError, TrainingError) as error:
        console.fail(error)
        raise
    except Exception as error:
        if isinstance(error, UnavailableError):  # it may answer when Ray starts the workers again
            console.miss(error)
        with suppress(UnavailableError):
            console.write(f"a worker failed: {type(error).__name__}: {str(error)[-_LONGEST_ERROR:]}")
        raise


def _connect(config: RunConfig) -> None:
    # A submitted job finds its cluster in RAY_ADDRESS; "local" never joins a cluster that happens to be running.
    address = config.runtime.address or os.environ.get("RAY_ADDRESS") or "local"
    _probe(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    own = {}
    if address == "local":
        own = {name: value for name, value in _PRIVATE_ENVIRONMENT.items() if name not in os.environ}
        own[DRIVER_VARIABLE] = str(os.getpid())  # whose the cluster's processes are
    os.environ.update(own)  # they inherit it
    try:
        ray.init(
            address=address,
            **({"include_dashboard": False, "labels": {_PRIVATE: "true"}} if address == "local" else {}),
            log_to_driver=False,
            logging_level="error",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UnavailableError(
            f"runtime.address={address}: no Ray cluster answers, or it wants a token (RAY_AUTH_MODE=token): {error}"
        ) from error
    finally:
        for name in own:
            del os.environ[name]  # what this process starts later is not the cluster's
    signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own in place


def _probe(address: str) -> None:
    """Asks a HOST:PORT whether anything listens there; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        raise UnavailableError(
            f"runtime.address={address}: no Ray cluster answers there ({error}); check it with ray status"
        ) from error
