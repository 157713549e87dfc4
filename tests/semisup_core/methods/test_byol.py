"""BYOL as composed, against the paper's formulas written out as loops over features that numpy computes."""

import numpy as np
import pytest

from semisup_core.methods import ByolParams

B = 4
HEADS = ("projection", "prediction")


@pytest.fixture(params=[(), (16, 3)], ids=["no head", "head"])
def made(case, request):
    made = case(ByolParams(momentum=0.75, projection=request.param, prediction=(8,)))
    made.perturb_teacher()
    return made


def views(made):
    return {"unlabelled": made.images(B, B)}


def literal_distance(prediction, target):
    """2006.07733, eq. 2."""
    difference = prediction / np.linalg.norm(prediction) - target / np.linalg.norm(target)
    return np.sum(difference**2)


def test_is_the_papers(made):
    images = views(made)
    predictions = made.features(images["unlabelled"], heads=HEADS)
    targets = made.features(images["unlabelled"], network="teacher_")
    directions = [
        np.mean([literal_distance(p, t) for p, t in zip(predictions[view], targets[1 - view], strict=True)])
        for view in (0, 1)
    ]
    assert made.loss(images)[0] == pytest.approx(sum(directions), rel=1e-8)


def test_by_hand(case):
    """A prediction head that turns everything around predicts the opposite of its target: distance 4 each way."""
    made = case(ByolParams(projection=(), prediction=()))
    (dense,) = (layer for layer in made.method.modules["prediction"].layers if layer.variables)
    for sign, loss in ((1, 0), (-1, 8)):
        dense.set_weights([sign * np.eye(5), np.zeros(5)])
        (images,) = made.images(B)
        assert made.loss({"unlabelled": [images, images]})[0] == pytest.approx(loss, abs=1e-9)


def test_the_views_may_be_swapped(made):
    first, second = made.images(B, B)
    swapped = made.loss({"unlabelled": [second, first]})[0]
    assert swapped == pytest.approx(made.loss({"unlabelled": [first, second]})[0], rel=1e-12)


@pytest.mark.parametrize("fraction, momentum", [(0.0, 0.75), (0.5, 0.875), (1.0, 1.0)])
def test_the_target_network_follows_ever_more_slowly(made, fraction, momentum):
    modules = made.method.modules
    pairs = [
        (mine, theirs)
        for name in modules
        if name.startswith("teacher_")
        for mine, theirs in zip(modules[name].variables, modules[name.removeprefix("teacher_")].variables, strict=True)
        if "moving" not in mine.name
    ]
    expected = [momentum * mine.numpy() + (1 - momentum) * theirs.numpy() for mine, theirs in pairs]
    made.after_update(views(made), fraction)
    assert pairs
    for (mine, _), values in zip(pairs, expected, strict=True):
        assert np.allclose(mine.numpy(), values, rtol=1e-6, atol=1e-12)  # the fraction is a float32


def test_the_target_network_is_not_trained(made):
    modules = made.method.modules
    trained = {id(variable) for group in made.method.variable_groups() for variable in group.variables}
    for name, module in modules.items():
        if name.startswith("teacher_"):
            assert module.variables and not module.trainable_variables
        else:
            assert {id(variable) for variable in module.trainable_variables} <= trained
    assert made.method.export_encoder() is modules["encoder"]


def test_gradient_is_finite(made):
    first, second = made.images(B, B)
    first[0], first[1] = second[0], 0
    assert all(np.isfinite(gradient).all() for gradient in made.gradients({"unlabelled": [first, second]}))
