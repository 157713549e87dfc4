"""What the worker loop needs of its surroundings; the only place that knows whether Ray is there."""

import json
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jobs.errors import UnavailableError
from jobs.watchdog import Watchdog

DRIVER_VARIABLE = "SEMISUP_DRIVER"  # in the environment of a private cluster: the process that it belongs to
LONGER = 5.0  # how many times `runtime.hang_seconds` may pass where the first steps compile, or between epochs
_LISTEN_SECONDS = 1.0
_REPORT_SECONDS = 10.0  # Ray's controller polls every 2 s: reports closer than that would hold up training


class Wishes(NamedTuple):
    """What is asked of training from outside.

    Attributes:
        stop: save and end.
        save: save and go on, because this machine will be taken away.
    """

    stop: bool
    save: bool


class Progress(NamedTuple):
    """What a search compares its trials by, after an evaluation.

    Attributes:
        epoch: 1 for the first.
        step: optimiser steps done.
        validation: accuracy now, under the monitored protocol.
        best: accuracy of the epoch that is kept so far.
        finished: whether nothing follows.
    """

    epoch: int
    step: int
    validation: float
    best: float
    finished: bool = False


class Runtime(Protocol):
    """One worker's surroundings.

    Attributes:
        rank: 0 … world_size-1; rank 0 evaluates, writes and speaks.
        world_size: number of worker processes.
        cpus: cores this worker may use, or None for all of the machine.
    """

    rank: int
    world_size: int
    cpus: float | None

    def say(self, line: str) -> None:
        """Shows a line to the user."""

    def wishes(self) -> Wishes:
        """What the user or the cluster wants of this worker now; may differ between ranks."""

    def watch(self, patience: float) -> None:
        """Ends this process when neither `watch` nor `unwatch` is called again in time.

        Args:
            patience: times the usual limit.
        """

    def unwatch(self) -> None:
        """From now on, nothing that takes long ends this process; comes last."""

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank; all ranks must call it equally often."""

    def measured(self, progress: Progress) -> None:
        """Takes note of an evaluation; called on rank 0 only."""

    def due(self) -> bool:
        """Whether a report is worth its cost now; asked on rank 0 only."""

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Tells the surroundings where the run is; all ranks must call it equally often."""


