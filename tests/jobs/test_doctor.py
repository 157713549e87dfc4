"""What `jobs.doctor` finds, and what it says to do."""

import json
import os
import platform
import subprocess
import sys

import pytest

from jobs import checkup, config
from jobs.runtime import DRIVER_VARIABLE


def found(*words):
    """topic -> lines."""
    lines = {}
    for line in checkup.look(config.load([*words, "runtime=local"] if "runtime=ray" not in words else [*words])):
        lines.setdefault(line.topic, []).append(line)
    return lines


def test_a_machine_that_has_everything_is_ready(command, tmp_path):
    done = command("jobs.doctor", f"storage={tmp_path}", "runtime=local")
    assert done.code == 0 and done.out.splitlines()[-1] == "ready", done.out
    for topic in ("python", "packages", "processor", "memory", "ray", "storage", "tracking", "data"):
        assert f"ok  {topic}" in done.out
    assert not [path for path in tmp_path.iterdir() if path.name != ".leases"]


def test_storage_that_cannot_be_written_comes_with_what_to_do(command, tmp_path):
    (tmp_path / "file").write_text("")
    words = [f"storage={tmp_path / 'file'}", "runtime=local", "dataset=folder", "dataset.path=/none"]
    done = command("jobs.doctor", *words)
    assert done.code == 1 and done.out.splitlines()[-1] == "2 to mend"
    assert "!!  storage" in done.out and "choose another storage" in done.out
    assert "!!  data        dataset.path=/none is not there" in done.out


def test_packages_of_another_version_are_named(monkeypatch):
    monkeypatch.setattr(checkup, "_version", lambda name: None if name == "wandb" else "1.0")
    (line,) = found()["packages"]
    assert "wandb missing" in line.found and "expected tensorflow 2." in line.hint and "wandb 0." in line.hint


def test_runs_that_are_held_and_runs_whose_process_is_gone(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / ".leases").mkdir()
    for name, pid in (("dead", gone.pid), ("alive", os.getpid())):
        owner = {"attempt": "1", "pid": pid, "host": platform.node()}
        (tmp_path / ".leases" / f"{name}.json").write_text(json.dumps(owner))
    alive, dead = sorted(line.found for line in found(f"storage={tmp_path}")["run"])
    assert alive == f"alive: held by process {os.getpid()} on {platform.node()}"
    assert dead.startswith(f"dead: process {gone.pid} on {platform.node()} is gone")


def test_wandb_without_a_key(monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    (line,) = found("tracking=wandb")["tracking"]
    assert "without a key" in line.found and "wandb login" in line.hint
    (line,) = found("tracking=wandb", "tracking.mode=offline")["tracking"]
    assert not line.hint


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_a_cluster_that_does_not_answer(cli, tmp_path):
    done = cli("jobs.doctor", f"storage={tmp_path}", "runtime.address=127.0.0.1:9")
    assert done.returncode == 1 and "no Ray cluster answers there" in done.stdout, done.stdout + done.stderr
    assert "RAY_AUTH_TOKEN" in done.stdout and "Traceback" not in done.stderr


def test_what_a_dead_driver_left_is_named(tmp_path):
    """Processes called as Ray's are; those of a live driver, and of a cluster that ray start began, are nobody's."""
    raylet = tmp_path / "raylet"
    raylet.symlink_to("/bin/sleep")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    environments = [{DRIVER_VARIABLE: str(gone.pid)}, {DRIVER_VARIABLE: str(os.getpid())}, {}]
    started = [subprocess.Popen([raylet, "60"], env=environment) for environment in environments]
    try:
        pids = {str(process.pid) for process in started}  # other tests have clusters, too
        ours = [line for line in found().get("process", []) if pids & {*line.found.split()}]
        assert [line.found for line in ours] == [f"raylet {started[0].pid} belongs to no running command"]
        assert ours[0].hint == f"end it: kill {started[0].pid}"
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_a_private_cluster_bears_its_driver(tmp_path):
    script = (
        "from jobs import config, cluster; import psutil, os\n"
        f"made = config.load(['storage={tmp_path}'])\n"
        "with cluster.connected(made):\n"
        "    (found,) = [p for p in psutil.Process().children(True) if p.name() == 'raylet']\n"
        f"    print(found.environ()['{DRIVER_VARIABLE}'] == str(os.getpid()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
