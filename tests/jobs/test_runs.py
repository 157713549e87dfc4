"""`jobs.runs`: every state of a run, the command that resumes it, and an answer without anything heavy."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import config, driver
from jobs.checkpoint import Checkpoints
from jobs.folder import RunFolder
from jobs.run_list import list_runs, run_line
from jobs.storage import FolderStorage

ROOT = Path(__file__).parents[2]
QUICK = [
    "runtime=local",
    "encoder.width=8",
    "method.projection=[8]",
    "trainer.steps_per_epoch=4",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "evaluation.protocols=[knn20]",
    "evaluation.monitor=knn20",
]


def test_a_finished_run_shows_its_best_with_protocol_and_interval(trained_run):
    line = run_line(RunFolder(trained_run.path))
    summary = json.loads((trained_run.path / "summary.json").read_text())
    accuracy = summary["test"]["classifier"]["accuracy"]
    assert line.state == f"finished, epoch {summary['epoch']} kept" and line.method == "cross_entropy"
    assert line.best.startswith(f"test classifier {accuracy:.4f} (0.") and line.dataset == "folder"


def test_what_is_listed_for_stopped_unfinished_and_broken_runs(run_copy, command):
    def changed(name, change):
        path = run_copy.storage / name
        shutil.copytree(run_copy.path, path)
        change(path)

    def stopped(path):
        summary = json.loads((path / "summary.json").read_text())
        changes = {"complete": False, "stopped": "trainer.max_minutes=1.0 used up"}
        (path / "summary.json").write_text(json.dumps({**summary, **changes}))

    def unfinished(path):
        (path / "summary.json").unlink()
        shutil.rmtree(sorted((path / "checkpoints").iterdir())[-1])

    def gone_on(path):
        stopped(path)
        newest = Checkpoints(path / "checkpoints").newest()
        Checkpoints(path / "checkpoints").save(newest.state(), {**newest.meta, "step": 999, "epoch": 9})

    changed("stopped", stopped)
    changed("unfinished", unfinished)
    changed("gone-on", gone_on)
    changed("early", lambda path: [(path / "summary.json").unlink(), shutil.rmtree(path / "checkpoints")])
    changed("broken-summary", lambda path: (path / "summary.json").write_text("{"))
    changed("broken-config", lambda path: (path / "config.yaml").write_text("method: [}"))
    changed("empty-config", lambda path: (path / "config.yaml").write_text(""))
    changed("no-config", lambda path: (path / "config.yaml").unlink())
    (run_copy.storage / "notes").mkdir()
    states = {path.name: run_line(RunFolder(path)).state for path in run_copy.storage.iterdir() if path.is_dir()}
    assert states["stopped"] == "stopped: trainer.max_minutes=1.0 used up"
    assert states["unfinished"] == "unfinished, epoch 2 of 3" and states["gone-on"] == "unfinished, epoch 9 of 3"
    assert states["early"] == "no checkpoint"
    assert all(state.startswith("broken: ") for name, state in states.items() if "config" in name or "broken" in name)
    done = command("jobs.runs", f"storage={run_copy.storage}")
    assert done.code == 0 and done.out.count("python -m jobs.train") == 5  # not for the broken ones
    assert [line.split()[0] for line in done.out.splitlines() if not line.startswith(" ")] == ["name"] + sorted(
        name for name in states if name not in ("notes", "stores")
    )
    assert "validation classifier" in next(line for line in done.out.splitlines() if line.startswith("unfinished"))


def test_the_command_resumes_the_run(tmp_path):
    # resume=false and debug.steps stand in its config.yaml and must not be obeyed again; its name is a derived one.
    words = [f"storage={tmp_path / 'my runs'}", *QUICK, "trainer.epochs=2", "resume=false", "debug.steps=3"]
    driver.train(config.load(words))
    (path,) = (path for path in (tmp_path / "my runs").iterdir() if path.name.startswith("suncet"))
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    path.rename(moved)
    line = run_line(RunFolder(moved))
    assert line.state == "unfinished, epoch 0 of 2"
    python, flag, module, *rest = shlex.split(line.command)
    assert (python, flag, module, rest[0]) == ("python", "-m", "jobs.train", "--config")
    summary = driver.train(config.load(rest[2:], rest[1]))
    assert summary["folder"] == str(moved) and summary["steps"] == 8 and summary["complete"]
    assert run_line(RunFolder(moved)).state.startswith("finished")


def test_it_answers_without_loading_anything_heavy(trained_run):
    program = (
        "import sys; sys.argv = ['runs', sys.argv[1]]\n"
        "import jobs.runs\n"
        "jobs.runs.main()\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'sklearn', 'scipy', 'ray', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    script = trained_run.storage.parent / "listing.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, script, f"storage={trained_run.storage}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and "tiny" in done.stdout, done.stderr


def test_no_storage_and_no_runs(command, tmp_path):
    assert command("jobs.runs", f"storage={tmp_path / 'none'}").code == 2
    assert list_runs(FolderStorage(tmp_path)) == f"no runs in {tmp_path}"


@pytest.mark.parametrize(
    "text, seconds", [("42 s", 42), ("3 min 05 s", 185), ("2 h 07 min", 7620), ("3 d 04 h", 273700)]
)
def test_durations_in_words(text, seconds):
    from jobs.text import duration

    assert duration(seconds) == text
