"""Drivers that die, and signals: the same command goes on, under the same name, with every row once."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from fault_jobs import EPOCHS, STEPS_PER_EPOCH, check_same_run

from jobs.checkpoint import Checkpoints

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]


@pytest.fixture
def head(tmp_path):
    """The address of a cluster that outlives its drivers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=4", "--include-dashboard=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words], stdout=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


@pytest.mark.parametrize("cluster", ["its own", pytest.param("one that outlives it", marks=pytest.mark.faults)])
def test_the_driver_is_killed_and_the_same_command_goes_on(job, reference, request, cluster):
    where = [] if cluster == "its own" else [f"runtime.address={request.getfixturevalue('head')}"]
    first = job(*where)
    first.wait_for_step(2 * STEPS_PER_EPOCH)
    first.signal(signal.SIGKILL)
    second = job(*where)  # at once: workers of the first may still be there
    assert second.end() == 0, second.output
    assert "resuming after step" in second.output
    check_same_run(second.run, reference)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_within_the_grace_period(job, reference, number):
    first = job()
    first.wait_for_step(STEPS_PER_EPOCH)
    first.signal(number)
    assert first.end(timeout=90) == 130, first.output
    assert STEPS_PER_EPOCH < Checkpoints(first.run / "checkpoints").newest().step < EPOCHS * STEPS_PER_EPOCH
    second = job()
    assert second.end() == 0, second.output
    check_same_run(second.run, reference)


@pytest.mark.faults
def test_rays_own_snapshot_is_truncated(job, reference):
    first = job()
    first.wait_for_step(STEPS_PER_EPOCH)
    first.signal(signal.SIGKILL)
    first.end()
    snapshots = list((first.run / "ray").rglob("*snapshot*.json"))
    assert snapshots
    for path in snapshots:
        path.write_bytes(path.read_bytes()[:10])
    second = job()  # nothing to repair: our checkpoints say where the run is
    assert second.end() == 0, second.output
    check_same_run(second.run, reference)
