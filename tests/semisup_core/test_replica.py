"""Replica on two logical CPU devices: rows in global order, gradients as on one device, half precision promoted."""

import numpy as np
import pytest
import tensorflow as tf

from semisup_core.devices import make_strategy
from semisup_core.replica import Replica

REPLICA = Replica()
FLOATS = (tf.float16, tf.bfloat16)


@pytest.fixture(scope="module")
def strategy():
    return make_strategy(1, 2)


@pytest.fixture
def run(strategy):
    """`run(function, *values)`: each value's item i goes to replica i; returns what each replica returned."""

    def start(function, *values):
        shares = [
            strategy.experimental_distribute_values_from_function(
                lambda context, value=value: tf.constant(value[context.replica_id_in_sync_group])
            )
            for value in values
        ]
        results = tf.function(lambda *shares: strategy.run(function, args=shares))(*shares)
        return [result.numpy() for result in strategy.experimental_local_results(results)]

    return start


@pytest.fixture
def rows():
    """(R, b, D): the shares of two replicas."""
    return np.random.default_rng(0).normal(size=(2, 3, 4))


def test_count_and_index(run):
    assert run(lambda: tf.stack([REPLICA.count, REPLICA.index]))[0].tolist() == [2, 0]
    assert run(lambda: tf.stack([REPLICA.count, REPLICA.index]))[1].tolist() == [2, 1]


def test_all_gather_keeps_the_global_order(run, rows):
    for gathered in run(REPLICA.all_gather, rows):
        assert np.array_equal(gathered, rows.reshape(6, 4))


def test_all_gather_of_labels_keeps_their_type(run):
    for gathered in run(REPLICA.all_gather, np.array([[3, 1], [0, 2]], np.int32)):
        assert gathered.dtype == np.int32 and gathered.tolist() == [3, 1, 0, 2]


def test_gradient_of_all_gather_flows_back_to_the_sender(run, rows):
    weights = np.random.default_rng(1).normal(size=(2, 6, 4))  # each replica weighs all gathered rows in its own way

    def gradient(share, weight):
        with tf.GradientTape() as tape:
            tape.watch(share)
            loss = tf.reduce_sum(weight * REPLICA.all_gather(share))
        return tape.gradient(loss, share)

    expected = weights.sum(axis=0).reshape(2, 3, 4)
    assert np.allclose(run(gradient, rows, weights), expected, rtol=1e-12)


def test_sum_and_mean(run, rows):
    for total, mean in zip(run(REPLICA.sum, rows), run(REPLICA.mean, rows), strict=True):
        assert np.allclose(total, rows[0] + rows[1], rtol=1e-12)
        assert np.allclose(mean, (rows[0] + rows[1]) / 2, rtol=1e-12)


def test_gradient_through_a_mean_is_that_of_one_device(run, rows):
    """A square of the global mean, as when something is averaged over replicas before a non-linear function."""

    def gradient(share):
        with tf.GradientTape() as tape:
            tape.watch(share)
            loss = REPLICA.scale(tf.reduce_sum(REPLICA.mean(tf.reduce_mean(share, axis=0)) ** 2))
        return tape.gradient(loss, share)

    expected = 2 * rows.mean(axis=(0, 1)) / 6
    for found in run(gradient, rows):
        assert np.allclose(found, expected, rtol=1e-12)


def test_positions(run):
    assert [positions.tolist() for positions in run(lambda: REPLICA.positions(3))] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "keep",
    [[[1, 1, 1], [1, 1, 1]], [[1, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 1, 0]]],
    ids=["all", "1 and 3", "0 and 1"],
)
def test_mean_where_is_the_global_mean(run, keep):
    values, keep = np.random.default_rng(2).normal(size=(2, 3)), np.array(keep, bool)
    assert np.mean(run(REPLICA.mean_where, values, keep)) == pytest.approx(values[keep].mean(), rel=1e-12)


