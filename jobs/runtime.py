"""What the worker loop needs of its surroundings; the only place that knows whether Ray is there."""

import json
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

_LISTEN_SECONDS = 1.0
_REPORT_SECONDS = 10.0  # Ray's controller polls every 2 s: reports closer than that would hold up training


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

    def stop_asked(self) -> bool:
        """Whether the user or the cluster wants this worker to save and end; may differ between ranks."""

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

    def stop_asked(self) -> bool:
        """Whether the event is set."""
        return self._stop.is_set()

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

    def __init__(self, console: Any, cpus: float | None) -> None:
        """Reads the place of this worker in its group.

        Args:
            console: handle of the actor that passes lines to the driver.
            cpus: cores of this worker.
        """
        import ray.train

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.cpus = cpus
        self._console = console
        self._reported = time.monotonic()
        self._stop = threading.Event()
        if self.rank == 0:
            threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def _listen(self) -> None:
        """Asks the console every second, beside training, whether the user wants to stop."""
        import ray

        with suppress(ray.exceptions.RayError):
            while not ray.get(self._console.stopping.remote()):
                time.sleep(_LISTEN_SECONDS)
            self._stop.set()

    def stop_asked(self) -> bool:
        """Whether the driver has passed a signal on."""
        return self._stop.is_set()

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
        """Reports to Ray; the checkpoint goes as a reference, the files stay in the run folder."""
        import ray.train

        self._reported = time.monotonic()
        if checkpoint is None:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "reference.json").write_text(json.dumps({"checkpoint": str(checkpoint)}))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
