"""A job on a cluster of machines that come and go, on this machine: `python -m jobs.rehearse`.

Submits the same job twice to a cluster that begins without nodes. In the first one a node is taken away in the middle;
the second one is left alone. Both must come to the same weights and the same result.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs.cli import main_with_exit_codes, parse_command
from jobs.errors import TrainingError
from jobs.local_cluster import LocalCluster, local_cluster, take_away, wait_until

_EPOCHS, _STEPS_PER_EPOCH = 6, 30
# Two workers of one core; float64 and small steps, so that the weights of two runs can be compared after all of them.
_JOB = [
    *("encoder.width=8", "method.projection=[8]", "trainer.precision=float64", "optimizer.learning_rate=1e-5"),
    *(f"trainer.epochs={_EPOCHS}", f"trainer.steps_per_epoch={_STEPS_PER_EPOCH}", "trainer.steps_per_call=3"),
    *("trainer.unlabelled_batch=16", "trainer.labelled_batch=20", "evaluation.protocols=[knn20]"),
    *("evaluation.monitor=knn20", "runtime.num_workers=2", "runtime.cpus_per_worker=1", "runtime.autoscaling=true"),
]
_NODES = 4  # at most; the fake provider counts one that is taken away as if it were there
_LONGEST_SECONDS = 300.0


def main() -> None:
    """Starts the cluster, runs both jobs, and compares them."""
    parse_command(__doc__ or "", "", {})
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder, local_cluster(Path(folder), _NODES) as cluster:
        print(f"a head without cores; nodes of one core come when asked for (dashboard {cluster.dashboard})")
        disturbed = _Job(cluster, Path(folder), "disturbed")
        _saved(disturbed, _STEPS_PER_EPOCH)
        taken, lost = time.monotonic(), disturbed.worker(1)
        take_away(lost)
        print(f"--- the node of worker 1 is taken away after step {_newest(disturbed)} ---", flush=True)
        going_on = _newest(disturbed) + _STEPS_PER_EPOCH
        _saved(disturbed, going_on)
        if disturbed.worker(1) == lost:
            raise TrainingError(f"the run went on with the worker that was taken away (process {lost})")
        print(f"--- {time.monotonic() - taken:.0f} s later, on a new node, an epoch more is done ---", flush=True)
        disturbed.end()
        alone = _Job(cluster, Path(folder), "undisturbed")
        alone.end()
        print(_compared(disturbed, alone))


class _Job:
    """A submitted job, with its lines passed on."""

    def __init__(self, cluster: LocalCluster, storage: Path, name: str) -> None:
        self.run = storage / name
        words = ["-m", "jobs.submit", f"address={cluster.dashboard}", "--", "train", f"storage={storage}"]
        self._process = subprocess.Popen(
            [sys.executable, *words, f"name={name}", *_JOB],
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, **cluster.environment},
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def worker(self, rank: int) -> int:
        """The process id of the newest worker of a rank."""
        files = (self.run / "stacks").glob(f"worker{rank}-*.txt")
        return int(max(files, key=lambda file: file.stat().st_mtime_ns).stem.rsplit("-", 1)[1])

    def end(self) -> None:
        """Waits.

        Raises:
            TrainingError: it failed.
        """
        code = wait_until(lambda: None if self.running() else (self._process.returncode,), _LONGEST_SECONDS)[0]
        if code:
            raise TrainingError(f"the job {self.run.name} ended with exit code {code}; its lines stand above")


def _newest(job: _Job) -> int:
    from jobs.checkpoint import Checkpoints

    meta = Checkpoints(job.run / "checkpoints").newest_meta()
    return meta["step"] if meta else 0


def _saved(job: _Job, step: int) -> None:
    wait_until(lambda: _newest(job) >= step, _LONGEST_SECONDS, job.running)


def _compared(disturbed: _Job, alone: _Job) -> str:
    """What both came to.

    Raises:
        TrainingError: not the same.
    """
    import numpy as np

    from jobs.checkpoint import Checkpoints
    from jobs.tracking import read_rows

    states: list[dict[str, Any]] = []
    for job in (disturbed, alone):
        found = Checkpoints(job.run / "checkpoints").newest()
        assert found is not None  # the job ended well
        states.append(found.state())
    difference = sum(float(np.sum((states[0][key] - states[1][key]) ** 2)) for key in states[1])
    distance = np.sqrt(difference / sum(float(np.sum(value**2.0)) for value in states[1].values()))
    tests = [json.loads((job.run / "summary.json").read_text())["test"] for job in (disturbed, alone)]
    accuracies = [test["knn20"]["accuracy"] for test in tests]
    steps = [[row["step"] for row in read_rows(job.run / "metrics.jsonl")] for job in (disturbed, alone)]
    lines = [
        f"test accuracy (knn20): {accuracies[0]:.4f} disturbed, {accuracies[1]:.4f} undisturbed",
        f"distance of their weights |a - b| / |b|: {distance:.1e}; log rows {len(steps[0])} and {len(steps[1])}",
    ]
    if distance > 1e-9 or tests[0] != tests[1] or steps[0] != steps[1]:
        raise TrainingError("the disturbed run is not the other one: " + "; ".join(lines))
    return "\n".join([*lines, "the same run: nothing was lost, and nothing was done twice"])


if __name__ == "__main__":
    main_with_exit_codes(main)
