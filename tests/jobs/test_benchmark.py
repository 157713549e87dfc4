"""The benchmark measures what it says: its clock, its counts, its yardstick, and the step it takes apart."""

import json
import math
import time

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf

from jobs.benchmarks import parts, step, whole_runs
from jobs.benchmarks.images import with_random_images
from jobs.benchmarks.operations import count_operations
from jobs.benchmarks.ordinary import OrdinarySuncet
from jobs.benchmarks.report import Row, table, write_report
from jobs.benchmarks.timing import Figure, figure, in_turns, ratio
from jobs.benchmarks.trace import operation_seconds
from jobs.benchmarks.turns import RunInTurns
from jobs.config import load
from jobs.driver import train
from jobs.errors import TrainingError
from semisup_core.devices import processor, set_precision
from semisup_core.policy import NONE
from semisup_core.trainer import Trainer

REFERENCE = "configs/experiment/reference_step.yaml"
SMALL = ["trainer.precision=float32", "dataset.image_size=32", "encoder.width=8"]
SMALL += ["trainer.unlabelled_batch=20", "trainer.labelled_batch=20"]


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return step.make_training(with_random_images(load(SMALL, REFERENCE), tmp_path_factory.mktemp("benchmark")))


class TestTiming:
    @pytest.mark.parametrize(("count", "left_out"), [(1, 0), (5, 0), (6, 0), (9, 1), (10, 1), (20, 5), (40, 13)])
    def test_the_interval_is_that_of_the_sign_test(self, count, left_out):
        values = np.random.default_rng(0).permutation(count)
        assert figure(values) == Figure(np.median(values), left_out, count - 1 - left_out)
        # The coverage of the interval by the binomial distribution: at least 95 %, and the next shorter one has less.
        covered = [1 - 2 * sum(math.comb(count, i) for i in range(out + 1)) / 2**count for out in range(left_out + 2)]
        assert covered[left_out] >= 0.95 or count < 6
        assert covered[left_out + 1] < 0.95

    def test_ratios_are_paired(self):
        slow_moment = np.array([1.0, 1.0, 50.0, 1.0])
        assert ratio(3 * slow_moment, slow_moment) == Figure(3.0, 3.0, 3.0)

    def test_functions_are_called_in_turns_and_back(self):
        calls = []
        times = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 0.0, fewest=2)
        assert "".join(calls) == "ab" + "ab" + "ba" and [len(values) for values in times.values()] == [2, 2]

    def test_a_function_may_time_itself(self):
        assert in_turns({"own": lambda: 0.125}, 0.0, fewest=1) == {"own": [0.125]}

    def test_a_rate_turns_the_interval_round(self):
        assert Figure(2.0, 1.0, 4.0).inverse(8.0) == Figure(4.0, 2.0, 8.0)


class TestOperations:
    def test_products_and_convolutions(self):
        a, b, images = tf.zeros((3, 5)), tf.zeros((5, 7)), tf.zeros((2, 9, 9, 3))
        kernel = tf.zeros((3, 3, 3, 4))
        assert count_operations(tf.matmul, a, b) == 2 * 3 * 5 * 7
        assert count_operations(lambda x, y: tf.matmul(x, y, transpose_a=True), tf.zeros((5, 3)), b) == 2 * 3 * 5 * 7
        forward = 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)
        assert count_operations(lambda x, k: tf.nn.conv2d(x, k, 2, "VALID"), images, kernel) == forward

        def gradients(x, k):
            with tf.GradientTape() as tape:
                tape.watch([x, k])
                y = tf.nn.conv2d(x, k, 2, "VALID")
            return tape.gradient(y, [x, k]), y

        assert count_operations(gradients, images, kernel) == 3 * forward

    def test_the_reference_step(self, training):
        views, places, counted = 60, (15, 7, 3, 1), 0
        for channels, side in zip((3, 8, 8, 8), places, strict=True):
            # The first layer has no gradient of its input.
            counted += (2 if channels == 3 else 3) * 2 * views * side * side * 9 * channels * 8
        counted += 3 * 2 * views * 8 * 8  # dense
        losses = 3 * 2 * (20 * 20 * 8) * 2  # cosines and their gradients
        assert step.operations(training) == counted + losses


