"""What unequal classes mean, in words, from a real store."""

import numpy as np
import pytest

from jobs.data_report import describe_balance
from semisup_core.data.arrays_source import array_source
from semisup_core.data.splits import make_split
from semisup_core.data.writer import write_store


@pytest.fixture
def split_of(tmp_path):
    """(train images a class, test images a class, settings) -> a store and its split."""

    def made(train, test, **settings):
        labels = np.repeat([*range(len(train)), *range(len(test))], [*train, *test])
        splits = np.repeat(["train", "test"], [sum(train), sum(test)])
        pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
        source = array_source(pixels, labels, 4, splits, class_names=["kea", "we\nka"])
        store = write_store(tmp_path / "s", source, corrupt_quota=0, progress=False)
        budget = {"labels_per_class": None, "label_fraction": None, "validation_per_class": 0, "test_fraction": 0.0}
        chosen = {**budget, **settings}
        return store, make_split(store.labels, store.origins, class_names=store.class_names, seed=0, **chosen)

    return made


def test_equal_classes_need_no_words(split_of):
    assert describe_balance(*split_of([20, 4], [3, 3], labels_per_class=4), balanced=True) == ""


def test_balanced_batches_draw_small_classes_more_often(split_of):
    text = describe_balance(*split_of([20, 4], [3, 3]), balanced=True)
    assert "an image of we\\nka (4) is drawn 5.0 times as often as one of kea (20)" in text
    assert text.count("\n") == 0


def test_a_fraction_keeps_the_ratio_with_one_or_more_of_each(split_of):
    text = describe_balance(*split_of([20, 4], [3, 3], label_fraction=0.1), balanced=False)
    assert "Labelled batches hold the classes as they are: 2.0 times as many of kea (2) as of we\\nka (1)" in text


def test_accuracy_over_unequal_test_images(split_of):
    text = describe_balance(*split_of([20, 4], [6, 1], labels_per_class=4), balanced=True)
    assert text.startswith("Accuracies count test images") and "balanced accuracy" in text
