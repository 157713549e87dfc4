"""Index streams as functions of seed and step."""

import numpy as np
import pytest

from semisup_core.data.sampling import LabelledStream, UnlabelledStream

ROWS = np.arange(100, 203)


def labelled(batch, *, balanced=True, classes=None, counts=(7, 5, 9, 6, 8), seed=3):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(labels)) * 10
    return LabelledStream(rows, labels, batch, seed, balanced, classes), dict(zip(rows, labels, strict=True))


def test_unlabelled_epoch_is_a_permutation_with_the_rest_dropped():
    stream = UnlabelledStream(ROWS, 20, 5, seed=0)
    epochs = [np.concatenate([stream(epoch * 5 + k) for k in range(5)]) for epoch in range(2)]
    for epoch in epochs:
        assert len(set(epoch)) == 100 and set(epoch) <= set(ROWS)
    assert not np.array_equal(*epochs)


def test_unlabelled_is_random_access_and_depends_on_the_seed():
    straight = UnlabelledStream(ROWS, 20, 5, seed=0)
    batches = [straight(step) for step in range(12)]
    again = UnlabelledStream(ROWS, 20, 5, seed=0)
    assert all(np.array_equal(again(step), batches[step]) for step in (11, 3, 7, 0))
    assert not np.array_equal(UnlabelledStream(ROWS, 20, 5, seed=1)(0), batches[0])


def test_unlabelled_epochs_longer_than_the_pool_go_on_into_new_permutations():
    stream = UnlabelledStream(ROWS, 20, 12, seed=0)
    passes = [np.concatenate([stream(k) for k in range(start, start + 5)]) for start in (0, 5)]
    assert all(len(set(rows)) == 100 for rows in passes) and not np.array_equal(*passes)
    first_epoch = {tuple(stream(k)) for k in range(12)}
    assert tuple(stream(12)) not in first_epoch


def test_unlabelled_batch_larger_than_the_pool_is_refused():
    with pytest.raises(ValueError, match="at most 103"):
        UnlabelledStream(ROWS, 104, 1, seed=0)


def test_balanced_batches_hold_every_class_equally():
    stream, label_of = labelled(15)
    for step in range(10):
        assert [label_of[row] for row in stream(step)] == sorted(list(range(5)) * 3)


def test_balanced_classes_have_epochs_of_their_own():
    stream, label_of = labelled(10)
    for c, count in enumerate((7, 5, 9, 6, 8)):
        batches = [[row for row in stream(step) if label_of[row] == c] for step in range(4 * (count // 2))]
        epochs = [sum(batches[start : start + count // 2], []) for start in range(0, len(batches), count // 2)]
        assert all(len(set(epoch)) == count // 2 * 2 for epoch in epochs)  # distinct, the rest dropped
        assert len(set(map(tuple, epochs))) == len(epochs)
        assert len(set(sum(epochs, []))) > count // 2 * 2 or count % 2 == 0  # what is dropped differs


def test_a_small_class_repeats_its_images():
    stream, label_of = labelled(40)
    rows = list(stream(1))
    assert stream.repeats and len(rows) == 40
    assert all(rows.count(row) in (1, 2) for row, c in label_of.items() if c == 1)
    assert not labelled(10)[0].repeats


def test_unbalanced_batches_run_through_all_labelled_images():
    stream, label_of = labelled(7, balanced=False)
    taken = np.concatenate([stream(step) for step in range(5)])
    assert set(taken) == set(label_of) and len(taken) == 35
    assert not np.array_equal(stream(0), stream(5))


def test_classes_per_batch_draws_classes_without_repeats():
    stream, label_of = labelled(6, classes=2)
    seen = set()
    for step in range(20):
        classes = [label_of[row] for row in stream(step)]
        assert len(set(classes)) == 2 and classes == sorted(classes) and len(set(stream(step))) == 6
        seen |= set(classes)
    assert seen == set(range(5))
    assert np.array_equal(labelled(6, classes=2)[0](13), stream(13))


def test_labelled_batch_must_be_a_multiple_of_its_classes():
    with pytest.raises(ValueError, match="nearest: 10, 15"):
        labelled(12)
