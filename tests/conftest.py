"""What every test process needs: two logical CPU devices, set before TensorFlow starts, and a prepared store."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's workers have niceness 15, and the other tests that run at the same time would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")

import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def two_devices():
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(autouse=True)
def float32():
    """Each test starts in float32, whatever the one before it set."""
    from semisup_core.devices import set_precision

    set_precision("float32")


@pytest.fixture(scope="session")
def storage(tmp_path_factory):
    """A storage folder whose prepared stores are shared by all tests."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="session")
def digits(storage):
    """The prepared store of the digits."""
    from jobs.config import load
    from jobs.prepare import prepare_store

    return prepare_store(load([f"storage={storage}"]), progress=False)


def run_module(*words, timeout=200, cwd=ROOT, **environment):
    """Runs `python -m …` as a user would; returns the completed process with its text output."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def cli():
    """`cli("jobs.train", "key=value")` in a process of its own."""
    return run_module


class ObjectStore:
    """An S3 server on loopback that can go away and come back with what it had."""

    def __init__(self):
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._application, self._port = DomainDispatcherApplication(create_backend_app), 0
        self.running = False

    @property
    def address(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self._port, self._application, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.running = True

    def stop(self):
        self.running = False
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def server():
    """An object store with a bucket named `runs`."""
    store = ObjectStore()
    store.start()
    urllib.request.urlopen(urllib.request.Request(f"{store.address}/runs", method="PUT"), timeout=30).close()
    yield store
    store.stop()


@pytest.fixture(scope="module")
def cloud(server, tmp_path_factory):
    """What a machine with credentials has in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "name")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-nobody-may-see")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("SEMISUP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
