"""InfoNCE as composed, against the formula written out as loops over features that numpy computes."""

import numpy as np
import pytest

from semisup_core.methods import InfoNCEParams

B = 4
HEADS = {"no head": (), "one layer": (3,), "two layers": (16, 3)}


@pytest.mark.parametrize("projection", HEADS.values(), ids=HEADS)
def test_is_the_papers(case, similarity, projection):
    made = case(InfoNCEParams(projection=projection, temperature=0.3))
    images = made.images(B, B)
    first, second = made.features(images)
    literal = []
    for i in range(B):
        scores = [similarity(first[i], other, 0.3) for other in second]
        literal.append(-np.log(scores[i] / sum(scores)))
    loss, metrics = made.loss({"unlabelled": images})
    # 1e-9: the loss adds 1e-12 under the root of a norm.
    assert loss == pytest.approx(np.mean(literal), rel=1e-9) and metrics == {}


def test_by_hand(case):
    """Equal images: every similarity is 1, so the positive is one of four equals."""
    images = np.ones((4, 2, 2, 3))
    assert case(InfoNCEParams()).loss({"unlabelled": [images, images]})[0] == pytest.approx(np.log(4), rel=1e-9)


def test_the_order_of_the_pairs_does_not_matter(case):
    made = case(InfoNCEParams())
    first, second = made.images(B, B)
    order = [2, 0, 3, 1]
    turned = made.loss({"unlabelled": [first[order], second[order]]})[0]
    assert turned == pytest.approx(made.loss({"unlabelled": [first, second]})[0], rel=1e-12)


def test_gradient_is_finite(case):
    made = case(InfoNCEParams(projection=(16, 3)))
    # A first view equal to the second one, and a black image whose features are all bias.
    first, second = made.images(B, B)
    first[0], first[1] = second[0], 0
    assert all(np.isfinite(gradient).all() for gradient in made.gradients({"unlabelled": [first, second]}))
