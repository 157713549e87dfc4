"""What the worker loop needs of its surroundings; the only place that knows whether Ray is there."""

import faulthandler
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
            console: handle of the actor that passes lines to the driver.
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
        self._hang_seconds = hang_seconds
        stacks.mkdir(parents=True, exist_ok=True)
        self._stacks = stacks / f"worker{self.rank}-{platform.node()}-{os.getpid()}.txt"
        self._out = open(self._stacks, "w")  # noqa: SIM115  faulthandler writes to it until `unwatch`
        self._stop, self._leaving = threading.Event(), threading.Event()
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def _listen(self) -> None:
        """Asks every second, beside training, whether the user wants to stop and whether this machine must go.

        Ray's own question, `get_preemption_info`, is a barrier of all workers; in training, ours is part of a step.
        """
        import ray

        here = ray.get_runtime_context().get_node_id()
        with suppress(ray.exceptions.RayError):
            while not self._stop.is_set():
                if ray.get(self._console.stopping.remote()):
                    self._stop.set()
                if here in ray._private.state.state.get_draining_nodes():
                    self._leaving.set()
                time.sleep(_LISTEN_SECONDS)

    def wishes(self) -> Wishes:
        """To stop, when the driver has passed a signal on; to save, when the cluster drains this node."""
        return Wishes(self._stop.is_set(), self._leaving.is_set())

    def watch(self, patience: float) -> None:
        """Ends the process by a thread that needs no interpreter, after it has written the stacks of all threads."""
        faulthandler.dump_traceback_later(self._hang_seconds * patience, exit=True, file=self._out)

    def unwatch(self) -> None:
        """Stops that thread."""
        faulthandler.cancel_dump_traceback_later()
        self._out.close()
        self._stacks.unlink(missing_ok=True)

    def say(self, line: str) -> None:
        """Sends the line to the driver's terminal."""
        self._console.write.remote(line)

    def agree(self, value: Any) -> Any:
        """Broadcasts rank 0's value through Ray."""
        if self.world_size == 1:
            return value
        from ray.train.collective import broadcast_from_rank_zero

        return broadcast_from_rank_zero(value)

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
