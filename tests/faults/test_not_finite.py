"""A loss that is not finite: the run stops, or goes back and leaves the bad batches out."""

import fault_jobs
import numpy as np
import pytest
import tensorflow as tf
from small_jobs import SMALL, clean

from jobs import cluster, config, driver
from jobs.build import build_streams
from jobs.checkpoint import Checkpoints
from jobs.plan import make_plan
from jobs.prepare import split_of
from jobs.tracking import read_rows
from semisup_core.errors import NumericalError
from semisup_core.methods.suncet import Suncet

GO_BACK = ["trainer.on_nan=rollback", "trainer.max_rollbacks=2"]


def line(storage, *more):
    return config.load([f"storage={storage}", "name=run", "method=suncet_head", *SMALL, *more])


@pytest.fixture
def poison(monkeypatch, digits):
    """poison(batches): the loss is NaN with these unlabelled batches of the stream, and with no other one of a run."""
    real = Suncet.loss

    def patch(batches, run=None):
        run = run or line("unused")
        split = split_of(run, digits)
        stream = build_streams(run, digits, split, make_plan(run, split, 10, 1))["unlabelled"]
        others = [stream(index) for index in range(90) if index not in batches]
        rows = np.setdiff1d([stream(index) for index in batches], others)
        assert len(rows)

        def loss(self, batch, progress, replica):
            value, metrics, carry = real(self, batch, progress, replica)
            bad = tf.reduce_any(batch.rows["unlabelled"][:, None] == rows[None])
            return tf.where(bad, tf.cast(float("nan"), value.dtype), value), metrics, carry

        monkeypatch.setattr(Suncet, "loss", loss)
        return loss

    return patch


def state(storage):
    return Checkpoints(storage / "run" / "checkpoints").newest()


def test_one_bad_batch_is_left_out(tmp_path, poison, capsys):
    poison([5])
    summary = driver.train(line(tmp_path, *GO_BACK))
    assert summary["complete"] and summary["steps"] == 12
    said = capsys.readouterr().out
    assert "the loss of step 6 is nan; going back to step 4 and leaving out the batches up to step 6 (1 of" in said
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 13))
    assert [row for row in rows if "rollback/to" in row] == [{"step": 5, "rollback/from": 6, "rollback/to": 4}]
    assert state(tmp_path).skipped == [(4, 6)]


def test_what_was_left_out_stays_out_when_the_run_resumes(tmp_path, poison, monkeypatch):
    poison([5])
    driver.train(line(tmp_path / "straight", *GO_BACK))
    driver.train(line(tmp_path / "resumed", *GO_BACK, "debug.steps=9"))
    monkeypatch.undo()
    driver.train(line(tmp_path / "resumed", *GO_BACK))
    driver.train(line(tmp_path / "sound"))
    straight, resumed, sound = (tmp_path / name for name in ("straight", "resumed", "sound"))
    states = {folder: state(folder).state() for folder in (straight, resumed, sound)}
    assert all(np.array_equal(states[straight][key], states[resumed][key]) for key in states[straight])
    assert any(not np.array_equal(states[straight][key], states[sound][key]) for key in states[straight])
    logs = [clean(read_rows(folder / "run" / "metrics.jsonl")) for folder in (straight, resumed)]
    assert logs[0] == logs[1]


def test_a_run_that_stays_bad_stops_after_so_many_times(tmp_path, poison):
    poison(range(5, 20))
    bad = r"the loss of step 5 is nan after 2 rollbacks; the last good checkpoint is .*step-000000004"
    with pytest.raises(NumericalError, match=bad):
        driver.train(line(tmp_path, *GO_BACK))


def test_a_run_stops_when_it_may_not_go_back_and_can_be_allowed_to_later(tmp_path, poison):
    poison([5])
    with pytest.raises(NumericalError, match=r"the loss of step 6 is nan; .*step-000000004.*trainer.on_nan=rollback"):
        driver.train(line(tmp_path))
    assert driver.train(line(tmp_path, *GO_BACK))["complete"]


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path, poison):
    poison([1])
    with pytest.raises(NumericalError, match="the loss of step 2 is nan; there is no checkpoint yet"):
        driver.train(line(tmp_path, *GO_BACK))


@pytest.mark.faults
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(400)
def test_two_workers_go_back_together(tmp_path, poison, monkeypatch, capfd):
    # One pass over the images, so that the bad ones come once; on one of the workers only, or on both.
    chosen = [*fault_jobs.SMALL, "method=suncet_head", "trainer.epochs=2", *GO_BACK]
    bad_loss = poison([40], config.load(["storage=unused", *chosen]))
    alone = ["runtime=local", "runtime.num_workers=1"]
    driver.train(config.load([f"storage={tmp_path / 'one'}", *chosen, *alone]))

    def work(job):
        from jobs.cluster import _work
        from semisup_core.methods.suncet import Suncet

        Suncet.loss = bad_loss
        _work(job)

    monkeypatch.setattr(cluster, "_work", work)
    driver.train(config.load([f"storage={tmp_path / 'two'}", *chosen]))
    assert capfd.readouterr().out.count("going back to step 30 and leaving out the batches up to step") == 2
    fault_jobs.check_same_run(tmp_path / "two" / "run", tmp_path / "one" / "run")


def test_going_back_past_a_damaged_checkpoint_keeps_every_row_once(tmp_path, poison, monkeypatch):
    poison([9])
    real, damaged = Checkpoints.save, []

    def save(self, state, meta, spool=None):
        saved = real(self, state, meta, spool)
        if meta["step"] == 8 and not damaged:
            damaged.append((saved.path / "state.npz").write_bytes(b""))
        return saved

    monkeypatch.setattr(Checkpoints, "save", save)
    assert driver.train(line(tmp_path, *GO_BACK))["complete"] and damaged
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 13))
    assert [(row["rollback/from"], row["rollback/to"]) for row in rows if "rollback/to" in row] == [(10, 4)]
    assert Checkpoints(tmp_path / "run" / "checkpoints").open_step(8)  # saved anew
