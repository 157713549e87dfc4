"""Devices, precision and threads of one process; called once, before anything else touches TensorFlow."""

import math
import os
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import keras
import tensorflow as tf


def set_precision(precision: str) -> None:
    """Sets the precision of all layers built from now on.

    Args:
        precision: "float32", "mixed_bfloat16" (bfloat16 arithmetic, float32 variables and losses) or "float64".
    """
    keras.config.set_floatx("float64" if precision == "float64" else "float32")
    keras.config.set_dtype_policy(precision)
    # Recent GPUs round float32 products to 10 bits of mantissa unless told otherwise; float32 here means float32.
    tf.config.experimental.enable_tensor_float_32_execution(False)


def set_threads(cpus: float | None) -> None:
    """Limits TensorFlow's threads to a share of the cores; has no effect once TensorFlow has started."""
    if cpus and tf.config.threading.get_intra_op_parallelism_threads() == 0:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(max(1, math.ceil(cpus)))
        except RuntimeError:  # already started: a reused process keeps the threads it has
            return


def processor() -> tuple[str, Sequence[str]]:
    """The model of the CPU, and its instructions for products in bfloat16."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    fast = [name for name in ("amx_bf16", "avx512_bf16") if name in facts.get("flags", "").split()]
    return facts.get("model name", platform.processor()), fast


def threads() -> int:
    """Threads that one operation may use."""
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1


def anonymous_mib() -> float:
    """Memory that belongs to this process alone, in MiB: without the pages of files, such as a store's."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def device_names() -> list[str]:
    """The devices of this process that train: its GPUs by model, or the CPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus] or ["CPU"]


def make_strategy(
    world_size: int = 1, logical_devices: int = 1, eager: bool = False, all_reduce: str = "auto"
) -> tf.distribute.Strategy:
    """The strategy of this process: mirrored over its devices, multi-worker when there are several processes.

    Args:
        world_size: processes in all; beyond 1, TF_CONFIG must describe them.
        logical_devices: parts into which the CPU is split when there is no GPU.
        eager: of a single device, compute in the calling thread, the only one that a debugger stops in.
        all_reduce: "auto", "nccl", or "ring" for a ring of processes and copies between the GPUs of one.

    Raises:
        ValueError: the CPU is already split into fewer parts, or there are GPUs to use instead, or none for NCCL.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if all_reduce == "nccl" and not gpus:
        raise ValueError("expected GPUs for an all-reduce by NCCL, found none")
    if world_size > 1:
        # No timeout for collectives: TensorFlow holds a thread for each until its timeout is over, whether or not it
        # is done long before, and a run of a few hundred steps would use up the threads of the machine.
        kind = tf.distribute.experimental.CommunicationImplementation[all_reduce.upper()]
        options = tf.distribute.experimental.CommunicationOptions(implementation=kind)
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    os.environ.pop("TF_CONFIG", None)
    if gpus and logical_devices > 1:
        raise ValueError(f"expected no GPU when the CPU is split into {logical_devices}, found {len(gpus)}")
    if not gpus:
        _split_cpu(logical_devices)
    devices = tuple(f"GPU:{i}" for i in range(len(gpus))) or tuple(f"CPU:{i}" for i in range(logical_devices))
    if eager and len(devices) == 1:
        return tf.distribute.OneDeviceStrategy(devices[0])
    return _mirrored(devices, all_reduce if gpus else "auto")


@cache
def _mirrored(devices: tuple[str, ...], all_reduce: str) -> tf.distribute.Strategy:
    # One a process: a second strategy over the same devices would number its collectives from the start again, and
    # TensorFlow takes them for the first one's.
    ways = {"nccl": tf.distribute.NcclAllReduce, "ring": tf.distribute.HierarchicalCopyAllReduce}
    return tf.distribute.MirroredStrategy(devices, ways[all_reduce]() if all_reduce in ways else None)


def _split_cpu(parts: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    if parts > 1 and tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * parts)
    found = len(tf.config.list_logical_devices("CPU"))
    if found < parts:
        raise ValueError(f"expected {parts} logical CPU devices, this process already started with {found}")
