"""The SLURM script: shellcheck, and a run of it with a stand-in for SLURM's commands on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from socket import AF_INET

import psutil
import pytest

from jobs.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"
# Runs the command here; what srun is told about nodes and tasks ends at the first word without dashes.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = "#!/bin/bash\necho one\necho two\n"
HOSTNAME = "#!/bin/bash\necho {address}\n"
SMALL = [
    *("jobs.train", "name=run", "encoder.width=8", "method.projection=[8]", "trainer.steps_per_epoch=10"),
    *("trainer.unlabelled_batch=16", "trainer.labelled_batch=20", "evaluation.protocols=[knn20]"),
    *("evaluation.monitor=knn20", "runtime.num_workers=2", "runtime.cpus_per_worker=1"),
]


def test_shellcheck_finds_nothing():
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_without_words_it_says_what_it_expects():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "expected the words of a job" in done.stderr


def test_outside_an_allocation_it_says_what_it_expects():
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
    done = subprocess.run(["bash", SCRIPT, "jobs.train"], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2 and "expected to be started by SLURM" in done.stderr


def own_address():
    """By which other machines would reach this one."""
    addresses = [each.address for faces in psutil.net_if_addrs().values() for each in faces if each.family == AF_INET]
    return next((address for address in addresses if not address.startswith("127.")), None)


class Allocation:
    """The script in an allocation of two nodes, both of which are this machine."""

    def __init__(self, tmp_path, *words):
        commands = tmp_path / "bin"
        commands.mkdir(exist_ok=True)
        hostname = HOSTNAME.format(address=own_address())
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("hostname", hostname)):
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        self.folder = tmp_path
        self.process = subprocess.Popen(
            ["bash", SCRIPT, *SMALL, f"storage={tmp_path / 'runs'}", *words],
            cwd=tmp_path,
            env={
                **os.environ,
                **{"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
                **{
                    "SEMISUP_PYTHON": sys.executable,
                    "SLURM_JOB_ID": str(os.getpid()),
                    "SLURM_JOB_NODELIST": "[one-two]",
                },
                "SLURM_CPUS_PER_TASK": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self):
        try:
            output = self.process.communicate(timeout=200)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.returncode, output


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(500)
@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(own_address() is None, reason="this machine has no address but its own")
def test_two_nodes_train_save_at_a_signal_and_go_on(tmp_path):
    first = Allocation(tmp_path, "trainer.epochs=60")
    until = time.monotonic() + 150
    while not Checkpoints(tmp_path / "runs" / "run" / "checkpoints").newest_meta():
        assert time.monotonic() < until and first.process.poll() is None, first.end()[1]
        time.sleep(0.1)
    os.kill(first.process.pid, signal.SIGTERM)  # as SLURM signals the batch shell before the time limit
    code, output = first.end()
    assert code == 130, output
    code, output = Allocation(tmp_path, "trainer.epochs=60").end()
    assert code == 0 and "resuming after step" in output and "2 replicas" in output, output
    assert json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())["complete"]
    assert not list(tmp_path.glob(".ray-token-*"))
