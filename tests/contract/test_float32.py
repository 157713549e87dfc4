"""What float32 can show of two replicas: the first step closely, twenty steps of a shallow network within its drift."""

import dataclasses

import numpy as np
import pytest
from small_runs import distance

from semisup_core.methods import METHODS
from semisup_core.optimizers import GroupOptimizer

STEPS = 20
# Small steps: at 1e-3, some activation soon lies so near zero that rounding decides which side of a ReLU it is on, and
# from there two runs differ by up to 1e-3. That says nothing about replicas.
SMALL_STEPS = ["optimizer.learning_rate=1e-4"]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def without_norm(method):
    """Neither in the encoder nor, but for BYOL's prediction, in the heads."""
    has_head = "projection" in {field.name for field in dataclasses.fields(METHODS[method][0])}
    return ["encoder.batch_norm=false", *(["method.projection=[]"] if has_head else [])]


@pytest.fixture
def first_step(training, method, monkeypatch):
    """(replicas, precision, overrides, weights) -> logged values of step 1 and the gradient that its update takes."""
    given = []
    monkeypatch.setattr(GroupOptimizer, "apply", lambda self, values: given.append([np.asarray(v) for v in values]))

    def run(replicas, precision, overrides=(), weights=None):
        made = training(method, replicas=replicas, precision=precision, overrides=["debug.eager=true", *overrides])
        for name, variable in made.trainer.variables().items() if weights else ():
            variable.assign(weights[name].astype(variable.dtype))
        given.clear()
        terms = {name: float(values[0]) for name, values in made.logs(1).items()}
        assert len(given) == replicas
        return terms, {str(i): gradient for i, gradient in enumerate(given[0])}

    return run


def test_the_first_step(first_step, method):
    (terms, gradient), (terms_of_two, gradient_of_two) = (
        first_step(replicas, "float32", [*without_norm(method), "optimizer.clip=null"]) for replicas in (1, 2)
    )
    assert terms_of_two["loss"] == pytest.approx(terms["loss"], rel=1e-6)
    assert distance(gradient_of_two, gradient) <= 1e-5


def test_the_first_step_with_norm(training, method, first_step):
    # BatchNorm magnifies rounding: one replica's own gradient is up to 1e-4 from the one in float64, and PAWS' loss is
    # the difference of two larger terms.
    weights = training(method, precision="float32").trainer.state()
    terms, gradient = first_step(1, "float64", weights=weights)
    terms_of_two, gradient_of_two = first_step(2, "float32", weights=weights)
    assert terms_of_two["loss"] == pytest.approx(terms["loss"], abs=1e-6 * max(map(abs, terms.values())))
    assert distance(gradient_of_two, gradient) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("norm", [False, True], ids=["without norm", "with norm"])
def test_twenty_steps_of_conv(training, method, norm):
    overrides = [*SMALL_STEPS, *([] if norm else without_norm(method))]
    one, two = (training(method, replicas=r, precision="float32", overrides=overrides) for r in (1, 2))
    if not norm and any("moving_variance" in name for name in one.weights()):
        pytest.skip("its prediction head always has BatchNorm")
    one.run(STEPS)
    two.run(STEPS)
    assert distance(two.weights(), one.weights()) <= (1e-4 if norm else 1e-5)


@pytest.mark.slow
def test_a_deep_network_at_the_usual_rate_magnifies_rounding_on_one_device_too(training):
    # Why small_runs.py gives the deep networks a smaller rate.
    one, other = (
        training("info_nce", encoder="resnet50", overrides=["optimizer.learning_rate=1e-3"]) for _ in range(2)
    )
    random = np.random.default_rng(0)
    for name, variable in other.trainer.variables().items():
        if not name.startswith("optimizer"):
            values = np.asarray(variable)
            variable.assign(values * (1 + 1e-15 * random.standard_normal(values.shape)))
    distances = []
    for steps in (1, STEPS - 1):
        one.run(steps)
        other.run(steps)
        distances.append(distance(other.weights(), one.weights()))
    assert distances[0] < 1e-13 and distances[1] > 1e-6
