"""Real runs of `jobs.train`, for what only they show: the way to the first step, and several workers."""

import json
import subprocess
import sys
import uuid
from pathlib import Path
from statistics import median
from typing import NamedTuple

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


class Measured(NamedTuple):
    """A run's speed and start.

    Attributes:
        rates: images a second of each epoch but the first, which compiles.
        phases: seconds of each of `PHASES`, from the command on.
    """

    rates: list[float]
    phases: dict[str, float]

    @property
    def rate(self) -> float:
        """The usual one."""
        return median(self.rates)


def measure_run(config: RunConfig, *words: str, steps: int, epochs: int = 4) -> Measured:
    """Trains for some short epochs in a process of its own.

    Args:
        config: the run; its storage gets one folder more.
        *words: overrides.
        steps: of an epoch.
        epochs: how many.

    Raises:
        TrainingError: it failed; what it printed last.
    """
    storage = Path(config.storage)
    name, file = f"measured-{uuid.uuid4().hex[:8]}", storage / "measured.yaml"
    write_text(file, to_yaml(config))
    given = [f"name={name}", f"trainer.epochs={epochs}", f"trainer.steps_per_epoch={steps}", "evaluation.every=100"]
    given += ["checkpoint.every=100", "tracking=none", *words]
    command = [sys.executable, "-m", "jobs.train", "--config", str(file), *given]
    done = subprocess.run(command, capture_output=True, text=True)
    folder = storage / name
    if done.returncode:
        raise TrainingError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    rates = [row["images_per_second"] for row in read_rows(folder / "metrics.jsonl") if "images_per_second" in row]
    timeline = json.loads((folder / "environment.json").read_text())["timeline"]
    moments = [timeline["command"], *(timeline[name] for name in PHASES)]
    phases = {words: moments[i + 1] - moments[i] for i, words in enumerate(PHASES.values())}
    return Measured(rates[1:], phases)
