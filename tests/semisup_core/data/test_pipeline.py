"""Each replica gets its own shares, and together they are the stream."""

import numpy as np

from semisup_core.data.pipeline import batches


def unlabelled(step):
    return np.arange(step * 8, step * 8 + 8) % 1000


def labelled(step):
    return np.arange(step * 4, step * 4 + 4) % 100


STREAMS = {"unlabelled": unlabelled, "labelled": labelled}


def shares(store, count, **place):
    found = batches(store, STREAMS, first_step=3, **place)
    return [{name: values.numpy() for name, values in part.items()} for part in found.take(count)]


def test_four_replicas_read_what_one_replica_reads(digits):
    whole = shares(digits, 2, replicas=1, replica=0)
    assert [part["step"] for part in whole] == [3, 4]
    assert np.array_equal(whole[1]["unlabelled_rows"], unlabelled(4))
    parts = [shares(digits, 2, replicas=4, replica=replica) for replica in range(4)]
    for step in range(2):
        of_step = [part[step] for part in parts]
        assert [part["step"] for part in of_step] == [3 + step] * 4
        for name in ("unlabelled", "unlabelled_rows", "labelled", "labels"):
            assert np.array_equal(np.concatenate([part[name] for part in of_step]), whole[step][name])


def test_batches_that_are_left_out_keep_their_step(digits):
    (part,) = shares(digits, 1, replicas=1, replica=0, skipped=5)
    assert part["step"] == 3 and np.array_equal(part["unlabelled_rows"], unlabelled(8))
