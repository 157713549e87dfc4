"""What helps someone who looks for a mistake: `jobs.debug` and the switches of `debug`."""

import inspect
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_jobs import SMALL

from jobs import config, driver, layers
from jobs.errors import ConfigError, TrainingError
from jobs.identity import run_name
from jobs.tracking import read_rows
from semisup_core.errors import NumericalError

ROOT = Path(__file__).resolve().parents[2]
# Methods with a classifier have no projection head, and another protocol.
LINE = [word for word in SMALL if not word.startswith(("method.", "evaluation."))]
DIVERGING = ["optimizer.name=sgd", "optimizer.learning_rate=1e30", "optimizer.warmup_epochs=0"]


def small(storage, name, *overrides):
    return config.load([f"storage={storage}", f"name={name}", *LINE, "resume=false", *overrides])


def test_a_few_steps_without_ray_leave_what_the_loss_saw(storage, digits):
    words = [f"storage={storage}", *LINE, "method=fixmatch"]
    code = (
        f"import sys; sys.argv = ['jobs.debug', *{words!r}]\n"
        "from jobs import debug\n"
        "debug.main()\n"
        "print('ray' in sys.modules)"
    )
    for _ in range(2):  # the second one takes the place of the first
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "False"
        assert "stopped after step 4 of" in done.stdout and "moved" not in done.stdout
    run = storage / "debug"
    assert len([row for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]) == 4
    for name in ("gallery", "batch_labelled", "batch_weak", "batch_strong"):
        assert (run / f"{name}.png").stat().st_size > 1000
    with np.load(run / "batch.npz") as batch:
        assert np.array_equal(digits.labels[batch["labelled_rows"]], batch["labels"])
        assert batch["weak_0"].shape == batch["strong_0"].shape == (len(batch["unlabelled_rows"]), *digits.image_shape)
        assert batch["labelled_0"].shape[0] == len(batch["labels"])
        # A weak view is close to its image, and a strong one of the same image is further away.
        images = digits.read(batch["unlabelled_rows"]).astype(float)
        assert np.abs(batch["weak_0"] - images).mean() < np.abs(batch["strong_0"] - images).mean()


def test_a_batch_is_the_one_that_the_first_step_sees(storage):
    one, two = (
        driver.train(small(storage, name, "debug.steps=1", "debug.dump_batch=true", "method=info_nce", *more))
        or np.load(storage / name / "batch.npz")
        for name, more in (("whole", []), ("halves", ["debug.logical_devices=2"]))
    )
    # Of two replicas, the first one's share.
    assert np.array_equal(one["unlabelled_rows"][: len(two["unlabelled_rows"])], two["unlabelled_rows"])
    half = len(two["unlabelled_1"])
    assert half == len(one["unlabelled_1"]) // 2
    assert np.allclose(one["unlabelled_1"][:half], two["unlabelled_1"], atol=1e-3)


@pytest.mark.parametrize("eager", ["true", "false"])
def test_the_first_operation_that_is_not_finite_is_named(storage, eager):
    run = small(storage, "numerics", *DIVERGING, "debug.check_numerics=true", f"debug.eager={eager}")
    with pytest.raises(NumericalError) as error:
        driver.train(run)
    where = re.search(r"steps \d+ to \d+: first in the result of \w+, (\S+):(\d+) in (\w+)", str(error.value))
    assert where, error.value
    assert Path(where[1]).is_relative_to(ROOT / "semisup_core") and int(where[2]) > 1
    assert f"def {where[3]}(" in Path(where[1]).read_text()


def test_one_batch_is_learnt_by_heart_or_the_run_fails(storage, capsys):
    words = ["debug.overfit_batch=true", "debug.steps=60", "trainer.steps_per_epoch=30", "method=cross_entropy"]
    driver.train(small(storage, "overfit", *words, "optimizer.learning_rate=0.01"))
    said = capsys.readouterr().out
    assert re.search(r"overfit_batch: the loss went from 2\.\d+ to [01]\.\d+ in 60 steps, \d+% of", said)
    rows = [row for row in read_rows(storage / "overfit" / "metrics.jsonl") if "train/loss" in row]
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] / 2
    with pytest.raises(TrainingError, match="to the least possible, 0.0000; expected at least 50%"):
        driver.train(small(storage, "overfit", *words, "optimizer.learning_rate=1e-9"))
    with pytest.raises(ConfigError, match="expected debug.steps=200"):
        small(storage, "overfit", "debug.overfit_batch=true")


def test_a_run_on_one_batch_is_not_the_run():
    names = [
        run_name(config.load(words), {})
        for words in (
            [],
            ["debug.steps=3", "debug.profile=true"],
            ["debug.steps=3", "debug.overfit_batch=true", "resume=false"],
        )
    ]
    assert names[0] == names[1] != names[2]


def test_a_profile_is_a_trace_of_later_steps(storage, capsys):
    driver.train(small(storage, "profiled", "debug.profile=true", "debug.steps=3", "trainer.steps_per_call=1"))
    assert f"profiler trace: {storage / 'profiled' / 'profile'}" in capsys.readouterr().out
    (trace,) = (storage / "profiled" / "profile").rglob("*.xplane.pb")
    assert b"Conv2D" in trace.read_bytes()


def test_a_breakpoint_in_a_loss_is_hit(storage):
    from semisup_core.methods.cross_entropy import CrossEntropy

    lines, first = inspect.getsourcelines(CrossEntropy.loss)
    last = first + len(lines) - 1
    main, terminal = pty.openpty()
    commands = ["-c", f"break {inspect.getsourcefile(CrossEntropy)}:{last}", "-c", "continue"]
    words = ["jobs.debug", f"storage={storage}", *LINE, "name=broken", "method=cross_entropy"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pdb", *commands, "-m", *words],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)

    unread = bytearray()

    def until(words):
        while words not in unread:
            unread.extend(os.read(main, 4096))
            assert b"The program exited" not in unread, unread.decode()
        end = unread.index(words) + len(words)
        seen = unread[:end].decode()
        del unread[:end]
        return seen

    try:
        stopped = until(b"return loss")
        assert "cross_entropy.py" in stopped and "loss()" in stopped
        until(b"(Pdb)")
        os.write(main, b"p batch.labels.shape, float(loss) > 0\n")
        assert "(TensorShape([20]), True)" in until(b"(Pdb)")
    finally:
        process.kill()
        process.wait()
        os.close(main)


@pytest.mark.slow
@pytest.mark.parametrize("method", layers.members("method"))
def test_every_method_learns_a_batch_with_finite_numbers(storage, trained_run, method):
    words = ["debug.overfit_batch=true", "debug.steps=200", "trainer.steps_per_epoch=200", "debug.check_numerics=true"]
    words += ["optimizer.learning_rate=0.01", "optimizer.warmup_epochs=0", "optimizer.schedule=constant"]
    words += [f"encoder.init={trained_run.path}"] if method in ("linear_probe", "fine_tune") else ["encoder.width=32"]
    if method == "moco":  # no batch by heart: its negatives would be earlier keys of the same images
        with pytest.raises(ConfigError, match="expected a method whose loss falls on one batch, got moco"):
            config.load([f"method={method}", "resume=false", *words])
        words += ["debug.overfit_batch=false"]
    if method == "linear_probe":  # of features that stay as they are, which need not tell the images apart
        words += ["debug.overfit_batch=false"]
    driver.train(config.load([f"storage={storage}", "name=learns", *LINE, f"method={method}", "resume=false", *words]))
