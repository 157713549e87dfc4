"""What a run needs of its surroundings, looked at one by one; changes nothing."""

import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from jobs.errors import UnavailableError
from jobs.runtime import DRIVER_VARIABLE
from jobs.schema import RunConfig
from jobs.storage import FolderStorage, Storage, open_storage

_CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
_PACKAGES = ("tensorflow", "keras", "ray", "wandb", "omegaconf", "optuna", "tensorflow-datasets", "scikit-learn")
_PYTHON = ((3, 11), (3, 13))
_MEMORY_GB, _DISK_GB = 2.0, 2.0  # of a worker with its libraries; of a small run with its data


class Line(NamedTuple):
    """What one look found.

    Attributes:
        topic: what it was about.
        found: in words.
        hint: what to do about it; "" when all is well.
    """

    topic: str
    found: str
    hint: str = ""


def look(config: RunConfig) -> Iterator[Line]:
    """Looks at everything that a configuration needs."""
    for check in _CHECKS:
        yield from check(config)


def _versions(config: RunConfig) -> Iterator[Line]:
    lowest, highest = (".".join(map(str, each)) for each in _PYTHON)
    hint = "" if _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1] else f"use Python {lowest} to {highest}"
    yield Line("python", platform.python_version(), hint)
    lines = _CONSTRAINTS.read_text().splitlines()
    pinned = dict(line.split(";")[0].strip().split("==") for line in lines if "==" in line)
    found = {name: _version(name) for name in _PACKAGES}
    wrong = [f"{name} {pinned[name]}" for name in _PACKAGES if found[name] != pinned[name]]
    shown = ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    hint = f"expected {', '.join(wrong)}: make setup, or pip install -r constraints.txt" if wrong else ""
    yield Line("packages", shown, hint)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices(config: RunConfig) -> Iterator[Line]:
    from jobs.quiet import quiet_imports

    with quiet_imports():
        import tensorflow as tf

        from semisup_core.devices import processor
    model, bf16 = processor()
    fast = f"bfloat16 in hardware ({', '.join(bf16)})" if bf16 else "no bfloat16 in hardware: leave precision=float32"
    yield Line("processor", f"{model}, {os.cpu_count()} cores, {fast}")
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        yield Line("gpu", f"{details.get('device_name', gpu.name)}, {_gpu_memory(gpu.name)}")
    if shutil.which("nvidia-smi") and not tf.config.list_physical_devices("GPU"):
        hint = "install its CUDA libraries: pip install -e '.[gpu]' -c constraints.txt"
        yield Line("gpu", "there is a driver, and TensorFlow sees no GPU", hint)


