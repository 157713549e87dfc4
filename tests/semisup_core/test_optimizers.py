"""The schedule against its formula and the optimisers against their update rules, written out in numpy."""

import math

import keras
import numpy as np
import pytest

from semisup_core.devices import set_precision
from semisup_core.methods.base import VariableGroup
from semisup_core.optimizers import GroupOptimizer, Schedule

RATE, DECAY, MOMENTUM, EPSILON = 0.1, 0.5, 0.9, 0.01  # epsilon large enough to be seen
START = (np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([4.0, -1.0]))
GRADIENTS = (np.array([[0.3, -0.2], [1.5, 0.1]]), np.array([-0.7, 2.0]))


@pytest.fixture(autouse=True)
def float64(float32):
    set_precision("float64")


def adam(value, gradient, rate, steps, decay):
    """Kingma and Ba, 1412.6980, the efficient form of sec. 2, Keras' epsilon; decoupled decay as in 1711.05101."""
    first = second = 0.0
    for step in range(1, steps + 1):
        value = value - rate * decay * value
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        value = value - corrected * first / (np.sqrt(second) + EPSILON)
    return value


def sgd(value, gradient, rate, steps, decay):
    """Nesterov momentum in the form of Sutskever et al., 2013, one look ahead; decoupled decay."""
    velocity = 0.0
    for _ in range(steps):
        value = value - rate * decay * value
        velocity = MOMENTUM * velocity - rate * gradient
        value = value + MOMENTUM * velocity - rate * gradient
    return value


RULES = {"adam": adam, "adamw": adam, "sgd": sgd}


def make(name="adamw", schedule="constant", decay=DECAY, momentum=MOMENTUM, total_steps=10, **groups):
    """Two variables in a group each; returns the optimiser and the variables."""
    variables = [keras.Variable(value) for value in START]
    second = VariableGroup(variables[1:], **{"weight_decay": False, **groups})
    optimizer = GroupOptimizer(
        [VariableGroup(variables[:1]), second],
        name=name,
        learning_rate=RATE,
        weight_decay=0.0 if name == "adam" else decay,
        momentum=momentum,
        epsilon=EPSILON,
        schedule=schedule,
        warmup_steps=0,
        total_steps=total_steps,
    )
    return optimizer, variables


def apply(optimizer, steps=1):
    for _ in range(steps):
        optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in GRADIENTS])


class TestSchedule:
    def test_constant(self):
        assert [float(Schedule(0.3, 10, kind="constant")(step)) for step in (0, 5, 10, 99)] == [0.3] * 4

    def test_warm_up_rises_to_the_peak_in_equal_parts(self):
        schedule = Schedule(0.8, 20, warmup_steps=4, kind="constant")
        assert np.allclose([schedule(step) for step in range(6)], [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-12)

    @pytest.mark.parametrize("warmup", [0, 3])
    def test_cosine_is_the_papers(self, warmup):
        schedule = Schedule(0.4, 13, warmup_steps=warmup)
        for step in range(warmup, 14):
            literal = 0.4 * (1 + math.cos(math.pi * (step - warmup) / (13 - warmup))) / 2
            assert float(schedule(step)) == pytest.approx(literal, rel=1e-12, abs=1e-15)

    def test_cosine_by_hand(self):
        values = [float(Schedule(1.0, 4)(step)) for step in (0, 1, 2, 4, 9)]
        assert values == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0, 0], abs=1e-15)

    @pytest.mark.parametrize("kind", ["constant", "cosine"])
    def test_frozen_then_as_if_it_had_never_been(self, kind):
        frozen, free = (Schedule(0.4, 12, 2, kind, frozen_steps=steps) for steps in (5, 0))
        assert [float(frozen(step)) for step in range(5)] == [0.0] * 5
        assert [float(frozen(step)) for step in range(5, 12)] == [float(free(step)) for step in range(5, 12)]

    def test_a_step_that_is_a_tensor(self):
        schedule = Schedule(0.4, 13, 3)
        assert float(schedule(keras.ops.convert_to_tensor(7, "int64"))) == float(schedule(7))

    def test_survives_serialisation(self):
        schedule = Schedule(0.4, 13, 3, "cosine", 1)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
        assert again.get_config() == schedule.get_config()


class TestGroupOptimizer:
    @pytest.mark.parametrize("name", RULES)
    def test_two_steps_are_the_papers(self, name):
        optimizer, variables = make(name, learning_rate_scale=0.25)
        apply(optimizer, steps=2)
        decay = 0.0 if name == "adam" else DECAY
        kernel = RULES[name](START[0], GRADIENTS[0], RATE, 2, decay)
        bias = RULES[name](START[1], GRADIENTS[1], RATE * 0.25, 2, 0.0)
        assert np.allclose(variables[0], kernel, rtol=1e-12, atol=0)
        assert np.allclose(variables[1], bias, rtol=1e-12, atol=0)

    def test_first_step_by_hand(self):
        optimizer, variables = make("sgd", momentum=0.0)
        apply(optimizer)
        assert np.allclose(variables[0], [[0.92, -1.88], [0.325, 2.84]], rtol=1e-12)  # w (1 - 0.05) - 0.1 g
        assert np.allclose(variables[1], [4.07, -1.2], rtol=1e-12)  # w - 0.1 g

    @pytest.mark.parametrize("name", ["adamw", "sgd"])
    def test_weight_decay_only_where_asked(self, name):
        for asked in (False, True):
            without, with_decay = (make(name, decay=decay, weight_decay=asked) for decay in (0.0, DECAY))
            apply(without[0])
            apply(with_decay[0])
            moved = np.asarray(with_decay[1][1]) - np.asarray(without[1][1])
            assert np.allclose(moved, -RATE * DECAY * START[1] * asked, rtol=1e-12, atol=1e-15)
            assert not np.allclose(with_decay[1][0], without[1][0])

    @pytest.mark.parametrize("name", RULES)
    def test_frozen_group_does_not_move_before_its_time(self, name):
        optimizer, variables = make(name, weight_decay=True, frozen_until=0.3)
        apply(optimizer, steps=3)
        assert np.array_equal(variables[1], START[1]) and not np.allclose(variables[0], START[0])
        apply(optimizer)
        assert not np.allclose(variables[1], START[1])

    def test_order_of_gradients_is_that_of_variables(self):
        variables = [keras.Variable(np.zeros(2), name=f"v{i}") for i in range(4)]
        groups = [VariableGroup(variables[2:]), VariableGroup(variables[:2], learning_rate_scale=2.0)]
        settings = {"name": "sgd", "learning_rate": 1.0, "weight_decay": 0.0, "momentum": 0.0, "epsilon": EPSILON}
        optimizer = GroupOptimizer(groups, **settings, schedule="constant", warmup_steps=0, total_steps=1)
        assert [variable.name for variable in optimizer.variables] == ["v2", "v3", "v0", "v1"]
        optimizer.apply([keras.ops.full((2,), float(i)) for i in (1, 2, 3, 4)])
        assert [float(variable[0]) for variable in variables] == [-6.0, -8.0, -1.0, -2.0]

    def test_each_step_takes_the_rate_of_its_schedule(self):
        optimizer, variables = make("sgd", schedule="cosine", decay=0.0, momentum=0.0, total_steps=4)
        apply(optimizer, steps=4)
        rates = [RATE * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
        assert [optimizer.learning_rate(step) for step in range(4)] == pytest.approx(rates, rel=1e-12)
        assert np.allclose(variables[0], START[0] - sum(rates) * GRADIENTS[0], rtol=1e-12)
