"""A Ray head as `ray start --head` makes it, which asks for a token."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

TOKEN = "a-token-that-nobody-may-see"


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ray_head(cores=4):
    """(address, dashboard's address); processes that start inside have the token."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        port, dashboard = (free.getsockname()[1] for free in (first, second))
    words = ["start", "--head", "--block", f"--port={port}", f"--num-cpus={cores}", f"--dashboard-port={dashboard}"]
    words += ["--dashboard-agent-listen-port=0"]  # another cluster on the machine may hold the default one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # jobs say `python`
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *words], stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            until = time.monotonic() + 100
            while not all(map(listens, (port, dashboard))):
                assert time.monotonic() < until and process.poll() is None
                time.sleep(0.1)
            yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
