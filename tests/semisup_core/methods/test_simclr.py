"""Both forms of SimCLR as composed, against their formulas written out as loops over features that numpy computes."""

import numpy as np
import pytest

from semisup_core.methods import SimclrParams

N = 4


def literal_nt_xent(rows, similarity, temperature):
    """2002.05709, eq. 1, over 2N rows of which k and k + N are a pair."""
    losses = []
    for i in range(2 * N):
        positive = (i + N) % (2 * N)
        others = [similarity(rows[i], rows[k], temperature) for k in range(2 * N) if k != i]
        losses.append(-np.log(similarity(rows[i], rows[positive], temperature) / sum(others)))
    return np.mean(losses)


def literal_both_directions(first, second, similarity, temperature):
    losses = []
    for anchors, references in ((first, second), (second, first)):
        for i in range(N):
            scores = [similarity(anchors[i], other, temperature) for other in references]
            losses.append(-np.log(scores[i] / sum(scores)))
    return np.mean(losses)


@pytest.mark.parametrize("norm", [True, False])
def test_nt_xent_is_the_papers(case, similarity, norm):
    made = case(SimclrParams(projection=(16, 3), projection_norm=norm, temperature=0.3))
    images = made.images(N, N)
    literal = literal_nt_xent(np.concatenate(made.features(images)), similarity, 0.3)
    assert made.loss({"unlabelled": images})[0] == pytest.approx(literal, rel=1e-9)


def test_other_view_is_the_keras_examples(case, similarity):
    made = case(SimclrParams(projection=(16, 3), projection_norm=False, negatives="other_view", temperature=0.3))
    images = made.images(N, N)
    literal = literal_both_directions(*made.features(images), similarity, 0.3)
    assert made.loss({"unlabelled": images})[0] == pytest.approx(literal, rel=1e-9)


@pytest.mark.parametrize("negatives, choices", [("both_views", 2 * N - 1), ("other_view", N)])
def test_by_hand(case, negatives, choices):
    """Equal images: every similarity is 1, so the positive is one of as many equals as there are to pick from."""
    images = np.ones((N, 2, 2, 3))
    made = case(SimclrParams(negatives=negatives, projection=()))
    assert made.loss({"unlabelled": [images, images]})[0] == pytest.approx(np.log(choices), rel=1e-9)


@pytest.mark.parametrize("negatives", ["both_views", "other_view"])
def test_the_views_may_be_swapped(case, negatives):
    made = case(SimclrParams(negatives=negatives))
    first, second = made.images(N, N)
    swapped = made.loss({"unlabelled": [second, first]})[0]
    assert swapped == pytest.approx(made.loss({"unlabelled": [first, second]})[0], rel=1e-12)


@pytest.mark.parametrize("negatives", ["both_views", "other_view"])
def test_gradient_is_finite(case, negatives):
    made = case(SimclrParams(negatives=negatives))
    first, second = made.images(N, N)
    first[0], first[1] = second[0], 0
    assert all(np.isfinite(gradient).all() for gradient in made.gradients({"unlabelled": [first, second]}))
