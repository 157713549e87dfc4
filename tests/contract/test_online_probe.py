"""The online probe learns from the features and leaves everything else bit for bit as it is without it."""

import numpy as np
import pytest
from small_runs import check_equal, outcome

from semisup_core.methods import METHODS

PROBE = ["trainer.online_probe=true"]
NO_PROBE = ["trainer.online_probe=false", "evaluation.protocols=[knn20]", "evaluation.monitor=knn20"]
CLIPPED = ["optimizer.clip=0.01"]  # so small that every step is clipped
WITHOUT_CLASSIFIER = [name for name, (params, _) in METHODS.items() if not params.has_classifier]


@pytest.mark.parametrize("method", WITHOUT_CLASSIFIER)
def test_the_encoder_is_trained_as_without_it(training, method):
    with_probe = training(method, overrides=[*PROBE, *CLIPPED])
    without = training(method, overrides=[*NO_PROBE, *CLIPPED])
    kernel = with_probe.method.classifier.trainable_variables[0]
    before = kernel.numpy()
    losses = with_probe.logs(4)["method_loss"]
    assert np.array_equal(losses, without.run(4))
    assert not np.array_equal(kernel.numpy(), before)
    encodes_labelled = any(view.pool == "labelled" for view in without.method.views)
    assert len(with_probe.method.views) == len(without.method.views) + (not encodes_labelled)
    ours, theirs = with_probe.weights(), without.weights()
    assert theirs and all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("method", ["info_nce", "paws"])
def test_two_replicas_compute_the_run_of_one(training, method):
    check_equal(*(outcome(training(method, overrides=PROBE, replicas=replicas)) for replicas in (2, 1)))


@pytest.mark.parametrize("method, own", [("info_nce", set()), ("suncet", {"unlabelled_loss", "supervised_loss"})])
def test_it_learns_what_the_features_hold(training, method, own):
    frozen = ["encoder.trainable=false", "trainer.steps_per_epoch=40", "optimizer.learning_rate=0.03"]
    logs = training(method, overrides=[*PROBE, *frozen]).logs(240, per_call=40)
    assert set(logs) == {"loss", "method_loss", "probe_loss", "probe_accuracy"} | own
    assert np.allclose(logs["loss"], logs["method_loss"] + logs["probe_loss"], rtol=1e-12)
    assert logs["probe_loss"][-20:].mean() < min(np.log(10), logs["probe_loss"][:20].mean())
    assert logs["probe_accuracy"][-100:].mean() > 0.13  # 2,000 images of ten classes: chance is 0.1 with 0.007