def _gpu_memory(name: str) -> str:
    import subprocess

    index = name.rsplit(":", 1)[-1]
    words = ["nvidia-smi", f"--id={index}", "--query-gpu=memory.free,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "memory unknown"
    free, total = (part.strip() for part in done.stdout.split(","))
    return f"{free} of {total} free"


def _memory(config: RunConfig) -> Iterator[Line]:
    import psutil

    memory = psutil.virtual_memory()
    free, hint = memory.available / 1e9, ""
    if free < _MEMORY_GB:
        hint = f"a worker wants {_MEMORY_GB:.0f} GB: close what else runs, or use a larger machine"
    yield Line("memory", f"{free:.1f} of {memory.total / 1e9:.1f} GB free", hint)


def _ray(config: RunConfig) -> Iterator[Line]:
    address = config.runtime.address or os.environ.get("RAY_ADDRESS")
    if config.runtime.name == "local":
        yield Line("ray", "not needed with runtime=local")
        return
    if address in (None, "local"):
        yield Line("ray", "each run starts a private cluster on this machine; runtime.address=HOST:PORT joins another")
        return
    import ray

    from jobs.cluster import connected
    from jobs.resources import nodes

    try:
        with connected(config):
            found = ", ".join(f"{cpus:g} cores and {gpus} GPUs" for cpus, gpus in nodes())
            token = "with a token" if os.environ.get("RAY_AUTH_MODE") == "token" else "without a token"
            yield Line("ray", f"{address} answers {token}: nodes of {found}; Ray {ray.__version__}")
    except UnavailableError as error:
        yield Line("ray", str(error), "start it, mend the address, or set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN")


def _storage(config: RunConfig) -> Iterator[Line]:
    from jobs.prepare import STORES

    try:
        storage = open_storage(config.storage)
        storage.check()
        prepared = [name for name in storage.names(storage.root / STORES) if not name.startswith(".")]
        leases = list(_leases(storage))
    except (UnavailableError, OSError) as error:
        yield Line("storage", f"{config.storage}: {error}", "mend its rights or address, or choose another storage=…")
        return
    if isinstance(storage, FolderStorage):
        there = next(path for path in (storage.root, *storage.root.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        hint = f"runs and data want {_DISK_GB:.0f} GB or more: make room" if free < _DISK_GB else ""
        yield Line("storage", f"{storage.url} can be written, {free:.1f} GB free", hint)
    else:
        yield Line("storage", f"{storage.url} can be written")
    yield Line("storage", f"{len(prepared)} prepared data sets: {', '.join(sorted(prepared)) or 'none yet'}")
    yield from leases


def _leases(storage: Storage) -> Iterator[Line]:
    """Attempts at runs that are alive, and those whose process is gone."""
    for name in storage.names(storage.root / ".leases"):
        if not name.endswith(".json"):
            continue
        owner = json.loads(storage.read(storage.root / ".leases" / name) or b"null")
        if not owner:
            continue
        run = name.removesuffix(".json")
        where = f"process {owner['pid']} on {owner['host']}"
        if owner["host"] == socket.gethostname() and not Path(f"/proc/{owner['pid']}").exists():
            yield Line("run", f"{run}: {where} is gone; its command, or python -m jobs.runs, goes on with it")
        else:
            yield Line("run", f"{run}: held by {where}")


def _left_processes(config: RunConfig) -> Iterator[Line]:
    """Ray's processes that have outlived the driver of a private cluster."""
    import psutil

    for process in psutil.process_iter(["pid", "name"]):
        if process.info["name"] not in ("raylet", "gcs_server"):
            continue
        try:
            driver = process.environ().get(DRIVER_VARIABLE)
        except psutil.Error:  # another user's, or over by now
            continue
        if driver and not _runs(int(driver)):
            pid, name = process.info["pid"], process.info["name"]
            yield Line("process", f"{name} {pid} belongs to no running command", f"end it: kill {pid}")


def _runs(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _tracking(config: RunConfig) -> Iterator[Line]:
    if config.tracking.name != "wandb":
        yield Line("tracking", "local files; tracking=wandb sends them to Weights & Biases, too")
        return
    from jobs.wandb_run import has_key

    if config.tracking.mode == "offline":
        yield Line("tracking", "Weights & Biases, offline")
    elif has_key():
        yield Line("tracking", f"Weights & Biases, online, project {config.tracking.project}")
    else:
        yield Line("tracking", "Weights & Biases without a key: runs log offline", "wandb login, or set WANDB_API_KEY")


def _data(config: RunConfig) -> Iterator[Line]:
    dataset = config.dataset
    path = getattr(dataset, "path", None)
    if path and not Path(path).expanduser().exists():
        from jobs.prepare import made_before

        with suppress(UnavailableError, OSError):
            if made := made_before(dataset, open_storage(config.storage)):
                yield Line("data", f"dataset.path={path} is not here; the store {made[0]} is, {made[1]}")
                return
        hint = f"mend the path, or run jobs.data with the same words and storage={config.storage} where the data are"
        yield Line("data", f"dataset.path={path} is not there", hint)
    elif path:
        yield Line("data", f"{dataset.name} in {path}; python -m jobs.data with the same words shows what is in it")
    else:
        yield Line("data", f"{dataset.name}, which is downloaded or ships with a package")


_CHECKS: tuple[Callable[[RunConfig], Iterator[Line]], ...] = (
    _versions,
    _devices,
    _memory,
    _ray,
    _storage,
    _left_processes,
    _tracking,
    _data,
)
