"""Losses over more pairs than fit in memory at once: the same numbers, in bounded memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from semisup_core import chunks
from semisup_core.methods.moco import queue_cross_entropy
from semisup_core.similarity import info_nce, neighbour_cross_entropy, nt_xent, soft_nearest_neighbours

ANCHORS, REFERENCES, WIDTH = 13, 40, 6
PLACES = np.arange(ANCHORS, dtype=np.int32) + 3
LABELS = np.random.default_rng(3).integers(0, 9, REFERENCES).astype(np.int32)
TARGETS = np.eye(9)[LABELS]


def own(references):
    """The references, as anchors where those are among them."""
    return tf.gather(references, PLACES)


FUNCTIONS = {
    "info_nce": lambda anchors, references: info_nce(anchors, references, PLACES, 0.3),
    "nt_xent": lambda anchors, references: nt_xent(anchors, references, 2 * references, PLACES, 0.3),
    "soft_nearest_neighbours": lambda anchors, references: soft_nearest_neighbours(anchors, references, TARGETS, 0.3),
    "neighbour_cross_entropy": lambda anchors, references: neighbour_cross_entropy(
        own(references) + anchors, LABELS[PLACES], references, LABELS, PLACES, 0.3
    )[0],
    "queue_cross_entropy": lambda anchors, references: queue_cross_entropy(
        anchors, tf.stop_gradient(own(references)), references, 0.3
    ),
}


def values_and_gradients(function, compiled):
    rng = np.random.default_rng(0)
    anchors, references = (tf.constant(rng.normal(size=(rows, WIDTH))) for rows in (ANCHORS, REFERENCES))

    def both():
        with tf.GradientTape() as tape:
            tape.watch([anchors, references])
            values = function(anchors, references)
            loss = tf.reduce_sum(tf.square(values))  # an upstream gradient that differs from row to row
        return [values, *map(tf.convert_to_tensor, tape.gradient(loss, [anchors, references]))]

    return tf.function(both)() if compiled else both()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_blocks_change_nothing(monkeypatch, name, compiled):
    """13 anchors in blocks of 3, the last of them not full; values and both gradients."""
    whole = values_and_gradients(FUNCTIONS[name], compiled)
    columns = REFERENCES * (2 if name == "nt_xent" else 1)
    monkeypatch.setattr(chunks, "LARGEST_BLOCK", 3 * columns)
    called = []
    monkeypatch.setattr(chunks, "_blockwise", lambda *given, real=chunks._blockwise: called.append(1) or real(*given))
    blocks = values_and_gradients(FUNCTIONS[name], compiled)
    assert called
    for ours, wanted in zip(blocks, whole, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-13)


def test_half_precision_goes_in(monkeypatch):
    monkeypatch.setattr(chunks, "LARGEST_BLOCK", 30)
    rows = tf.cast(tf.random.stateless_normal((10, 4), (0, 0)), tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        losses = info_nce(rows, rows, tf.range(10), 0.3)
    assert losses.dtype == tf.float32 and tape.gradient(losses, rows).dtype == tf.bfloat16


PEAK = """
import json, sys
import tensorflow as tf
from semisup_core import chunks
from semisup_core.similarity import neighbour_cross_entropy

def peak():
    lines = open("/proc/self/status").read().splitlines()  # getrusage knows what the parent had, too
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10  # MiB

@tf.function
def step(features):
    rows = features.shape[0]
    with tf.GradientTape() as tape:
        tape.watch(features)
        labels = tf.range(rows) % 10
        loss = tf.reduce_mean(neighbour_cross_entropy(features, labels, features, labels, tf.range(rows), 0.1)[0])
    return loss, tape.gradient(loss, features)

step(tf.random.stateless_normal((64, 128), (0, 0)))
before = peak()
chunks.LARGEST_BLOCK = int(sys.argv[2])
loss, gradient = step(tf.random.stateless_normal((int(sys.argv[1]), 128), (0, 0)))
print(json.dumps({"mib": peak() - before, "loss": float(loss), "norm": float(tf.norm(gradient))}))
"""


def measured(rows, largest):
    command = [sys.executable, "-c", PEAK, str(rows), str(largest)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_memory_is_bounded_at_a_batch_of_4096():
    """The whole matrix is 64 MiB, a loss holds several, how many is up to the order of operations; blocks are 4 MiB."""
    whole, blocks = measured(4096, 2**24), measured(4096, 2**20)
    assert blocks["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert blocks["norm"] == pytest.approx(whole["norm"], rel=1e-4)
    assert whole["mib"] > 2 * 64 and blocks["mib"] < whole["mib"] / 2


@pytest.mark.slow
def test_memory_is_bounded_at_a_batch_of_32768():
    """The whole matrix is 4 GiB; what is held is a few blocks of 64 MiB."""
    blocks = measured(32768, chunks.LARGEST_BLOCK)
    assert np.isfinite(blocks["norm"]) and blocks["mib"] < 12 * 64


def test_blocks_are_no_more_than_the_anchors_fill(monkeypatch):
    """13 anchors that fit one at a time are 13 blocks, however many the pairs would suggest."""
    monkeypatch.setattr(chunks, "LARGEST_BLOCK", 5)
    blocks = []
    monkeypatch.setattr(
        chunks,
        "_blockwise",
        lambda function, rows: lambda anchors, *others: blocks.append(anchors.shape[:2]) or anchors[..., 0],
    )
    info_nce(tf.ones((13, 4)), tf.ones((40, 4)), tf.range(13), 0.3)
    assert blocks == [(13, 1)]
