"""MoCo as composed, against the paper's formulas written out as loops over features that numpy computes."""

import numpy as np
import pytest

from semisup_core.methods import MocoParams

B, K = 4, 6


@pytest.fixture(params=[(), (16, 3)], ids=["no head", "head"])
def made(case, request):
    made = case(MocoParams(temperature=0.3, momentum=0.75, queue_size=K, projection=request.param))
    made.perturb_teacher()
    return made


def queue(made):
    return made.method.modules["queue"].keys.numpy()


def views(made):
    query, key = made.images(B, B)
    return {"query": [query], "key": [key]}


def keys(made, images):
    """Of unit length, as the queue holds them."""
    (rows,) = made.features(images["key"], network="teacher_")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_is_the_papers(made, similarity):
    images = views(made)
    (queries,) = made.features(images["query"])
    losses = []
    for query, key in zip(queries, keys(made, images), strict=True):  # 1911.05722, eq. 1
        positive = similarity(query, key, 0.3)
        losses.append(-np.log(positive / (positive + sum(similarity(query, old, 0.3) for old in queue(made)))))
    assert made.loss(images)[0] == pytest.approx(np.mean(losses), rel=1e-9)


def test_by_hand(case):
    """Everything points the same way: the positive is one of K + 1 equals."""
    made = case(MocoParams(queue_size=K, projection=()))
    ones = np.ones((B, 2, 2, 3))
    made.after_update({"query": [ones], "key": [ones]})
    made.after_update({"query": [ones], "key": [ones]})
    assert made.loss({"query": [ones], "key": [ones]})[0] == pytest.approx(np.log(K + 1), rel=1e-9)


def test_the_order_of_the_queue_does_not_matter(made):
    images = views(made)
    straight = made.loss(images)[0]
    made.method.modules["queue"].keys.assign(queue(made)[::-1])
    assert made.loss(images)[0] == pytest.approx(straight, rel=1e-12)


def test_the_queue_starts_with_directions(made):
    assert np.allclose(np.linalg.norm(queue(made), axis=1), 1, rtol=1e-6)
    assert len(np.unique(queue(made).round(6), axis=0)) == K


def test_the_queue_takes_the_newest_keys_in_order(made):
    images, before = views(made), queue(made)
    fresh = keys(made, images)
    made.after_update(images)
    assert np.allclose(queue(made), [*fresh, *before[: K - B]], rtol=1e-9)


def test_a_queue_shorter_than_the_batch_keeps_the_first_keys(case):
    made = case(MocoParams(queue_size=3))
    images = views(made)
    fresh = keys(made, images)
    made.after_update(images)
    assert np.allclose(queue(made), fresh[:3], rtol=1e-6)


def test_the_key_network_follows(made):
    modules = made.method.modules
    names = [name.removeprefix("teacher_") for name in modules if name.startswith("teacher_")]
    pairs = [
        (mine, theirs)
        for name in names
        for mine, theirs in zip(modules[f"teacher_{name}"].variables, modules[name].variables, strict=True)
    ]
    expected = [0.75 * mine.numpy() + 0.25 * theirs.numpy() for mine, theirs in pairs]  # 1911.05722, eq. 2
    made.after_update(views(made))
    assert pairs
    for (mine, _), values in zip(pairs, expected, strict=True):
        assert np.allclose(mine.numpy(), values, rtol=1e-9, atol=0)


def test_the_key_network_is_not_trained(made):
    modules = made.method.modules
    trained = [id(variable) for group in made.method.variable_groups() for variable in group.variables]
    for name, module in modules.items():
        if name not in ("encoder", "projection"):
            assert module.variables and not module.trainable_variables
            assert not {id(variable) for variable in module.variables} & {*trained}
    assert made.method.export_encoder() is modules["encoder"]


def test_gradient_is_finite_where_an_image_is_black(made):
    images = views(made)
    images["key"][0][0] = 0
    images["query"][0][1] = 0
    assert all(np.isfinite(gradient).all() for gradient in made.gradients(images))
