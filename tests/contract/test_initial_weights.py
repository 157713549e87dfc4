"""Encoders that start from a saved one: frozen, trained on at a rate of their own, or refused."""

import numpy as np
import pytest

from jobs.errors import ConfigError
from semisup_core.encoders.build import exported

CONSTANT = [
    "optimizer.weight_decay=0",
    "optimizer.warmup_epochs=0",
    "optimizer.schedule=constant",
    "optimizer.name=sgd",
]


@pytest.fixture
def saved(training, tmp_path):
    """The encoder of a run of two steps, saved, and its state by name."""
    made = training("info_nce")
    made.run(2)
    exported(made.method.export_encoder()).save(tmp_path / "encoder.keras")
    return tmp_path / "encoder.keras", encoder_of(made)


def encoder_of(made):
    return {name: value for name, value in made.trainer.state().items() if name.startswith("encoder/")}


def test_weights_and_statistics_are_the_saved_ones(training, saved):
    path, state = saved
    started = encoder_of(training("cross_entropy", initial=path, replicas=2))
    assert started.keys() == state.keys()
    # The file holds float32.
    assert all(np.array_equal(started[name], state[name].astype(np.float32)) for name in state)
    fresh = encoder_of(training("cross_entropy"))
    assert any(not np.array_equal(started[name], fresh[name]) for name in state)


def test_a_frozen_encoder_stays_and_its_classifier_learns(training, saved):
    made = training("cross_entropy", initial=saved[0], overrides=["encoder.trainable=false", "optimizer.clip=null"])
    before, kernel = encoder_of(made), made.method.classifier.trainable_variables[0].numpy()
    made.run(5)
    after = encoder_of(made)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not np.array_equal(kernel, made.method.classifier.trainable_variables[0].numpy())


def test_the_encoder_is_trained_at_its_share_of_the_rate(training, saved):
    def first_update(scale):
        words = [*CONSTANT, "optimizer.clip=null", f"method.encoder_learning_rate_scale={scale}"]
        made = training("cross_entropy", initial=saved[0], overrides=words)
        before = made.weights()
        made.run(1)
        return {name: made.weights()[name] - before[name] for name in before if "moving" not in name}

    whole, tenth = first_update(1.0), first_update(0.1)
    for name in whole:
        share = 0.1 if name.startswith("encoder/") else 1.0
        assert np.allclose(tenth[name], share * whole[name], rtol=1e-6, atol=1e-15), name


def test_nothing_to_train_is_an_error(training, saved):
    with pytest.raises(ConfigError, match="encoder.trainable=false: info_nce has nothing else to train"):
        training("info_nce", initial=saved[0], overrides=["encoder.trainable=false", "method.projection=[]"])


def test_an_encoder_of_another_shape_is_refused_by_its_shapes(training, saved):
    with pytest.raises(ConfigError, match=r"encoder.init.*\(3, 3, 3, 8\) for \(3, 3, 3, 6\)"):
        training("cross_entropy", initial=saved[0], overrides=["encoder.width=6"])


def test_a_file_that_is_no_model_is_refused(training, tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="cannot be read as a Keras model"):
        training("cross_entropy", initial=tmp_path / "broken.keras")
