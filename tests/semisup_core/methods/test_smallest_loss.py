"""The least loss that a method says a batch can have, against its loss on the best features there can be."""

import math

import numpy as np
import pytest

from semisup_core.methods import (
    CrossEntropyParams,
    InfoNCEParams,
    PawsParams,
    SimclrParams,
    SuncetParams,
)
from semisup_core.similarity import info_nce, neighbour_cross_entropy, nt_xent

TEMPERATURE = 0.5


def simplex(count):
    """Directions as far from each other as so many can be, (count, count)."""
    return np.eye(count) - 1 / count


def test_of_pairs():
    rows, places = simplex(6), np.arange(6)
    one = InfoNCEParams(temperature=TEMPERATURE).smallest_loss(6, 0, 3)
    assert np.mean(info_nce(rows, rows, places, TEMPERATURE)) == pytest.approx(one)
    both = SimclrParams(temperature=TEMPERATURE).smallest_loss(6, 0, 3)
    assert np.mean(nt_xent(rows, rows, rows, places, TEMPERATURE)) == pytest.approx(both)
    other = SimclrParams(temperature=TEMPERATURE, negatives="other_view").smallest_loss(6, 0, 3)
    assert other == pytest.approx(one) and other < both


def test_of_pairs_and_classes():
    labels = np.repeat(np.arange(3), 4)
    rows, places = simplex(3)[labels], np.arange(12)
    supervised, _ = neighbour_cross_entropy(rows, labels, rows, labels, places, TEMPERATURE)
    pairs = InfoNCEParams(temperature=TEMPERATURE).smallest_loss(6, 12, 3)
    both = SuncetParams(temperature=TEMPERATURE, supervised_weight=2.0).smallest_loss(6, 12, 3)
    assert both == pytest.approx(pairs + 2 * np.mean(supervised))


def test_of_the_others():
    assert CrossEntropyParams().smallest_loss(0, 8, 4) == 0
    assert PawsParams(entropy_weight=2.0).smallest_loss(8, 8, 4) == pytest.approx(-2 * math.log(4))


def test_of_one_image():
    assert InfoNCEParams().smallest_loss(1, 0, 2) == 0