class TestStep:
    def test_the_last_stage_is_the_whole_step(self, training):
        state = training.trainer.state()
        step.whole(training, training.iterators(held=True), 3)()
        expected = training.trainer.state()
        training.trainer.load_state(state, 0)
        step.until(training, "update", training.iterators(held=True), 3)()
        found = training.trainer.state()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert any(not np.array_equal(found[name], state[name]) for name in expected)

    @pytest.mark.parametrize("stage", step.STAGES[:-1])
    def test_earlier_stages_change_nothing(self, training, stage):
        state = training.trainer.state()
        step.until(training, stage, training.iterators(), 2)()
        assert all(np.array_equal(values, state[name]) for name, values in training.trainer.state().items())

    def test_a_held_batch_is_the_first_one(self, training):
        (real,), (held,) = training.iterators(), training.iterators(held=True)
        first = next(real)
        for _ in range(2):
            again = next(held)
            assert all(np.array_equal(again[name], first[name]) for name in first)


def test_stages_are_differences(training, monkeypatch):
    ends = {"augmentation": 1, "forward": 3, "backward": 7, "update": 8, "held": 10, "whole": 13, "one a call": 20}

    def timed(functions, seconds, fewest):
        for function in functions.values():
            function()
        assert list(functions) == list(ends)
        return {name: [2.0 * end, 4.0 * end, 3.0 * end] for name, end in ends.items()}  # of two steps

    monkeypatch.setattr(parts, "steps_a_call", lambda training: 2)
    monkeypatch.setattr(parts, "in_turns", timed)
    monkeypatch.setattr(parts, "operation_seconds", lambda run: {"MatMul": 4.0, "Relu": 2.0})
    rows = {row.name: row.figure.median for row in parts.stages(training, 0.0)}
    traced = {name.removeprefix("trace: "): rows.pop(name) for name in [*rows] if name.startswith("trace: ")}
    assert traced == {"MatMul": 2000.0, "Relu": 1000.0, "other operations": 0.0}
    expected = {"augmentation": 1, "forward": 2, "backward": 4, "update": 1, "rest": 2, "input wait": 3, "host": 7}
    assert rows == {name: 1500.0 * part for name, part in expected.items()}


def test_a_trace_has_the_convolutions_of_a_step(tmp_path):
    words = [*SMALL, "trainer.precision=mixed_bfloat16"]
    set_precision("mixed_bfloat16")
    try:
        training = step.make_training(with_random_images(load(words, REFERENCE), tmp_path))
    finally:
        set_precision("float32")
    run = step.whole(training, training.iterators(held=True), 2)
    run()
    seconds = operation_seconds(run)
    assert {"Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput", "ReluGrad"} <= {*seconds}
    assert all(0 < value < 60 for value in seconds.values()) and [*seconds.values()] == sorted(seconds.values())[::-1]


def test_only_what_the_yardstick_does_is_compared_with_it(tmp_path):
    words = ["optimizer.name=sgd", "augmentation.strong.blur=0.5", "encoder.output_relu=true"]
    for i, word in enumerate(["seed=0", *words]):
        config = with_random_images(load([*SMALL, word], REFERENCE), tmp_path / str(i))
        assert (parts._ordinary(step.make_training(config), 1) is None) == (word in words)


def test_the_yardstick_computes_the_same_loss(training):
    ours = training.method.modules["encoder"]
    model = OrdinarySuncet(32, NONE, 8, training.config.method.temperature)
    model.encoder.set_weights([keras.ops.convert_to_numpy(weight) for weight in ours.weights])
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    elements = next(training.iterators()[0])
    images = {name: tf.cast(elements[name], tf.float32) for name in ("unlabelled", "labelled")}
    batch = {"unlabelled": (images["unlabelled"],) * 2, "labelled": (images["labelled"],)}
    from semisup_core.methods.base import Batch
    from semisup_core.replica import Replica

    expected, _, _ = training.method.loss(Batch(batch, elements["labels"], {}), None, Replica())
    found = model.train_step((elements["unlabelled"], (elements["labelled"], elements["labels"])))["loss"]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_report(tmp_path):
    rows = [Row("step", "views", Figure(1234.5, 1200.0, 1300.0), "1/s", "words"), Row("step", "x", Figure(2, 2, 2))]
    assert "1,234 1/s" in table(rows) and "[1,200, 1,300]" in table(rows)
    write_report(rows, {"devices": ["CPU"]}, tmp_path)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert written["devices"] == ["CPU"] and written["figures"][0]["figure"]["median"] == 1234.5
    assert (tmp_path / "step.png").read_bytes()[:4] == b"\x89PNG"


