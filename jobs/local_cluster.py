"""A Ray cluster on this machine whose nodes come when they are asked for and leave when idle, as on a cloud.

The head has no cores. Each node is a set of processes of its own under Ray's fake provider for its autoscaler; to
end one by force is what a spot machine does when it is taken away.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from jobs.errors import UnavailableError

_START_SECONDS = 120.0
_TOLD = 1000  # characters of its log
_FAKE_HEAD = "ray.head.default"  # the name of the head's type that the fake provider knows


class LocalCluster(NamedTuple):
    """A running one.

    Attributes:
        address: of the head.
        dashboard: address of its job server.
        environment: what processes need to be let in.
    """

    address: str
    dashboard: str
    environment: dict[str, str]


@contextmanager
def local_cluster(folder: Path, most_nodes: int, idle_minutes: float = 0.3) -> Iterator[LocalCluster]:
    """Starts one, and ends it with all its processes.

    Args:
        folder: for its log and configuration.
        most_nodes: of one core each.
        idle_minutes: after which a node leaves.

    Raises:
        UnavailableError: it did not start.
    """
    port, dashboard = _free_ports(2)
    address = f"127.0.0.1:{port}"
    (folder / "autoscaler.json").write_text(json.dumps(_autoscaler(address, most_nodes, idle_minutes)))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    quick = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "AUTOSCALER_HEARTBEAT_TIMEOUT_S": "5"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    words += ["--num-cpus=0", f"--dashboard-port={dashboard}", f"--autoscaling-config={folder / 'autoscaler.json'}"]
    words += ["--dashboard-agent-listen-port=0"]  # the default is one port a machine, and without it no job starts
    with open(folder / "head.log", "w") as log:
        head = subprocess.Popen(
            words,
            env={**os.environ, **token, **quick, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own group, so that it ends with all its nodes
        )
    try:
        until = time.monotonic() + _START_SECONDS
        while not all(map(_listens, (port, dashboard))):
            if head.poll() is not None or time.monotonic() > until:
                said = (folder / "head.log").read_text()[-_TOLD:]
                raise UnavailableError(f"the local cluster did not start; the last that it said: {said}")
            time.sleep(0.1)
        yield LocalCluster(address, f"http://127.0.0.1:{dashboard}", token)
    finally:
        nodes = []  # each is a session of its own
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            nodes = psutil.Process(head.pid).children(recursive=True)
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        for process in nodes:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _autoscaler(address: str, most_nodes: int, idle_minutes: float) -> dict[str, Any]:
    provider = {
        "type": "fake_multinode",
        "gcs_address": address,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    lists = ["initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"]
    return {
        "cluster_name": "rehearsal",
        "provider": provider,
        "max_workers": most_nodes,
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": most_nodes,
        "head_node_type": _FAKE_HEAD,
        "available_node_types": {
            _FAKE_HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "spot": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most_nodes},
        },
        **{f"{name}_commands": [] for name in lists},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def take_away(worker: int) -> None:
    """Ends the node of a worker process with all that runs on it at once, as a cloud does.

    Args:
        worker: process id; Ray starts workers as children of their node's process.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    node = psutil.Process(worker).parent()
    assert node is not None  # the init process is no worker
    for process in [node, *node.children(recursive=True)]:  # without its node, a worker may go on for some seconds
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until(what: Callable[[], Any], seconds: float, alive: Callable[[], bool] = lambda: True) -> Any:
    """What a function returns as soon as that is something.

    Raises:
        UnavailableError: not in time, or what it waits for is over.
    """
    until = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > until or not alive():
            raise UnavailableError(f"the rehearsal waited {seconds:.0f} s in vain")
        time.sleep(0.1)
    return found
