"""Every entry of METHODS through the real trainer, pipeline and augmenters: one line in a dict buys all of this."""

import numpy as np
import pytest
import tensorflow as tf

from jobs.build import build_iterator, build_streams, build_training
from jobs.config import load
from jobs.plan import make_plan
from jobs.prepare import split_of
from semisup_core.devices import make_strategy, set_precision
from semisup_core.evaluation.evaluator import Evaluator
from semisup_core.methods import METHODS
from semisup_core.replica import Replica

STEPS = 20
NARROW = {"conv": ["encoder=conv", "encoder.width=8"], "resnet18": ["encoder=resnet18", "encoder.width=4"]}
# Everything that could depend on R is on: BatchNorm, heads, clipping, weight decay, warm-up.
COMMON = [
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.steps_per_epoch=6",
    "trainer.epochs=5",
    "optimizer.clip=0.5",
    "optimizer.weight_decay=0.01",
    "optimizer.warmup_epochs=1",
    "augmentation=natural",
    "augmentation.strong.rotation=10",
    "dataset.image_size=32",
]

EAGER = ["debug.eager=true"]  # for a step or two, tracing costs more than it saves


class Training:
    """A method under training, as the worker loop builds it."""

    def __init__(self, store, storage, method, *, encoder="conv", replicas=1, precision="float64", overrides=()):
        words = [f"method={method}", *NARROW[encoder], *COMMON, f"trainer.precision={precision}", *overrides]
        self.config = load([f"storage={storage}", *words])
        set_precision(precision)
        self.strategy = make_strategy(1, replicas)
        self.store, self.split = store, split_of(self.config, store)
        self.plan = make_plan(self.config, self.split, len(store.class_names), replicas)
        self.streams = build_streams(self.config, store, self.split, self.plan)
        self.method, self.trainer = build_training(self.config, store, self.plan, self.strategy)
        self.iterator = None

    def run(self, steps, per_call=5):
        if self.iterator is None:
            self.iterator = build_iterator(self.store, self.streams, self.strategy, self.trainer.step, 0, 1)
        calls = [min(per_call, steps - done) for done in range(0, steps, per_call)]
        return np.concatenate([self.trainer.run(self.iterator, call)["loss"] for call in calls])

    def weights(self):
        return {k: v for k, v in self.trainer.state().items() if not k.startswith("optimizer")}


def distance(a, b):
    """|a - b| / |b| over all arrays of two states."""
    assert a.keys() == b.keys()
    difference = sum(np.sum((a[name] - b[name]) ** 2) for name in b)
    return float(np.sqrt(difference / sum(np.sum(b[name] ** 2) for name in b)))


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def test_declarations_hold(digits, storage, method):
    training = Training(digits, storage, method)
    params = METHODS[method][0]
    assert {view.pool for view in training.method.views} == set(params.pools)
    assert (training.method.classifier is not None) == params.has_classifier
    names = [view.name for view in training.method.views]
    assert len(set(names)) == len(names)


def test_variable_groups_cover_all_trainable_variables_once(digits, storage, method):
    built = Training(digits, storage, method).method
    grouped = [id(variable) for group in built.variable_groups() for variable in group.variables]
    trainable = [id(v) for module in built.modules.values() for v in module.trainable_variables]
    assert sorted(grouped) == sorted(trainable)
    for group in built.variable_groups():
        if group.weight_decay:
            assert all(len(variable.shape) > 1 for variable in group.variables)


@pytest.mark.parametrize("encoder", NARROW)
def test_two_replicas_compute_the_run_of_one(digits, storage, method, encoder):
    one = Training(digits, storage, method, encoder=encoder)
    two = Training(digits, storage, method, encoder=encoder, replicas=2)
    start = one.weights()
    losses_of_one, losses_of_two = one.run(STEPS), two.run(STEPS)
    assert np.allclose(losses_of_one, losses_of_two, rtol=1e-9, atol=0)
    assert distance(one.weights(), start) > 1e-3  # it did train
    assert distance(two.weights(), one.weights()) <= 1e-9
    for module in two.method.modules.values():
        for variable in module.variables:
            copies = [copy.numpy() for copy in two.strategy.experimental_local_results(variable.value)]
            assert len(copies) == 2 and np.array_equal(copies[0], copies[1]), variable.path


def test_steps_per_call_change_nothing(digits, storage, method):
    single, several = Training(digits, storage, method), Training(digits, storage, method)
    assert np.array_equal(single.run(7, per_call=1), several.run(7, per_call=4))
    assert distance(single.trainer.state(), several.trainer.state()) == 0


def test_resume_in_mid_epoch_is_exact(digits, storage, method):
    straight = Training(digits, storage, method)
    losses = straight.run(10)
    first = Training(digits, storage, method)
    first.run(4)
    second = Training(digits, storage, method)
    second.trainer.load_state(first.trainer.state(), 4)
    assert np.array_equal(second.run(6), losses[4:])
    assert distance(second.trainer.state(), straight.trainer.state()) == 0


def test_every_trainable_variable_gets_a_gradient(digits, storage, method):
    # Without decay, a variable that moves has a gradient.
    training = Training(digits, storage, method, overrides=["optimizer.weight_decay=0"])
    before = training.weights()
    training.run(3)
    after = training.weights()
    names = [name for name in before if "moving" not in name]
    assert all(not np.array_equal(before[name], after[name]) for name in names)


def test_bfloat16_on_two_replicas_trains_with_losses_close_to_float32(digits, storage, method):
    half = Training(digits, storage, method, precision="mixed_bfloat16", replicas=2)
    full = Training(digits, storage, method, precision="float32", overrides=EAGER)
    # bfloat16 has 8 bits of mantissa: one step differs by about a hundredth, a wrong cast by far more.
    assert half.run(1)[0] == pytest.approx(full.run(1)[0], rel=0.05)
    assert np.isfinite(half.run(5)).all()
    assert all(value.dtype == np.float32 for value in half.weights().values() if value.dtype.kind == "f")


@pytest.mark.parametrize("method", [name for name, (params, _) in METHODS.items() if not params.has_classifier])
def test_no_gather_means_another_loss(digits, storage, method, monkeypatch):
    """The equality test can fail: without the gather, two replicas compare with half the references."""
    monkeypatch.setattr(Replica, "all_gather", lambda self, values: values)
    monkeypatch.setattr(Replica, "positions", lambda self, rows: tf.range(rows))
    broken = Training(digits, storage, method, replicas=2, overrides=EAGER).run(1)
    monkeypatch.undo()
    right = Training(digits, storage, method, replicas=2, overrides=EAGER).run(1)
    assert not np.allclose(broken, right, rtol=1e-3)


def test_encoder_can_be_evaluated(digits, storage, method):
    training = Training(digits, storage, method, precision="float32")
    training.run(2)
    evaluator = Evaluator(training.method, digits, training.split)
    measured = evaluator.measure("validation", training.config.evaluation.protocols)
    assert [result.protocol for result in measured] == list(training.config.evaluation.protocols)
    assert all(0 <= result.accuracy <= 1 and result.images == 50 for result in measured)