class LocalRuntime:
    """This process alone."""

    rank: int = 0
    world_size: int = 1
    cpus: float | None = None

    def __init__(self, stop: threading.Event | None = None) -> None:
        """Keeps what is set when the user wants to stop."""
        self._stop = stop or threading.Event()

    def wishes(self) -> Wishes:
        """To stop, when the event is set."""
        return Wishes(stop=self._stop.is_set(), save=False)

    def watch(self, patience: float) -> None:
        """Whoever sits in front of the process sees that it hangs."""

    def unwatch(self) -> None:
        """Nothing to end."""

    def say(self, line: str) -> None:
        """Prints the line."""
        print(line, flush=True)

    def agree(self, value: Any) -> Any:
        """The value itself."""
        return value

    def measured(self, progress: Progress) -> None:
        """Nobody compares."""

    def due(self) -> bool:
        """Nobody listens."""
        return False

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Nothing to tell."""


class RayTrainRuntime:
    """A worker of a Ray Train group."""

    def __init__(self, console: Any, cpus: float | None, hang_seconds: float, stacks: Path) -> None:
        """Reads the place of this worker in its group.

        Args:
            console: takes lines and evaluations for the driver, and says when to stop.
            cpus: cores of this worker.
            hang_seconds: the usual limit of `watch`.
            stacks: folder for what every thread did when the time was over.
        """
        import ray.train

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.cpus = cpus
        self._console = console
        self._reported = time.monotonic()
        self._watchdog = Watchdog(hang_seconds, stacks, f"worker{self.rank}")
        self._stop, self._leaving = threading.Event(), threading.Event()
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def _listen(self) -> None:
        """Asks every second, beside training, whether the user wants to stop and whether this machine must go.

        Ray's own question, `get_preemption_info`, is a barrier of all workers; in training, ours is part of a step.
        """
        import ray

        here = ray.get_runtime_context().get_node_id()
        while not self._stop.is_set():
            try:
                if self._console.stopping():
                    self._stop.set()
                if here in ray._private.state.state.get_draining_nodes():
                    self._leaving.set()
            except (UnavailableError, ray.exceptions.RayError):
                pass  # asked again
            time.sleep(_LISTEN_SECONDS)

    def wishes(self) -> Wishes:
        """To stop, when the driver has passed a signal on; to save, when the cluster drains this node."""
        return Wishes(self._stop.is_set(), self._leaving.is_set())

    def watch(self, patience: float) -> None:
        """Sets the watchdog."""
        self._watchdog.watch(patience)

    def unwatch(self) -> None:
        """Ends the watchdog."""
        self._watchdog.end()

    def say(self, line: str) -> None:
        """Sends the line to the driver's terminal."""
        with suppress(UnavailableError):  # a line is not worth a run
            self._console.write(line)

    def agree(self, value: Any) -> Any:
        """Broadcasts rank 0's value through Ray."""
        if self.world_size == 1:
            return value
        from ray.train.collective import broadcast_from_rank_zero

        return broadcast_from_rank_zero(value)

    def measured(self, progress: Progress) -> None:
        """Leaves it with the console; whoever searches asks there."""
        self._console.measure(progress)

    def due(self) -> bool:
        """Not more often than Ray's controller takes reports; a report waits until the one before is taken."""
        return time.monotonic() - self._reported >= _REPORT_SECONDS

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Reports to Ray, the checkpoint by its path only.

        A checkpoint of Ray's would be one more write to the storage, and one that fails ends the run.
        """
        import ray.train

        self._reported = time.monotonic()
        ray.train.report({**metrics, "checkpoint": str(checkpoint or "")})


TRIAL_STATE = "trial.json"  # of the checkpoint that Tune gets: which trial, at which step


class TuneRuntime:
    """The one worker of a trial, in a process of Ray Tune."""

    rank: int = 0
    world_size: int = 1

    def __init__(self, trial: str, cpus: float | None, log: Any, watchdog: Watchdog) -> None:
        """Keeps where things go.

        Args:
            trial: its name.
            cpus: its share of cores.
            log: an open text file for what the worker says.
            watchdog: of this process.
        """
        self.cpus = cpus
        self._trial, self._log, self._watchdog = trial, log, watchdog

    def say(self, line: str) -> None:
        """Writes the line to the trial's file."""
        print(line, file=self._log, flush=True)

    def wishes(self) -> Wishes:
        """Tune stops a trial when it reports."""
        return Wishes(stop=False, save=False)

    def watch(self, patience: float) -> None:
        """Sets the watchdog."""
        self._watchdog.watch(patience)

    def unwatch(self) -> None:
        """Ends the watchdog."""
        self._watchdog.end()

    def agree(self, value: Any) -> Any:
        """The value itself."""
        return value

    def measured(self, progress: Progress) -> None:
        """Reports to Tune.

        Raises:
            SystemExit: Tune stops or pauses the trial.
        """
        self._watchdog.rest()  # Tune answers when its driver has time
        report_to_tune(self._trial, progress)

    def due(self) -> bool:
        """Evaluations are all that Tune is told."""
        return False

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Nothing to tell."""


def report_to_tune(trial: str, progress: Progress) -> None:
    """Reports an evaluation, with a checkpoint that only says where ours is.

    Raises:
        SystemExit: Tune stops or pauses the trial.
    """
    import ray.tune

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / TRIAL_STATE).write_text(json.dumps({"trial": trial, "step": progress.step}))
        # Tune's word for the last report: no scheduler may change a trial that is finished.
        last = {"done": True} if progress.finished else {}
        ray.tune.report({**progress._asdict(), **last}, checkpoint=ray.tune.Checkpoint.from_directory(folder))
