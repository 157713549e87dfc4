"""What a teacher does apart from the method that uses it: its statistics, its mode, its gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from semisup_core.layers import BatchNorm
from semisup_core.methods.teacher import Teacher


@pytest.fixture
def student(float32):
    layers = [keras.Input((4,)), keras.layers.Dense(3, name="dense"), BatchNorm(name="norm")]
    return keras.Sequential(layers)


@pytest.fixture
def rows():
    return tf.constant(np.random.default_rng(0).normal(5, 2, (16, 4)), tf.float32)


def test_encodes_by_the_statistics_of_the_batch(student, rows):
    (outputs,) = Teacher({"encoder": student}).encode([rows])
    assert np.allclose(outputs.numpy().mean(axis=0), 0, atol=1e-5)
    assert np.allclose(outputs.numpy().std(axis=0), 1, atol=1e-2)


def test_moving_statistics_are_its_own(student, rows):
    teacher = Teacher({"encoder": student})
    norm = teacher.modules["teacher_encoder"].get_layer("norm")
    teacher.encode([rows])
    seen = norm.moving_mean.numpy()
    assert not np.allclose(seen, 0) and np.allclose(student.get_layer("norm").moving_mean.numpy(), 0)
    teacher.follow(0.0)
    assert np.array_equal(norm.moving_mean.numpy(), seen)


def test_no_gradient_reaches_it(student, rows):
    teacher = Teacher({"encoder": student})
    variables = [variable.value for variable in teacher.modules["teacher_encoder"].variables]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        loss = tf.reduce_sum(teacher.encode([rows])[0] ** 3)
    assert tape.gradient(loss, variables) == [None] * len(variables)


def test_what_is_frozen_in_the_student_stays(student):
    teacher = Teacher({"encoder": student})
    student.get_layer("dense").trainable = False
    frozen = Teacher({"encoder": student})
    for variable in student.variables:
        variable.assign_add(tf.ones_like(variable))
    for each in (teacher, frozen):
        each.follow(0.0)
    kernels = [each.modules["teacher_encoder"].get_layer("dense").kernel.numpy() for each in (teacher, frozen)]
    assert np.allclose(kernels[0], student.get_layer("dense").kernel.numpy())
    assert np.allclose(kernels[1] + 1, kernels[0])