def test_command(tmp_path, cli):
    done = cli("jobs.benchmark", "input", *SMALL, f"storage={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "pipeline" in done.stdout and "random rows" in done.stdout
    figures = json.loads((tmp_path / "benchmark" / "benchmark.json").read_text())["figures"]
    assert {row["part"] for row in figures} == {"input"}


def test_a_part_that_is_not_there(cli):
    done = cli("jobs.benchmark", "stpe")
    assert done.returncode == 2 and "did you mean step?" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_step_is_faster_than_the_ordinary_one(tmp_path, cli):
    """The guard: a slower step fails here. It runs beside other tests, so it compares, and generously."""
    fast = "avx512_bf16" in processor()[1]
    words = [
        "dataset.image_size=32",
        "encoder.width=64",
        f"trainer.precision={'mixed_bfloat16' if fast else 'float32'}",
    ]
    done = cli("jobs.benchmark", "step", *words, f"storage={tmp_path}")
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    figures = json.loads((tmp_path / "benchmark" / "benchmark.json").read_text())["figures"]
    (times,) = (row["figure"] for row in figures if row["name"] == "times the ordinary")
    assert times["median"] >= (1.5 if fast else 1.1), done.stdout


@pytest.mark.slow
def test_runs_train_only_in_their_turns(training):
    before = psutil.Process().children(recursive=True)
    run = RunInTurns(training.config, "runtime=local", steps=40)
    try:
        (process,) = set(psutil.Process().children(recursive=True)) - set(before)
        for _ in range(3):
            assert process.status() == psutil.STATUS_STOPPED
            spent = process.cpu_times().user
            time.sleep(2.5)  # others' turns
            assert process.cpu_times().user == spent
            run.turn(2.0)
            assert process.cpu_times().user > spent
    finally:
        turns = run.end()
    assert all(turns) and 2 <= len(turns) <= 3  # one fewer where a pause fell between two epochs
    assert sum(map(sum, turns)) < 3 * 2.1 and all(seconds < 2.0 for turn in turns for seconds in turn)
    assert not process.is_running()


@pytest.mark.slow
def test_overheads(training):
    rows = {row.name: row.figure.median for row in whole_runs.overheads(training, steps=40, repeats=1)}
    assert rows["Ray run, to a local run"] > 0.5 and rows["Ray run, to the bare loop"] > 0.4
    assert 0.0 < rows["Ray run, driver and Ray's own processes"] < 0.5
    assert 0.0 < rows["evaluation, share of an epoch"] < 1.0
    assert not [each for each in psutil.Process().children(recursive=True) if "jobs.train" in each.cmdline()]


def test_a_run_in_turns_that_fails_says_why(training):
    with pytest.raises(TrainingError, match="exit code 2:(.|\n)*encoder.width"):
        RunInTurns(training.config, "runtime=local", "encoder.width=-1", steps=2)


@pytest.mark.slow
def test_the_largest_batch_is_found(tmp_path):
    """With 1.2 GiB to take, a real allocation fails sooner or later; what fitted before has a speed."""
    config = with_random_images(load([*SMALL, "encoder.width=64"], REFERENCE), tmp_path)
    rows = whole_runs.largest_batch(step.make_training(config), memory=1_200 * 2**20)
    assert [row.words for row in rows] == ["fits"] * (len(rows) - 1) + ["does not fit"] and len(rows) > 1
    assert [row.name for row in rows[:2]] == ["20 + 20", "40 + 40"]
    assert all(row.figure.median > 0 for row in rows[:-1])


def test_a_step_that_does_not_fit_says_what_to_do(tmp_path, monkeypatch):
    @tf.function
    def too_large(side):
        return tf.reduce_sum(tf.ones((side, side, 2**15)))

    def run(*given):
        return too_large(tf.constant(2**15))  # 128 TiB

    monkeypatch.setattr(Trainer, "run", run)
    config = load([f"storage={tmp_path}", "runtime=local", "encoder.width=8", "trainer.unlabelled_batch=20"])
    words = r"a step of 20 unlabelled .* does not fit into the memory of CPU: .*OOM .*; lower trainer"
    with pytest.raises(TrainingError, match=words):
        train(config)
