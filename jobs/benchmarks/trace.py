"""Which operations a step spends its time in, by TensorFlow's profiler: a check on stages, which are differences."""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

_LOOP = "/body/"  # in the name of all that a compiled loop over steps does


def operation_seconds(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds in each kind of operation of a compiled loop, most first; those of several threads are added up.

    Args:
        run: a call of it, compiled before.

    Returns:
        By TensorFlow's name of the kind, "Conv2DBackpropFilter" and the like; empty where the trace has none.
    """
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            run()
        files = sorted(Path(folder).rglob("*.xplane.pb"))
        space = xplane_pb2.XSpace.FromString(files[0].read_bytes()) if files else xplane_pb2.XSpace()
    found: Counter[str] = Counter()
    for plane in space.planes:
        names = plane.event_metadata
        for event in (event for line in plane.lines for event in line.events):
            place, _, kind = names[event.metadata_id].name.rpartition(":")
            if _LOOP in place or place == kind:  # in a function that it calls, operations are named anew
                found[_kind(kind)] += event.duration_ps
    return {kind: picoseconds * 1e-12 for kind, picoseconds in found.most_common()}


def _kind(name: str) -> str:
    """Without what oneDNN adds to it: "_MklNativeConv2DBackpropFilterWithBias" is a "Conv2DBackpropFilter"."""
    return name.removeprefix("_Mkl").removeprefix("Native").removeprefix("Fused").removesuffix("WithBias")
