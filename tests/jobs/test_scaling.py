"""The model on paper: its counts are the encoders', and the document holds what it prints."""

from pathlib import Path

import keras
import pytest

from jobs.benchmarks import scaling
from jobs.benchmarks.operations import count_operations
from semisup_core.encoders import ConvParams, Resnet50Params
from semisup_core.encoders.build import build_encoder
from semisup_core.layers import BatchNorm

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize(
    "network, params, side",
    [(scaling.CONV, ConvParams(width=128, batch_norm=False), 96), (scaling.RESNET50, Resnet50Params(), 224)],
    ids=["conv", "resnet50"],
)
def test_counts_are_the_encoders(network, params, side):
    encoder = build_encoder(params, side)
    norms = [layer for layer in encoder.layers if isinstance(layer, BatchNorm)]
    assert len(norms) == network.norms and sum(layer.gamma.shape[0] for layer in norms) == network.channels
    assert sum(variable.value.shape.num_elements() for variable in encoder.trainable_variables) == network.parameters
    counted = count_operations(lambda images: encoder(images, training=False), keras.ops.zeros((1, side, side, 3)))
    assert counted == pytest.approx(network.operations, rel=1e-3)


def test_alone_nothing_is_sent_and_more_send_more():
    for network in (scaling.CONV, scaling.RESNET50):
        for method in scaling.METHODS:
            steps = [scaling.step(network, method, scaling.A100, gpus, 64) for gpus in (1, 8, 64, 512)]
            assert steps[0].efficiency == 1
            assert [made.efficiency for made in steps] == sorted((made.efficiency for made in steps), reverse=True)


def test_the_document_holds_what_it_prints(capsys):
    scaling.main()
    printed = capsys.readouterr().out
    assert printed.count("|") > 100
    assert printed in DOCUMENT.read_text()
