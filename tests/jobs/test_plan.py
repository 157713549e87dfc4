"""Sizes derived from data and replicas, and the errors that name the nearest ones that work."""

import dataclasses

import numpy as np
import pytest

from jobs.config import load
from jobs.errors import ConfigError
from jobs.layers import members
from jobs.plan import check_workers, make_plan
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


@pytest.mark.parametrize("method", sorted({*members("method")} - {"fine_tune", "linear_probe"}))
@pytest.mark.parametrize("classes", [2, 7, 10])
def test_the_sizes_of_every_method_file_suit_any_number_of_classes(method, classes):
    assert plan(f"method={method}", classes=classes).steps_per_epoch > 0


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


def fits(workers, *overrides, replicas_per_worker=1, **sizes):
    config = load(["dataset=folder", "dataset.path=x", f"runtime.num_workers={list(workers)}", *overrides])
    replicas = {number: number * replicas_per_worker for number in config.runtime.workers}
    check_workers(config, split(**sizes), 10, replicas)


def test_a_range_of_workers_that_all_divide_the_batches():
    fits((1, 2))
    fits((2, 3), "trainer.unlabelled_batch=240", "trainer.labelled_batch=60")


@pytest.mark.parametrize(
    "workers, options, words",
    [
        ((1, 4), {}, ["runtime.num_workers", "such as [1,2],", "got [1,4]", "with 3: trainer.unlabelled_batch"]),
        ((1, 5), {}, ["such as [1,2],"]),
        ((3, 5), {}, ["such as [4,4],"]),
        ((2, 6), {"replicas_per_worker": 2}, ["such as [2,2] or [4,4],"]),
        ((6, 7), {}, ["which none of these does, got [6,7]; with 6: trainer.unlabelled_batch"]),
    ],
)
def test_a_range_with_a_number_that_does_not_divide_names_those_that_do(workers, options, words):
    with pytest.raises(ConfigError) as caught:
        fits(workers, "trainer.unlabelled_batch=256", "trainer.labelled_batch=80", **options)
    for word in words:
        assert word in str(caught.value)


def test_one_number_that_does_not_divide_is_about_the_batch():
    with pytest.raises(ConfigError, match="^trainer.unlabelled_batch: expected a multiple of 3"):
        fits((3, 3), "trainer.unlabelled_batch=256")
