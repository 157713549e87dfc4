"""PAWS as composed, against the paper's formulas written out as loops over features that numpy computes."""

import numpy as np
import pytest

from semisup_core.methods import PawsParams

B, LABELS, CLASSES = 4, [0, 0, 1, 2, 2], 3


def literal_prediction(row, support, labels, similarity, params):
    """2104.13963, eq. 1."""
    scores = [similarity(row, other, params.temperature) for other in support]
    prediction = np.zeros(CLASSES)
    for score, label in zip(scores, labels, strict=True):
        target = np.full(CLASSES, params.label_smoothing / CLASSES)
        target[label] += 1 - params.label_smoothing
        prediction += score / sum(scores) * target
    return prediction


def literal_sharpened(prediction, params):
    powers = prediction ** (1 / params.sharpening)
    return powers / powers.sum()


def literal_entropy(distribution):
    return -sum(p * np.log(p) for p in distribution)


def literal_paws(first, second, support, labels, similarity, params):
    """2104.13963, eq. 2: agreement less the entropy of the mean sharpened prediction."""

    def predicted(view):
        return [literal_prediction(row, support, labels, similarity, params) for row in view]

    predictions = [predicted(first), predicted(second)]
    sharpened = [[literal_sharpened(p, params) for p in view] for view in predictions]
    agreement = []
    for view, other in ((0, 1), (1, 0)):
        for prediction, target in zip(predictions[view], sharpened[other], strict=True):
            agreement.append(-sum(t * np.log(p) for t, p in zip(target, prediction, strict=True)))
    return np.mean(agreement), literal_entropy(np.mean(sharpened[0] + sharpened[1], axis=0))


@pytest.mark.parametrize("projection", [(), (16, 3)])
@pytest.mark.parametrize(
    "settings", [{}, {"label_smoothing": 0.1}, {"sharpening": 1.0}, {"support_views": 2}, {"entropy_weight": 0.5}]
)
def test_is_the_papers(case, similarity, projection, settings):
    params = PawsParams(projection=projection, temperature=0.3, **settings)
    made = case(params)
    images = made.images(B, B, *[len(LABELS)] * params.support_views)
    first, second, *support = made.features(images)
    agreement, entropy = literal_paws(
        first, second, np.concatenate(support), LABELS * params.support_views, similarity, params
    )
    loss, metrics = made.loss({"unlabelled": images[:2], "support": images[2:]}, LABELS)
    # 1e-8: the loss adds 1e-12 under the root of a norm, and sharpening multiplies the effect by 4.
    assert loss == pytest.approx(agreement - params.entropy_weight * entropy, rel=1e-8)
    assert metrics == pytest.approx({"agreement_loss": agreement, "mean_entropy": entropy}, rel=1e-8)


def test_hands_on_the_encoders_features_of_the_first_support_view(case):
    made = case(PawsParams(projection=(16, 3), support_views=2))
    images = made.images(B, B, len(LABELS), len(LABELS))
    passed_on = made.labelled_features({"unlabelled": images[:2], "support": images[2:]}, LABELS)
    np.testing.assert_allclose(passed_on, made.features(images, heads=())[2], rtol=1e-9)


def test_by_hand(case):
    """Equal images: every prediction is the share of each class in the support, 1/4 and 3/4; no sharpening."""
    images = np.ones((4, 2, 2, 3))
    _, metrics = case(PawsParams(sharpening=1.0), num_classes=2).loss(
        {"unlabelled": [images, images], "support": [images]}, [0, 1, 1, 1]
    )
    entropy = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    assert metrics == pytest.approx({"agreement_loss": entropy, "mean_entropy": entropy}, rel=1e-9)


def test_the_order_of_the_support_does_not_matter(case):
    made = case(PawsParams())
    first, second, support = made.images(B, B, len(LABELS))
    order = [4, 0, 3, 1, 2]
    turned = made.loss({"unlabelled": [first, second], "support": [support[order]]}, [LABELS[i] for i in order])
    straight = made.loss({"unlabelled": [first, second], "support": [support]}, LABELS)
    assert turned[0] == pytest.approx(straight[0], rel=1e-12)


def test_targets_have_no_gradient(case, similarity):
    """The gradient is the numeric derivative of the formula with both views' targets held where they are."""
    params = PawsParams(entropy_weight=0.0)
    made = case(params)
    images = made.images(B, B, len(LABELS))
    kernel = made.method.modules["encoder"].trainable_variables[0]
    value = kernel.numpy()

    def predictions():
        first, second, support = made.features(images)
        return [
            [literal_prediction(row, support, LABELS, similarity, params) for row in view] for view in (first, second)
        ]

    targets = [[literal_sharpened(p, params) for p in view] for view in predictions()]

    def agreement(step):
        moved = value.copy()
        moved[0, 0] += step
        kernel.assign(moved)
        pairs = zip(predictions(), targets[::-1], strict=True)
        return np.mean([-(t * np.log(p)).sum() for view, other in pairs for p, t in zip(view, other, strict=True)])

    numeric = (agreement(1e-6) - agreement(-1e-6)) / 2e-6
    kernel.assign(value)
    gradients = made.gradients({"unlabelled": images[:2], "support": images[2:]}, LABELS)
    # 1e-6: what a difference over 1e-6 in float64 can show.
    assert float(gradients[0][0, 0]) == pytest.approx(numeric, rel=1e-6)


def test_gradient_is_finite(case):
    """Also where a class is missing from the support, so that a probability is 0."""
    made = case(PawsParams(projection=(16, 3)))
    first, second, support = made.images(B, B, 3)
    first[0], first[1] = second[0], 0
    gradients = made.gradients({"unlabelled": [first, second], "support": [support]}, [0, 0, 1])
    assert all(np.isfinite(gradient).all() for gradient in gradients)
