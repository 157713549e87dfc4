"""The equality tests can fail: whatever a distributed loss may forget makes two replicas another run."""

from functools import partial

import pytest
import tensorflow as tf
from small_runs import check_equal, outcome

from semisup_core import layers
from semisup_core.replica import Replica
from semisup_core.similarity import at_least_float32

STEPS = 2  # a local queue shows in the second loss, a wrong gradient too


class OwnRows(Replica):
    """Compares a replica's rows with each other only."""

    def all_gather(self, values):
        return at_least_float32(values)

    def positions(self, rows):
        return tf.range(rows)


class OwnRowsAgain(Replica):
    """Gathers the right number of rows, all of them its own."""

    def all_gather(self, values):
        return tf.concat([at_least_float32(values)] * self.count, axis=0)


class OwnMean(Replica):
    def mean(self, values):
        return at_least_float32(values)


class OwnSum(Replica):
    def sums(self, values):
        return [at_least_float32(value) for value in values]


class OwnMeanWhere(Replica):
    def mean_where(self, values, keep):
        values = at_least_float32(values)
        keep = tf.cast(keep, values.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(values * keep), tf.reduce_sum(keep))


class OwnClipping(Replica):
    """Limits each replica's gradient by its own norm, as an optimiser's clipnorm would."""

    def sums(self, values):
        return super().sums(tf.clip_by_global_norm(values, CLIP / self.count)[0])


class NoDivision(Replica):
    def scale(self, loss):
        return loss


def in_the_loss(broken, monkeypatch, run):
    loss = run.method.loss
    monkeypatch.setattr(run.method, "loss", lambda batch, progress, replica: loss(batch, progress, broken()))


def in_batch_norm(broken, monkeypatch, run):
    monkeypatch.setattr(layers, "Replica", broken)


def in_the_trainer(broken, monkeypatch, run):
    monkeypatch.setattr(run.trainer, "_replica", broken())


# Clipping and Adam take the size out of a gradient, almost.
CLIP = 0.05  # less than any first gradient
FOLLOWS_THE_SIZE = ["optimizer.name=sgd", "optimizer.clip=null"]

CASES = {
    "info_nce without the other replica's keys": ("info_nce", partial(in_the_loss, OwnRows), []),
    "simclr without the other replica's views": ("simclr", partial(in_the_loss, OwnRows), []),
    "suncet without the other replica's labels": ("suncet", partial(in_the_loss, OwnRows), []),
    "suncet with its own sums": ("suncet", partial(in_the_loss, OwnSum), []),
    # Balanced batches give every row a partner on every replica, and then its own number of rows would do.
    "suncet with its own number of rows": ("suncet", partial(in_the_loss, OwnMeanWhere), ["dataset.balanced=false"]),
    "paws without the other replica's support": ("paws", partial(in_the_loss, OwnRows), []),
    "paws with its own mean under the entropy": ("paws", partial(in_the_loss, OwnMean), []),
    "moco with its own keys in the queue": ("moco", partial(in_the_loss, OwnRowsAgain), []),
    "BatchNorm with its own mean": ("byol", partial(in_batch_norm, OwnMean), []),
    "cross_entropy without 1/R": ("cross_entropy", partial(in_the_trainer, NoDivision), FOLLOWS_THE_SIZE),
    "cross_entropy clipped by its own norm": (
        "cross_entropy",
        partial(in_the_trainer, OwnClipping),
        ["optimizer.name=sgd", f"optimizer.clip={CLIP}"],
    ),
    "fixmatch with its own gradient": ("fixmatch", partial(in_the_trainer, OwnSum), []),
}


@pytest.mark.parametrize("method, breaks, overrides", CASES.values(), ids=CASES)
def test_a_broken_collective_is_noticed(training, monkeypatch, method, breaks, overrides):
    overrides = ["debug.eager=true", *overrides]  # for a few steps, tracing costs more than it saves
    one = outcome(training(method, overrides=overrides), STEPS)
    if len(overrides) > 1:  # else test_methods.py shows that two whole ones are equal to it
        check_equal(outcome(training(method, replicas=2, overrides=overrides), STEPS), one)
    run = training(method, replicas=2, overrides=overrides)
    breaks(monkeypatch, run)
    with pytest.raises(AssertionError, match=r"\b(loss|weights)\b"):
        check_equal(outcome(run, STEPS), one)
