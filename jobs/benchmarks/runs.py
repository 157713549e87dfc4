"""Real runs of `jobs.train`, for what only they show: the way to the first step, and several workers."""

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from jobs.config import to_yaml
from jobs.errors import TrainingError
from jobs.schema import RunConfig
from jobs.storage import write_text
from jobs.tracking import read_rows

# What lies between two entries of a run's timeline.
PHASES = {
    "described": "imports and data",
    "worker": "Ray and workers",
    "built": "TensorFlow, model",
    "first_steps": "compilation and the first call",
}

# What a process says that wanted more memory than there was: our error, and those of allocators.
_OUT_OF_MEMORY = ("does not fit into the memory", "bad_alloc", "OOM when allocating", "MemoryError", "Cannot allocate")


class Measured(NamedTuple):
    """A run's speed and start.

    Attributes:
        rates: images a second of each epoch but the first, which compiles.
        phases: seconds of each of `PHASES`, from the command on.
        epochs: seconds of training in each epoch but the first.
        beside: seconds of "validate" and "checkpoint" in an epoch, the mean of all.
    """

    rates: list[float]
    phases: dict[str, float]
    epochs: list[float]
    beside: dict[str, float]

    @property
    def rate(self) -> float:
        """The usual one."""
        return median(self.rates)


class DoesNotFitError(TrainingError):
    """A run that ended for want of memory."""


def command_for(config: RunConfig, words: Sequence[str], steps: int, epochs: int) -> tuple[list[str], Path]:
    """What trains a configuration for some short epochs in a process of its own.

    Args:
        config: the run; its storage gets one folder more.
        words: overrides.
        steps: of an epoch.
        epochs: how many.

    Returns:
        The command, and the run folder that it makes.
    """
    storage = Path(config.storage)
    name, file = f"measured-{uuid.uuid4().hex[:8]}", storage / "measured.yaml"
    write_text(file, to_yaml(config))
    given = [f"name={name}", f"trainer.epochs={epochs}", f"trainer.steps_per_epoch={steps}", "tracking=none"]
    given += [f"evaluation.every={epochs + 1}", f"checkpoint.every={epochs + 1}", *words]
    return [sys.executable, "-m", "jobs.train", "--config", str(file), *given], storage / name


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl that say how fast its epochs were."""
    return [row for row in read_rows(folder / "metrics.jsonl") if "images_per_second" in row]


def measure_run(config: RunConfig, *words: str, steps: int, epochs: int = 4, memory: int | None = None) -> Measured:
    """Trains for some short epochs in a process of its own.

    Args:
        config: the run; its storage gets one folder more.
        *words: overrides.
        steps: of an epoch.
        epochs: how many.
        memory: bytes that the process may take, or None for what there is.

    Raises:
        DoesNotFitError: they are not enough.
        TrainingError: it failed for another reason; what it printed last.
    """
    command, folder = command_for(config, words, steps, epochs)
    if memory:
        command = ["sh", "-c", 'ulimit -d "$0" && exec "$@"', str(memory // 1024), *command]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        # By the kernel, when the machine has no memory left; or native code that did not look at what it was refused.
        killed = -done.returncode in (signal.SIGKILL, *((signal.SIGSEGV, signal.SIGABRT) if memory else ()))
        cause = DoesNotFitError if killed or any(said in done.stderr for said in _OUT_OF_MEMORY) else TrainingError
        raise cause(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    rows = read_epochs(folder)
    rates = [row["images_per_second"] for row in rows]
    timeline = json.loads((folder / "environment.json").read_text())["timeline"]
    moments = [timeline["command"], *(timeline[name] for name in PHASES)]
    phases = {words: moments[i + 1] - moments[i] for i, words in enumerate(PHASES.values())}
    spent = json.loads((folder / "summary.json").read_text())["phases_seconds"]
    beside = {name: spent[name] / epochs for name in ("validate", "checkpoint")}
    return Measured(rates[1:], phases, [row["epoch_seconds"] for row in rows[1:]], beside)
