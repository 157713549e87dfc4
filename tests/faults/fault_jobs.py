"""Real jobs for the fault tests: started as by a user, watched until something happens, disturbed, compared."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from small_jobs import clean

from jobs import config, driver
from jobs.checkpoint import Checkpoints
from jobs.manifest import MANIFEST
from jobs.storage import open_storage
from jobs.tracking import read_rows

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS_PER_EPOCH, EPOCHS = 30, 6
# In float64 and small steps, so that two workers can be compared with one process after all of them.
SMALL = [
    "name=run",
    "encoder=conv",
    "encoder.width=8",
    "method.projection=[8]",
    f"trainer.epochs={EPOCHS}",
    f"trainer.steps_per_epoch={STEPS_PER_EPOCH}",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.steps_per_call=3",
    "trainer.precision=float64",
    "optimizer.learning_rate=1e-5",
    "evaluation.protocols=[knn20]",
    "evaluation.monitor=knn20",
    "runtime.num_workers=2",
]


def newest_step(run):
    """Of the newest checkpoint of a run folder, 0 for none."""
    meta = Checkpoints(run / "checkpoints").newest_meta()
    return meta["step"] if meta else 0


class Job:
    """`python -m jobs.train` in a process of its own."""

    def __init__(self, storage, *overrides, **environment):
        self._storage = open_storage(str(storage))
        self.run = self._storage.root / "run"
        words = [sys.executable, "-m", "jobs.train", f"storage={storage}", *SMALL, *overrides]
        self._process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output, self._lines = "", threading.Condition()
        self._disturbed = self._resumed = self._going = 0.0
        self._saved = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            with self._lines:
                self.output += line
                if "resuming after step" in line:
                    self._resumed = time.monotonic()
                if line.startswith("epoch") and self._resumed and not self._going:
                    self._going = time.monotonic()
                self._lines.notify_all()

    def wait_for(self, words, timeout=200):
        """Waits until the output has these words."""
        with self._lines:
            assert self._lines.wait_for(lambda: words in self.output, timeout), f"no {words!r} in:\n{self.output}"

    def wait_for_step(self, step, timeout=200):
        """Waits until a checkpoint of this step or a later one is there."""
        until = time.monotonic() + timeout
        while newest_step(self.run) < step:
            assert time.monotonic() < until and self._process.poll() is None, self.output
            time.sleep(0.02)

    def workers(self):
        """Rank -> process id of the workers that train."""
        names = [path.stem for path in (self.run / "stacks").glob("worker*.txt") if not path.stat().st_size]
        pids = {int(name.split("-")[0].removeprefix("worker")): int(name.rsplit("-", 1)[1]) for name in names}
        return {rank: pid for rank, pid in pids.items() if Path(f"/proc/{pid}").exists()}

    def mark(self):
        """Notes when it is disturbed, and what it has saved by then."""
        self._disturbed = time.monotonic()
        folder = self.run / "checkpoints"
        whole = [name for name in self._storage.names(folder) if MANIFEST in self._storage.names(folder / name)]
        self._saved = max((int(name.removeprefix("step-")) for name in whole), default=0)

    def signal(self, number, rank=None):
        """To a worker, or to the driver alone."""
        self.mark()
        if rank is None:
            self._process.send_signal(number)
        else:
            os.kill(self.workers()[rank], number)

    def kill_head(self):
        """Ends the head process of the private cluster."""
        self.mark()
        (head,) = (child for child in psutil.Process(self._process.pid).children() if child.name() == "gcs_server")
        head.kill()

    def recovery(self, disturbed=None):
        """Checks that no more was lost than came after the last checkpoint.

        Args:
            disturbed: the job that this one goes on with; without, itself.

        Returns:
            In words: seconds from the disturbance to the resumed run, and to its first epoch.
        """
        before = disturbed or self
        step = int(self.output.split("resuming after step ")[1].split()[0])
        assert step >= before._saved > 0
        resumed, going = self._resumed - before._disturbed, self._going - before._disturbed
        return f"saved {before._saved}; {resumed:.0f} s to resume after step {step}, {going:.0f} s to an epoch more"

    def end(self, timeout=300):
        """Waits for the end; returns the exit code."""
        return self._process.wait(timeout)

    def kill(self):
        """Whatever is left."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def undisturbed(storage, *overrides):
    """The same run in one process, which nothing disturbs; returns its folder."""
    driver.train(config.load([f"storage={storage}", *SMALL, "runtime=local", "runtime.num_workers=1", *overrides]))
    return Path(storage) / "run"


def check_same_run(run, reference):
    """Weights to 1e-9, every step logged once, the same result on test."""
    states = [Checkpoints(folder / "checkpoints").newest() for folder in (run, reference)]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run, reference)]
    assert states[0].step == states[1].step == summaries[0]["steps"] == summaries[1]["steps"]
    for key in ("complete", "epoch", "selected", "counts", "test", "pixels"):
        assert summaries[0][key] == summaries[1][key]
    got, expected = (state.state() for state in states)
    difference = sum(np.sum((got[key] - expected[key]) ** 2.0) for key in expected)
    assert np.sqrt(difference / sum(np.sum(value**2.0) for value in expected.values())) <= 1e-9
    rows, rows_of_reference = (clean(read_rows(folder / "metrics.jsonl")) for folder in (run, reference))
    assert [row["step"] for row in rows] == [row["step"] for row in rows_of_reference]
    pairs = zip(rows, rows_of_reference, strict=True)
    assert all(np.isclose(a.get("train/loss", 0), b.get("train/loss", 0), rtol=1e-9) for a, b in pairs)