def test_mean_where_of_nothing_is_zero(run):
    assert run(REPLICA.mean_where, np.ones((2, 3)), np.zeros((2, 3))) == [0.0, 0.0]


@pytest.mark.parametrize("keep", [[[1, 0, 0], [1, 1, 1]], [[0, 0, 0], [0, 1, 1]]], ids=["1 and 3", "0 and 2"])
def test_gradient_of_mean_where_is_that_of_one_device(run, rows, keep):
    """The trainer sums what the replicas return, so under `scale` the sum must be the gradient of one device."""
    keep, weight = np.array(keep, bool), tf.constant([0.3, -1.2, 0.7, 2.0], tf.float64)

    def gradient(share, kept):
        with tf.GradientTape() as tape:
            tape.watch(weight)
            losses = tf.tanh(tf.linalg.matvec(share, weight))
            loss = REPLICA.scale(REPLICA.mean_where(losses, kept))
        return tape.gradient(loss, weight)

    chosen = rows[keep]  # d tanh(w x) / dw = (1 - tanh^2) x
    expected = ((1 - np.tanh(chosen @ weight.numpy()) ** 2)[:, None] * chosen).mean(axis=0)
    assert np.allclose(sum(run(gradient, rows, keep)), expected, rtol=1e-12)


@pytest.mark.parametrize("half", FLOATS, ids=lambda dtype: dtype.name)
def test_half_precision_crosses_replicas_in_float32(run, half):
    values = np.array([[1.0, 256.0], [2.0, 1.0]], np.float32)  # in bfloat16, 256 + 1 is 256
    gathered = run(lambda share: REPLICA.all_gather(tf.cast(share, half)), values)
    total = run(lambda share: REPLICA.sum(tf.cast(share, half)), values)
    mean = run(lambda share: REPLICA.mean(tf.cast(share, half)), values)
    assert {result.dtype for result in (*gathered, *total, *mean)} == {np.dtype(np.float32)}
    assert [result.tolist() for result in gathered] == [[1, 256, 2, 1]] * 2
    assert [result.tolist() for result in total] == [[3, 257]] * 2
    assert [result.tolist() for result in mean] == [[1.5, 128.5]] * 2


@pytest.mark.parametrize("half", FLOATS, ids=lambda dtype: dtype.name)
def test_mean_where_in_half_precision_is_computed_in_float32(run, half):
    values = np.full((2, 200), 3.0, np.float32)
    values[1, 0] = 4.0
    parts = run(lambda share: REPLICA.mean_where(tf.cast(share, half), tf.ones(200)), values)
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    assert np.mean(parts) == pytest.approx(1201 / 400, rel=1e-6)


@pytest.mark.parametrize("half", FLOATS, ids=lambda dtype: dtype.name)
def test_one_replica_promotes_half_precision_too(half):
    values = tf.cast([[1.0], [2.0]], half)
    assert {f(values).dtype for f in (REPLICA.all_gather, REPLICA.sum, REPLICA.mean)} == {tf.float32}


def test_alone_it_is_the_identity(rows):
    share = tf.constant(rows[0])
    assert REPLICA.count == 1 and int(REPLICA.index) == 0
    for function in (REPLICA.all_gather, REPLICA.sum, REPLICA.mean, REPLICA.scale):
        assert np.array_equal(function(share), share)
    kept = REPLICA.mean_where(share[:, 0], [True, False, True])
    assert float(kept) == pytest.approx((rows[0, 0, 0] + rows[0, 2, 0]) / 2, rel=1e-12)


@pytest.mark.parametrize("use", [lambda: REPLICA.count, lambda: REPLICA.index, lambda: REPLICA.sum(tf.ones(1))])
def test_refuses_a_cross_replica_context(strategy, use):
    with strategy.scope(), pytest.raises(RuntimeError, match="expected a replica context, found a cross-replica one"):
        use()
