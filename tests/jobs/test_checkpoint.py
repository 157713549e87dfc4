"""Checkpoints are whole or not there."""

import json
import os

import numpy as np
import pytest

from jobs.checkpoint import Checkpoints
from semisup_core.errors import DataError

STATE = {"encoder/000/kernel": np.arange(6.0).reshape(2, 3), "optimizer0/000/iteration": np.int64(7)}


def saved(folder, step):
    return Checkpoints(folder).save(STATE, {"step": step, "selection": {"step": None}})


def test_what_is_saved_comes_back(tmp_path):
    saved(tmp_path, 12)
    restored = Checkpoints(tmp_path).newest()
    assert restored.step == 12 and restored.meta["selection"] == {"step": None}
    state = restored.state()
    assert state.keys() == STATE.keys() and all(np.array_equal(state[name], STATE[name]) for name in STATE)
    assert {path.name for path in tmp_path.iterdir()} == {"step-000000012"}


def test_no_folder_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path / "none").newest() is None


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda path: flip_byte(path / "state.npz"), "SHA-256"),
        (lambda path: (path / "state.npz").write_bytes(b"short"), "bytes"),
        (lambda path: (path / "meta.json").unlink(), "meta.json"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json"),
    ],
)
def test_a_damaged_newest_one_is_named_and_the_one_before_is_used(tmp_path, damage, words):
    saved(tmp_path, 10)
    damage(saved(tmp_path, 20).path)
    said = []
    assert Checkpoints(tmp_path).newest(said.append).step == 10
    assert len(said) == 1 and "step-000000020" in said[0] and words in said[0]
    assert Checkpoints(tmp_path).open_step(20) is None and Checkpoints(tmp_path).open_step(10).step == 10


def test_another_format_is_refused(tmp_path):
    saved(tmp_path, 10)
    Checkpoints(tmp_path).check_format()
    manifest = saved(tmp_path, 20).path / "manifest.json"
    manifest.write_text(json.dumps({"format_version": 99, "files": {}}))
    with pytest.raises(DataError, match="step-000000020.*format 1, got 99.*resume=false"):
        Checkpoints(tmp_path).check_format()


def test_prune_keeps_the_newest_and_the_best_and_removes_leftovers(tmp_path):
    for step in (5, 10, 15, 20):
        saved(tmp_path, step)
    (tmp_path / ".step-000000025.1.partial").mkdir()
    Checkpoints(tmp_path).prune(step=20, keep=2, best_step=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:09d}" for step in (5, 15, 20)]


def test_prune_keeps_all_when_told_so(tmp_path):
    for step in (5, 10, 15, 20):
        saved(tmp_path, step)
    Checkpoints(tmp_path).prune(step=20, keep="all", best_step=None)
    assert [found.step for found in Checkpoints(tmp_path).usable()] == [5, 10, 15, 20]
    flip_byte(tmp_path / "step-000000010" / "state.npz")
    said = []
    assert [found.step for found in Checkpoints(tmp_path).usable(said.append)] == [5, 15, 20]
    assert len(said) == 1 and "step-000000010" in said[0]


def test_prune_never_takes_the_one_just_saved_for_an_old_one(tmp_path):
    for step in (4, 8, 12):
        saved(tmp_path, step)
    for step in (8, 12):
        flip_byte(tmp_path / f"step-{step:09d}" / "state.npz")
    assert Checkpoints(tmp_path).newest(lambda line: None).step == 4
    saved(tmp_path, 6)
    Checkpoints(tmp_path).prune(step=6, keep=1, best_step=None)
    assert Checkpoints(tmp_path).newest(lambda line: None).step == 6


def test_saving_the_same_step_again_replaces_it(tmp_path):
    saved(tmp_path, 5)
    saved(tmp_path, 5)
    assert Checkpoints(tmp_path).newest().step == 5


def test_what_a_killed_process_of_the_same_id_left_is_in_nobodys_way(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / f".step-000000001.{os.getpid()}.partial").mkdir()
    assert checkpoints.save({"a": np.zeros(1)}, {"step": 1}).step == 1


def test_a_checkpoint_without_a_manifest_does_not_count_as_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save({"a": np.zeros(1)}, {"step": step})
    (tmp_path / "step-000000002" / "manifest.json").unlink()
    checkpoints.prune(3, keep=2, best_step=None)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000000001", "step-000000003"]
