"""Jobs on a cluster that `ray start` made: submitted, followed, lost and submitted again, stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from ray_head import TOKEN, ray_head

from jobs.checkpoint import Checkpoints
from jobs.submission import ROOT, Submission

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(300)]

SMALL = [
    "encoder.width=8",
    "method.projection=[8]",
    "trainer.epochs=3",
    "trainer.steps_per_epoch=10",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.steps_per_call=2",
    "evaluation.protocols=[knn20]",
    "evaluation.monitor=knn20",
    "runtime.cpus_per_worker=1",
]
LONG = ["trainer.epochs=2000"]


@pytest.fixture(scope="module")
def dashboard():
    """Of a cluster whose token is in the environment, but for the word that Ray needs besides."""
    with ray_head() as (_, address), pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_AUTH_MODE")
        yield address


class Submitted:
    """`python -m jobs.submit` in a process of its own."""

    def __init__(self, dashboard, storage, *words, options=()):
        self.run = storage / "run"
        words = ["train", f"storage={storage}", "name=run", *SMALL, *words]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.submit", f"address={dashboard}", *options, "--", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_checkpoint(self):
        until = time.monotonic() + 150
        while not Checkpoints(self.run / "checkpoints").newest_meta():
            assert time.monotonic() < until and self._process.poll() is None, self._process.communicate()[0]
            time.sleep(0.05)

    def driver(self):
        """The process of the job."""
        return json.loads((self.run.parent / ".leases" / "run.json").read_text())["pid"]

    def end(self):
        """(exit code, output)."""
        output = self._process.communicate(timeout=200)[0]
        return self._process.returncode, output


def test_a_job_is_followed_to_its_end(dashboard, tmp_path):
    code, output = Submitted(dashboard, tmp_path, "tracking.notes=two words; $HOME").end()
    assert code == 0, output
    assert "\nepoch 3/3" in output and "protocol    test" in output
    assert "sdk.py" not in output and "working_dir.py" not in output, output
    assert f"stop: RAY_AUTH_MODE=token ray job stop --address {dashboard} train-run-1" in output
    assert f"{dashboard}/#/jobs/train-" in output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["complete"]
    assert "notes: two words; $HOME" in (tmp_path / "run" / "config.yaml").read_text()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


def test_what_a_retry_cannot_mend_is_not_tried_again(dashboard, tmp_path):
    code, output = Submitted(dashboard, tmp_path, "runtime.gpus_per_worker=99").end()
    assert code == 2, output
    assert "error: runtime.num_workers=1 with" in output and "submitting it again" not in output


def test_a_job_whose_process_is_lost_is_submitted_again_and_goes_on(dashboard, tmp_path):
    job = Submitted(dashboard, tmp_path, "trainer.epochs=100")
    job.wait_for_checkpoint()
    os.kill(job.driver(), signal.SIGKILL)
    code, output = job.end()
    assert code == 0, output
    names = re.findall(r"^(train-run-\d+)$", output, re.MULTILINE)
    assert len(names) == 2 and int(names[1].rsplit("-", 1)[1]) == int(names[0].rsplit("-", 1)[1]) + 1
    assert f"{names[0]} ended with " in output and "submitting it again (3 more at most)" in output, output
    assert int(re.findall(r"resuming after step (\d+) of 1000", output)[-1]) > 0


def test_a_job_is_left_alone_found_again_and_stopped(dashboard, tmp_path):
    code, output = Submitted(dashboard, tmp_path, *LONG, options=["wait=false"]).end()
    assert code == 0 and "epoch" not in output, output
    again = Submitted(dashboard, tmp_path, *LONG)
    again.wait_for_checkpoint()
    name = output.splitlines()[0]
    stop = urllib.request.Request(f"{dashboard}/api/jobs/{name}/stop", method="POST")
    stop.add_header("Authorization", f"Bearer {TOKEN}")
    urllib.request.urlopen(stop, timeout=30).close()  # as `ray job stop` does, but that takes seconds to start
    code, output = again.end()
    assert code == 130, output
    assert f"{name} is running already: following it" in output and "(a signal); the same command goes on" in output


def test_without_the_token_or_a_server_it_is_exit_5(dashboard, tmp_path, cli):
    words = ["--", "train", f"storage={tmp_path}"]
    for address, token in ((dashboard, "wrong"), ("http://127.0.0.1:9", TOKEN)):
        done = cli("jobs.submit", f"address={address}", *words, RAY_AUTH_TOKEN=token)
        assert done.returncode == 5 and f"address={address}: no job server" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--", "trian"], "did you mean train?"),
        (["train"], "expected options only, got train"),
        (["--", "train", "method=pows", "storage=/runs"], "did you mean paws?"),
        (["--", "train"], "storage: expected an absolute path that all nodes share"),
        (["--", "data"], "storage: expected an absolute path that all nodes share"),
        (
            ["--", "train", "storage=/runs", "dataset=folder", "dataset.path=birds"],
            "dataset.path: expected an absolute",
        ),
        (["--", "evaluate", "suncet"], "storage: expected an absolute path that all nodes share"),
        (["--", "embed", "/shared/suncet", "/birds", "output=a.csv"], "output: expected an absolute path"),
        (["--", "train", "--config", "runs/a/config.yaml", "storage=/runs"], "the job would not find it"),
        (["--", "train", "--config", "../a.yaml", "storage=/runs"], "the job would not find it"),
        (["--", "tune", "search.space.encoder.widht={choice: [8]}", "storage=/runs"], "did you mean encoder.width?"),
        (["retries=many", "--", "train", "storage=/runs"], "retries: expected a whole number"),
        (["wait=maybe", "--", "train", "storage=/runs"], "wait: expected true or false"),
    ],
)
def test_what_the_job_would_be_refused_for_is_answered_here(command, words, expected):
    done = command("jobs.submit", "address=http://127.0.0.1:9", *words)
    assert done.code == 2 and expected in done.err


def test_attempts_are_named_after_the_run_or_the_words():
    assert Submission("train", ["name=a"], "a").base == "train-a"
    one, two = (Submission("train", [word], None).base for word in ("seed=1", "seed=2"))
    assert one != two and re.fullmatch(r"train-[0-9a-f]{8}", one)
    assert Submission("train", ["a=b c", "d=$e"], None).entrypoint == "python -m jobs.train 'a=b c' 'd=$e'"


def test_little_is_uploaded(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True)
    assert (tmp_path / "package.zip").stat().st_size < 3e6


@pytest.mark.slow
def test_rays_own_command_runs_a_job(dashboard, tmp_path):
    words = ["job", "submit", "--address", dashboard, "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml"]
    train = ["--", sys.executable, "-m", "jobs.train", f"storage={tmp_path}", "name=run", *SMALL]
    for more, code in (([], 0), (["runtime.gpus_per_worker=99", "name=refused"], 1)):
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", *words, *train, *more],
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == code, done.stdout + done.stderr
    assert json.loads((Path(tmp_path) / "run" / "summary.json").read_text())["complete"]
