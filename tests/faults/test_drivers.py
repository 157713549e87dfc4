"""Drivers that die, and signals: the same command goes on, under the same name, with every row once."""

import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from fault_jobs import EPOCHS, ROOT, SMALL, STEPS_PER_EPOCH, check_same_run, newest_step
from ray_head import TOKEN, ray_head

from jobs.checkpoint import Checkpoints

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]


@pytest.fixture
def head():
    """(address, dashboard's address) of a cluster that outlives its drivers and asks for a token."""
    with ray_head() as addresses:
        yield addresses


@pytest.mark.parametrize("cluster", ["its own", pytest.param("one that outlives it", marks=pytest.mark.faults)])
def test_the_driver_is_killed_and_the_same_command_goes_on(job, reference, request, note, cluster):
    where = [] if cluster == "its own" else [f"runtime.address={request.getfixturevalue('head')[0]}"]
    first = job(*where)
    first.wait_for_step(2 * STEPS_PER_EPOCH)
    first.signal(signal.SIGKILL)
    second = job(*where)  # at once: workers of the first may still be there
    assert second.end() == 0, second.output
    check_same_run(second.run, reference)
    note(second.recovery(first))


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_within_the_grace_period(job, reference, note, number):
    first = job()
    first.wait_for_step(STEPS_PER_EPOCH)
    first.signal(number)
    sent = time.monotonic()
    assert first.end(timeout=90) == 130, first.output
    note(f"{time.monotonic() - sent:.1f} s from the signal to the end")
    assert STEPS_PER_EPOCH < Checkpoints(first.run / "checkpoints").newest().step < EPOCHS * STEPS_PER_EPOCH
    second = job()
    assert second.end() == 0, second.output
    check_same_run(second.run, reference)
    second.recovery(first)


@pytest.mark.faults
def test_rays_head_is_killed(job, reference, note):
    first = job(RAY_gcs_rpc_server_reconnect_timeout_s="3")
    first.wait_for_step(STEPS_PER_EPOCH)
    assert len(first.workers()) == 2
    first.kill_head()
    assert first.end(timeout=90) == 1, first.output
    assert "GCS may have been killed" in first.output
    until = time.monotonic() + 60
    while first.workers():
        assert time.monotonic() < until
        time.sleep(0.1)
    second = job()
    assert second.end() == 0, second.output
    check_same_run(second.run, reference)
    note(second.recovery(first))


@pytest.mark.faults
def test_rays_own_record_is_damaged(job, reference):
    # Ray would restore `checkpoint_manager_snapshot.json`, and fail on a cut one. It is told of no checkpoint, and
    # begins in an empty folder: our checkpoints say where the run is.
    first = job(f"debug.steps={2 * STEPS_PER_EPOCH}")
    assert first.end() == 0, first.output
    assert not list((first.run / "ray").rglob("*snapshot*"))
    (first.run / "ray" / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_re')
    second = job()
    assert second.end() == 0, second.output
    check_same_run(second.run, reference)


@pytest.mark.faults
def test_a_submitted_job_is_stopped_and_goes_on(head, tmp_path, reference):
    def ray_job(*words):
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", *words[:1], "--address", head[1], *words[1:]]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True).stdout

    def submit(name):
        train = [sys.executable, "-m", "jobs.train", f"storage={tmp_path}", *SMALL]
        environment = ["--runtime-env", "cluster/runtime_env.yaml"]
        ray_job("submit", "--no-wait", "--submission-id", name, *environment, "--", *train)

    def until_it(what, timeout=200):
        end = time.monotonic() + timeout
        while not what():
            assert time.monotonic() < end
            time.sleep(0.2)

    run = tmp_path / "run"
    submit("first")
    until_it(lambda: newest_step(run) >= STEPS_PER_EPOCH)
    stop = urllib.request.Request(f"{head[1]}/api/jobs/first/stop", method="POST")
    stop.add_header("Authorization", f"Bearer {os.environ['RAY_AUTH_TOKEN']}")
    urllib.request.urlopen(stop, timeout=30).close()  # as `ray job stop` does, but that takes seconds to start
    until_it(lambda: "was stopped" in ray_job("status", "first"))
    assert "(a signal); the same command goes on from here" in ray_job("logs", "first")
    submit("second")
    until_it((run / "summary.json").exists)
    until_it(lambda: "succeeded" in ray_job("status", "second"))
    check_same_run(run, reference)
    assert not [path for path in run.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
