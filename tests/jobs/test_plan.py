"""Sizes derived from data and replicas, and the errors that name the nearest ones that work."""

import dataclasses

import numpy as np
import pytest

from jobs.config import load
from jobs.errors import ConfigError
from jobs.plan import make_plan
from semisup_core.data.splits import Split


def split(unlabelled=1000, labelled=100):
    rows = np.arange(unlabelled)
    return Split(rows[:labelled], rows, rows[:0], rows[:0], seed=0)


def plan(*overrides, replicas=1, classes=10, **sizes):
    return make_plan(load(["dataset=folder", "dataset.path=x", *overrides]), split(**sizes), classes, replicas)


def test_sizes_are_derived_from_the_data():
    derived = plan("trainer.epochs=3", "optimizer.warmup_epochs=1.5")
    assert dataclasses.astuple(derived) == (256, 80, 10, 3, 9, 4)
    assert plan(labelled=5000).labelled_batch == 160 and plan(labelled=15).labelled_batch == 20
    assert plan("trainer.epochs=100").warmup_steps == 15 and plan("trainer.epochs=10").warmup_steps == 3
    assert plan(unlabelled=150).unlabelled_batch == 128
    assert plan(classes=300).classes_per_batch == 128 and plan(classes=300).labelled_batch == 256
    assert plan(classes=2, replicas=8).labelled_batch == 64


def test_sizes_do_not_depend_on_the_replicas():
    assert plan(replicas=1) == plan(replicas=2) == plan(replicas=4)


@pytest.mark.parametrize(
    "overrides, options, words",
    [
        (["trainer.unlabelled_batch=250"], {"replicas": 4}, ["trainer.unlabelled_batch", "4", "248 or 252"]),
        (["trainer.labelled_batch=85"], {}, ["trainer.labelled_batch", "10 classes", "80 or 90"]),
        (["trainer.labelled_batch=90"], {"replicas": 4}, ["4 replicas and 10 classes", "80 or 100"]),
        (["trainer.unlabelled_batch=1001"], {}, ["at most 1000", "set it to 512"]),
        (["dataset.classes_per_batch=11"], {}, ["dataset.classes_per_batch", "at most 10"]),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides, options, words):
    with pytest.raises(ConfigError) as caught:
        plan(*overrides, **options)
    for word in words:
        assert word in str(caught.value)


def test_a_method_is_only_checked_for_what_it_uses():
    plan("method=cross_entropy", "trainer.unlabelled_batch=250", replicas=4, classes=4)
    plan("dataset.balanced=false", "trainer.labelled_batch=85")
