"""SuNCEt as composed, against both terms written out as loops over features that numpy computes."""

import numpy as np
import pytest

from semisup_core.methods import SuncetParams

B = 4
HEADS = {"no head": (), "one layer": (3,), "two layers": (16, 3)}
LABELS = {
    "pairs": [0, 0, 1, 1, 2, 2],
    "a single image of class 2": [0, 0, 1, 1, 1, 2],
    "single images only": [0, 1, 2],
}


def make_images(made, labels):
    """Two views of B images and one of the labelled ones, and the same by view name."""
    first, second, labelled = made.images(B, B, len(labels))
    return [first, second, labelled], {"unlabelled": [first, second], "labelled": [labelled]}


def literal_unlabelled(first, second, similarity, temperature):
    """1807.03748, eq. 4: each first view picks its second one among all second ones."""
    losses = []
    for i in range(B):
        scores = [similarity(first[i], other, temperature) for other in second]
        losses.append(-np.log(scores[i] / sum(scores)))
    return np.mean(losses)


def literal_supervised(rows, labels, similarity, temperature):
    """2006.10803, eq. 2, over the images whose class has another one."""
    losses = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        scores = {j: similarity(rows[i], rows[j], temperature) for j in others}
        same = [j for j in others if labels[j] == labels[i]]
        if same:
            losses.append(-np.log(sum(scores[j] for j in same) / sum(scores.values())))
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("projection", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_is_the_papers(case, similarity, projection, labels):
    made = case(SuncetParams(projection=projection, temperature=0.3, supervised_weight=0.7))
    images, views = make_images(made, labels)
    first, second, labelled = made.features(images)
    unlabelled = literal_unlabelled(first, second, similarity, 0.3)
    supervised = literal_supervised(labelled, labels, similarity, 0.3)
    loss, metrics = made.loss(views, labels)
    # 1e-9: the loss adds 1e-12 under the root of a norm.
    assert loss == pytest.approx(unlabelled + 0.7 * supervised, rel=1e-9)
    assert metrics == pytest.approx({"unlabelled_loss": unlabelled, "supervised_loss": supervised}, rel=1e-9)


def test_by_hand(case):
    """Equal images: every similarity is 1, so each term is the logarithm of how many there are to pick from."""
    images = np.ones((3, 2, 2, 3))
    _, metrics = case(SuncetParams()).loss({"unlabelled": [images, images], "labelled": [images]}, [1, 1, 0])
    assert metrics["unlabelled_loss"] == pytest.approx(np.log(3), rel=1e-9)
    assert metrics["supervised_loss"] == pytest.approx(np.log(2), rel=1e-9)  # one of the two others is alike


def test_without_weight_the_labels_do_not_matter(case):
    made = case(SuncetParams(supervised_weight=0.0))
    _, views = make_images(made, [0, 0, 1, 1])
    (loss, metrics), (other_loss, other_metrics) = made.loss(views, [0, 0, 1, 1]), made.loss(views, [0, 1, 0, 1])
    assert loss == metrics["unlabelled_loss"] == other_loss
    assert metrics["supervised_loss"] != other_metrics["supervised_loss"]


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_gradient_is_finite(case, labels):
    made = case(SuncetParams(projection=(16, 3)))
    _, views = make_images(made, labels)
    for gradient in made.gradients(views, labels):
        assert np.isfinite(gradient).all()


def test_hands_on_the_encoders_features_of_the_labelled_images(case):
    made, labels = case(SuncetParams(projection=(16, 3))), LABELS["pairs"]
    images, views = make_images(made, labels)
    np.testing.assert_allclose(made.labelled_features(views, labels), made.features(images, heads=())[2], rtol=1e-9)


@pytest.mark.parametrize("projection", HEADS.values(), ids=HEADS)
def test_head_is_trained_and_left_out_of_the_export(case, projection):
    method = case(SuncetParams(projection=projection)).method
    assert set(method.modules) == {"encoder", "projection"} - (set() if projection else {"projection"})
    assert method.export_encoder() is method.modules["encoder"]
    grouped = [variable for group in method.variable_groups() for variable in group.variables]
    assert len(grouped) == sum(len(module.trainable_variables) for module in method.modules.values())
