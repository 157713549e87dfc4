"""Workers that die, stop or hang, and machines that leave: real processes of a real Ray cluster."""

import os
import signal
import threading
from contextlib import suppress

import pytest
from fault_jobs import SMALL, STEPS_PER_EPOCH, check_same_run

from jobs import cluster, config, driver

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.faults), 1])
def test_a_worker_is_killed_in_mid_epoch(job, reference, note, rank):
    run = job()
    run.wait_for_step(2 * STEPS_PER_EPOCH)
    run.signal(signal.SIGKILL, rank)
    assert run.end() == 0, run.output
    assert int(run.output.split("resuming after step ")[1].split()[0]) >= 2 * STEPS_PER_EPOCH
    check_same_run(run.run, reference)
    note(run.recovery())


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_is_stopped(job, reference, note, workers):
    # One of two is missed by TensorFlow after ten seconds, the only one by Ray.
    run = job(f"runtime.num_workers={workers}", "runtime.hang_seconds=4")
    run.wait_for_step(STEPS_PER_EPOCH)
    stopped = run.workers()[workers - 1]
    run.signal(signal.SIGSTOP, workers - 1)
    assert run.end() == 0, run.output
    assert "resuming after step" in run.output and not os.path.exists(f"/proc/{stopped}")
    check_same_run(run.run, reference)
    note(run.recovery())


def test_a_worker_hangs(tmp_path, reference, monkeypatch, capfd, note):
    # Alive, with heartbeats: nobody but its watchdog, and its neighbour's in the collective, can tell.
    def hangs_once(job):
        from jobs.cluster import _work
        from semisup_core.trainer import Trainer

        take_steps = Trainer.run

        def run(self, iterators, steps, flags):
            if self.step >= 40:
                with suppress(FileExistsError):
                    open(hung, "x").close()
                    threading.Event().wait()
            return take_steps(self, iterators, steps, flags)

        Trainer.run = run
        _work(job)

    hung = str(tmp_path / "hung")
    monkeypatch.setattr(cluster, "_work", hangs_once)
    line = [f"storage={tmp_path}", *SMALL, "runtime.hang_seconds=6", "checkpoint.keep=all"]
    assert driver.train(config.load(line))["complete"]
    stacks = [path.read_text() for path in (tmp_path / "run" / "stacks").iterdir()]
    assert len(stacks) == 2 and all(text.startswith("Timeout") and "worker.py" in text for text in stacks)
    output = capfd.readouterr().out
    assert "hung so far" in output and "resuming after step 30" in output
    check_same_run(tmp_path / "run", reference)
    again = (tmp_path / "run" / "checkpoints" / "step-000000060").stat().st_mtime
    note(f"{again - os.stat(hung).st_mtime:.0f} s to an epoch more, 6 of them until it is taken to hang")


@pytest.mark.faults
def test_restarts_without_progress_end_the_run(job):
    # A call of 3 steps may take 5 seconds when it is the first; it takes longer to compile this.
    run = job("runtime.hang_seconds=1", "runtime.max_failures=1", "encoder=resnet50", "encoder.width=2")
    assert run.end() == 5, run.output
    assert "1 restarts without a new checkpoint (runtime.max_failures=1)" in run.output.splitlines()[-1]
    assert "Traceback" not in run.output
