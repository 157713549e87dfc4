"""Raw-pixel results are measured once for the same data, split, pool and protocol."""

import pytest

from jobs import baselines, config
from jobs.baselines import pixel_baselines
from jobs.prepare import split_of
from jobs.storage import FolderStorage
from semisup_core.evaluation.protocols import Measured


@pytest.fixture
def measured_pixels(digits, tmp_path):
    """`measured_pixels(protocols, seed)` -> results, and what had to be measured for them."""

    def run(protocols, seed=0):
        asked = []

        def measure(names):
            asked.extend(names)
            return [Measured(name, 0.25, 400, "", (0.2, 0.3), 0.24) for name in names]

        split = split_of(config.load([f"seed={seed}"]), digits)
        return pixel_baselines(FolderStorage(tmp_path), digits, split, "test", protocols, measure), asked

    return run


def test_what_was_measured_is_read(measured_pixels):
    first, asked = measured_pixels(["knn20", "classifier", "linear"])
    assert asked == ["knn20", "linear"] and [row.protocol for row in first] == asked
    again, asked = measured_pixels(["linear", "soft_nn", "knn20"])
    assert asked == ["soft_nn"] and again[0] == first[1] and again[2] == first[0]


def test_another_split_or_another_protocol_of_the_same_name_is_measured(measured_pixels, monkeypatch):
    measured_pixels(["knn20"])
    assert measured_pixels(["knn20"], seed=1)[1] == ["knn20"]
    monkeypatch.setitem(baselines.DESCRIPTIONS, "knn20", "redefined")
    assert measured_pixels(["knn20"])[1] == ["knn20"]


def test_a_damaged_file_is_measured_again(measured_pixels, tmp_path):
    measured_pixels(["knn20"])
    (file,) = (tmp_path / "baselines").iterdir()
    file.write_text(file.read_text()[:20])
    assert measured_pixels(["knn20"])[1] == ["knn20"] and measured_pixels(["knn20"])[1] == []
