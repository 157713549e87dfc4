"""Every entry of METHODS through the real trainer, pipeline and augmenters: one line in a dict buys all of this."""

from functools import partial

import numpy as np
import pytest
from small_runs import check_equal, distance, outcome

from jobs import build
from semisup_core.data import pipeline
from semisup_core.evaluation.evaluator import Evaluator
from semisup_core.methods import METHODS

EAGER = ["debug.eager=true"]  # for a step or two, tracing costs more than it saves


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def test_declarations_hold(training, method):
    made = training(method)
    assert {view.pool for view in made.method.views} == set(made.config.pools)
    assert (made.method.classifier is not None) == made.config.has_classifier
    names = [view.name for view in made.method.views]
    assert len(set(names)) == len(names)


def test_variable_groups_cover_all_trainable_variables_once(training, method):
    built = training(method).method
    grouped = [id(variable) for group in built.variable_groups() for variable in group.variables]
    trainable = [id(v) for module in built.modules.values() for v in module.trainable_variables]
    assert sorted(grouped) == sorted(trainable)
    for group in built.variable_groups():
        if group.weight_decay:
            assert all(len(variable.shape) > 1 for variable in group.variables)


@pytest.mark.parametrize("encoder", ["conv", "resnet18"])
def test_two_replicas_compute_the_run_of_one(training, method, encoder):
    one = training(method, encoder=encoder)
    two = training(method, encoder=encoder, replicas=2)
    start = one.weights()
    outcome_of_one, outcome_of_two = outcome(one), outcome(two)
    assert distance(outcome_of_one.weights(), start) > 1e-3  # it did train
    check_equal(outcome_of_two, outcome_of_one)


@pytest.mark.parametrize("method", ["cross_entropy", "fixmatch"])  # one pool, and two of different sizes
def test_how_far_batches_are_read_ahead_changes_nothing(training, method, monkeypatch):
    losses = []
    for ahead in (1, 16):
        monkeypatch.setattr(build, "batches", partial(pipeline.batches, ahead=ahead))
        losses.append(training(method, overrides=EAGER, replicas=2).run(2))
    assert np.array_equal(*losses)


def test_every_trainable_variable_gets_a_gradient(training, method):
    # Without decay, a trainable variable that moves has a gradient.
    made = training(method, overrides=["optimizer.weight_decay=0", *EAGER])
    trainable = [v for module in made.method.modules.values() for v in module.trainable_variables]
    before = [variable.numpy() for variable in trainable]
    made.run(3)
    assert not [v.path for v, old in zip(trainable, before, strict=True) if np.array_equal(v.numpy(), old)]


def test_small_runs_use_some_of_fixmatchs_predictions(training):
    shares = training("fixmatch").logs(20)["confident_share"]
    assert ((0 < shares) & (shares < 1)).any()


def test_bfloat16_on_two_replicas_trains_with_losses_close_to_float32(training, method):
    half = training(method, precision="mixed_bfloat16", replicas=2)
    full = training(method, precision="float32", overrides=EAGER)
    # bfloat16 has 8 bits of mantissa: one step differs by about a hundredth, a wrong cast by far more. Of the largest
    # term, because a loss can be the small difference of large ones.
    halved, exact = half.logs(1), full.logs(1)
    largest = max(float(abs(values[0])) for values in exact.values())
    assert halved["loss"][0] == pytest.approx(exact["loss"][0], abs=0.05 * largest)
    assert np.isfinite(half.run(5)).all()
    assert all(value.dtype == np.float32 for value in half.weights().values() if value.dtype.kind == "f")


def test_encoder_can_be_evaluated(training, digits, method):
    made = training(method, precision="float32", overrides=EAGER)
    made.run(2)
    evaluator = Evaluator(made.method, digits, made.split)
    measured = evaluator.measure("validation", made.config.evaluation.protocols)
    assert [result.protocol for result in measured] == list(made.config.evaluation.protocols)
    assert all(0 <= result.accuracy <= 1 and result.images == 50 for result in measured)
