"""Every entry of METHODS through the real trainer, pipeline and augmenters: one line in a dict buys all of this."""

import numpy as np
import pytest
import tensorflow as tf

from semisup_core.evaluation.evaluator import Evaluator
from semisup_core.methods import METHODS
from semisup_core.replica import Replica

STEPS = 20
EAGER = ["debug.eager=true"]  # for a step or two, tracing costs more than it saves


def distance(a, b):
    """|a - b| / |b| over all arrays of two states."""
    assert a.keys() == b.keys()
    difference = sum(np.sum((a[name] - b[name]) ** 2) for name in b)
    return float(np.sqrt(difference / sum(np.sum(b[name] ** 2) for name in b)))


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


def test_two_replicas_compute_the_run_of_one(training, method, encoder):
    one = training(method, encoder=encoder)
    two = training(method, encoder=encoder, replicas=2)
    start = one.weights()
    losses_of_one, losses_of_two = one.run(STEPS), two.run(STEPS)
    assert np.allclose(losses_of_one, losses_of_two, rtol=1e-9, atol=0)
    assert distance(one.weights(), start) > 1e-3  # it did train
    assert distance(two.weights(), one.weights()) <= 1e-9
    for module in two.method.modules.values():
        for variable in module.variables:
            copies = [copy.numpy() for copy in two.strategy.experimental_local_results(variable.value)]
            assert len(copies) == 2 and np.array_equal(copies[0], copies[1]), variable.path


def test_a_resume_in_mid_epoch_and_other_steps_per_call_change_nothing(training, method):
    straight = training(method)
    losses = straight.run(10, per_call=5)
    first = training(method)
    assert np.array_equal(first.run(4, per_call=1), losses[:4])
    second = training(method)
    second.trainer.load_state(first.trainer.state(), 4)
    assert np.array_equal(second.run(6, per_call=4), losses[4:])
    assert distance(second.trainer.state(), straight.trainer.state()) == 0


def test_every_trainable_variable_gets_a_gradient(training, method):
    # Without decay, a variable that moves has a gradient.
    made = training(method, overrides=["optimizer.weight_decay=0"])
    before = made.weights()
    made.run(3)
    after = made.weights()
    names = [name for name in before if "moving" not in name]
    assert all(not np.array_equal(before[name], after[name]) for name in names)


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


@pytest.mark.parametrize("method", [name for name, (params, _) in METHODS.items() if not params.has_classifier])
def test_no_gather_means_another_loss(training, method, monkeypatch):
    """The equality test can fail: without the gather, two replicas compare with half the references."""
    monkeypatch.setattr(Replica, "all_gather", lambda self, values: values)
    monkeypatch.setattr(Replica, "positions", lambda self, rows: tf.range(rows))
    broken = training(method, replicas=2, overrides=EAGER).run(1)
    monkeypatch.undo()
    right = training(method, replicas=2, overrides=EAGER).run(1)
    assert not np.allclose(broken, right, rtol=1e-3)


def test_encoder_can_be_evaluated(training, digits, method):
    made = training(method, precision="float32")
    made.run(2)
    evaluator = Evaluator(made.method, digits, made.split)
    measured = evaluator.measure("validation", made.config.evaluation.protocols)
    assert [result.protocol for result in measured] == list(made.config.evaluation.protocols)
    assert all(0 <= result.accuracy <= 1 and result.images == 50 for result in measured)
