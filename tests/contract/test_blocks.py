"""Losses in blocks, inside a compiled step on several replicas."""

import pytest
from small_runs import distance

from semisup_core import chunks


@pytest.mark.parametrize(
    "method", ["suncet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("simclr", "moco", "paws"))]
)
def test_blocks_on_two_replicas(training, monkeypatch, method):
    one = training(method)
    one.run(5)
    monkeypatch.setattr(chunks, "LARGEST_BLOCK", 50)  # 8 anchors of a replica, 16 or more references
    used = []
    monkeypatch.setattr(chunks, "_blockwise", lambda *given, real=chunks._blockwise: used.append(1) or real(*given))
    two = training(method, replicas=2)
    two.run(5)
    assert used and distance(two.weights(), one.weights()) <= 1e-9
