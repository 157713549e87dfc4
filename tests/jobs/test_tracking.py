"""Rows are written once and only with their checkpoint, and nothing that W&B does stops a run."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from small_jobs import SMALL

from jobs import wandb_run
from jobs.config import load
from jobs.folder import RunFolder
from jobs.tracking import Tracker, read_rows
from jobs.wandb_files import history, offline_files, records


class FakeRun:
    """A W&B run that keeps what it is given, and raises in the calls it is told to."""

    def __init__(self, failing=()):
        self.failing, self.calls, self.rows = failing, [], []
        self.summary = SimpleNamespace(update=lambda values: self.call("update", values))

    def call(self, name, *values):
        self.calls.append(name)
        if name in self.failing:
            raise ConnectionError("the network is down")
        if name == "log":
            self.rows += values

    def define_metric(self, *names, **options):
        self.call("define_metric")

    def log(self, row):
        self.call("log", row)

    def finish(self):
        self.call("finish")


@cache
def config(tracking, mode):
    return load([f"tracking={tracking}", f"tracking.mode={mode}"])


@pytest.fixture
def start(tmp_path):
    """`start(resumed_step, spool, tracking=…)`: a tracker in tmp_path/run; what it tells the user is in its `said`."""

    def make(resumed_step=0, spool=None, tracking="none", mode="offline"):
        said = []
        (tmp_path / "run").mkdir(exist_ok=True)
        restored = SimpleNamespace(step=resumed_step, spool=lambda: spool) if resumed_step else None
        tracker = Tracker(config(tracking, mode), RunFolder(tmp_path / "run"), restored, said.append)
        tracker.said = said
        return tracker

    return make


@pytest.fixture
def fake(monkeypatch):
    """`fake(failing)`: wandb.init returns a FakeRun; the arguments of each call are in its `inits`."""

    def make(failing=()):
        run = FakeRun(failing)
        run.inits = []

        def init(**options):
            run.inits.append(options)
            return run.call("init") or run

        monkeypatch.setattr(wandb, "init", init)
        return run

    return make


def rows(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def children():
    """The ids of this process's wandb-core processes."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, facts = file.read_text().partition("(")[2].rpartition(")")
            if "wandb-core" in name and int(facts.split()[1]) == os.getpid():
                found.add(int(file.parent.name))
    return found


def commit(tracker):
    """What happens around a checkpoint; returns the rows that it carries."""
    spool = tracker.unwritten()
    tracker.write(spool)
    tracker.confirm(spool)
    tracker.publish()
    return spool


class TestRows:
    def test_are_held_until_commit_and_written_once(self, start, tmp_path):
        tracker = start()
        tracker.log(1, {"loss": 0.5})
        tracker.log(2, {"loss": 0.25})
        assert rows(tmp_path) == []
        commit(tracker)
        assert rows(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
        commit(tracker)
        tracker.log(3, {"loss": 0.125})
        commit(tracker)
        tracker.close({})
        assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]

    def test_rows_that_were_never_committed_are_gone(self, start, tmp_path):
        start().log(1, {"loss": 0.5})
        commit(start())
        assert rows(tmp_path) == []

    @pytest.mark.parametrize(("resumed_step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
    def test_those_after_the_resumed_step_are_dropped(self, start, tmp_path, resumed_step, kept):
        tracker = start()
        for step in (1, 2, 3):
            tracker.log(step, {"loss": float(step)})
        commit(tracker)
        resumed = start(resumed_step)
        assert [row["step"] for row in rows(tmp_path)] == kept
        resumed.log(resumed_step + 1, {"loss": 0.0})
        commit(resumed)
        assert [row["step"] for row in rows(tmp_path)] == [*kept, resumed_step + 1]

    def test_rows_that_only_the_checkpoint_has_are_written_on_resume(self, start, tmp_path):
        tracker = start()
        tracker.log(1, {"loss": 0.5})
        commit(tracker)
        tracker.log(2, {"loss": 0.25})
        tracker.log(3, {"loss": 0.125})
        carried = tracker.unwritten()  # and then the machine is gone
        assert carried.after == 1
        resumed = start(3, carried)
        assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
        assert resumed.unwritten() == (3, [])

    def test_rows_that_the_file_has_too_are_there_once(self, start, tmp_path):
        tracker = start()
        tracker.log(1, {"loss": 0.5})
        carried = commit(tracker)
        tracker.log(2, {"loss": 0.25})
        commit(tracker)
        start(1, carried)
        assert [row["step"] for row in rows(tmp_path)] == [1]

    def test_what_a_full_disk_cuts_off_is_written_the_next_time(self, start, tmp_path, monkeypatch):
        tracker = start()
        tracker.log(1, {"loss": 0.5})
        commit(tracker)
        tracker.log(2, {"loss": 0.25})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        full = (tmp_path / "run" / "metrics.jsonl").stat().st_size + 5
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, limits[1]))
        try:
            with pytest.raises(OSError):
                commit(tracker)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [row["step"] for row in rows(tmp_path)] == [1]
        tracker.log(3, {"loss": 0.125})
        assert commit(tracker).after == 1
        assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]

    def test_rows_that_did_not_reach_the_storage_are_carried_again_and_written_once(self, start, tmp_path):
        tracker = start()
        tracker.log(1, {"loss": 0.5})
        tracker.write(tracker.unwritten())  # and then the storage does not take the file
        tracker.log(2, {"loss": 0.25})
        assert commit(tracker).after == 0
        assert [row["step"] for row in rows(tmp_path)] == [1, 2]

    def test_a_row_and_an_evaluation_of_the_same_step_both_stay(self, start, tmp_path):
        tracker = start()
        tracker.log(2, {"loss": 0.5})
        tracker.log(2, {"epoch": 1, "validation/knn20": 0.75})
        commit(tracker)
        start(2)
        assert [sorted(row) for row in rows(tmp_path)] == [["loss", "step"], ["epoch", "step", "validation/knn20"]]

    @pytest.mark.parametrize("cut", ["{", '{"step": 2', '{"step": 2, "loss": 0.2', '{"step": 2, "loss": "a'])
    def test_a_last_line_cut_off_is_left_out(self, start, tmp_path, cut):
        file = tmp_path / "run" / "metrics.jsonl"
        file.parent.mkdir()
        file.write_text('{"step": 1, "loss": 0.5}\n' + cut)
        assert read_rows(file) == [{"step": 1, "loss": 0.5}]
        tracker = start(2)
        tracker.log(2, {"loss": 0.25})
        commit(tracker)
        assert rows(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]

    def test_no_file_has_no_rows(self, tmp_path):
        assert read_rows(tmp_path / "run" / "metrics.jsonl") == []

    def test_without_wandb_it_is_never_started(self, start, fake):
        run = fake()
        tracker = start()
        tracker.log(1, {"loss": 0.5})
        commit(tracker)
        tracker.close({"test/knn20": 0.5})
        assert run.calls == [] and tracker.said == []


class TestWandb:
    def test_receives_committed_rows_and_the_summary(self, start, fake):
        run = fake()
        tracker = start(tracking="wandb")
        tracker.log(1, {"loss": 0.5})
        assert run.rows == []
        commit(tracker)
        commit(tracker)
        assert run.rows == [{"train/step": 1, "loss": 0.5}]
        tracker.close({"test/knn20": 0.5})
        assert run.calls[-2:] == ["update", "finish"] and tracker.said == []

    @pytest.mark.parametrize("failing", ["init", "define_metric", "log", "update", "finish"])
    def test_a_failure_is_said_once_and_training_goes_on(self, start, fake, tmp_path, failing):
        run = fake([failing])
        tracker = start(tracking="wandb")
        for step in (1, 2):
            tracker.log(step, {"loss": 0.5})
            commit(tracker)
        tracker.close({"test/knn20": 0.5})
        assert run.calls.count(failing) == 1
        assert len(tracker.said) == 1 and "the network is down" in tracker.said[0] and str(tmp_path) in tracker.said[0]
        assert [row["step"] for row in rows(tmp_path)] == [1, 2]

    def test_a_resumed_run_goes_on_under_its_id(self, start, fake, tmp_path):
        run = fake()
        start(tracking="wandb")
        start(tracking="wandb", resumed_step=3)
        first, again = run.inits
        assert first["id"] == again["id"] == (tmp_path / "run" / ".wandb_id").read_text()
        assert first["resume"] == "allow" and first["name"] == "run"

    def test_no_step_is_sent_twice_and_a_rollback_is_named(self, start, fake):
        run = fake()
        tracker = start(tracking="wandb")
        for step in (1, 2, 3):
            tracker.log(step, {"loss": 0.5})
        commit(tracker)
        again = start(1, tracking="wandb")  # the newer checkpoints were lost
        for step in (2, 3, 4):
            again.log(step, {"loss": 0.5})
        commit(again)
        assert [row["train/step"] for row in run.rows] == [1, 2, 3, 3, 4]
        assert run.rows[3] == {"train/step": 3, "rollback/from": 3, "rollback/to": 1}

    def test_what_was_never_sent_is_sent_after_a_resume(self, start, fake):
        run = fake()
        tracker = start(tracking="wandb")
        tracker.log(1, {"loss": 0.5})
        commit(tracker)
        tracker.log(2, {"loss": 0.25})
        resumed = start(2, tracker.unwritten(), tracking="wandb")
        commit(resumed)
        assert [row["train/step"] for row in run.rows] == [1, 2]

    def test_a_new_folder_of_the_same_name_is_another_run(self, start, fake, tmp_path):
        run = fake()
        start(tracking="wandb")
        (tmp_path / "run" / ".wandb_id").unlink()
        start(tracking="wandb")
        assert run.inits[0]["id"] != run.inits[1]["id"]

    @pytest.mark.parametrize(("key", "mode"), [(None, "offline"), ("x" * 40, "online")])
    def test_online_without_a_key_logs_offline(self, start, fake, monkeypatch, tmp_path, key, mode):
        run = fake()
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {key}\n" if key else "")
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        wandb.teardown()  # it remembers
        tracker = start(tracking="wandb", mode="online")
        assert run.inits[0]["mode"] == mode
        assert len(tracker.said) == (key is None) and all("wandb sync" in line for line in tracker.said)


@pytest.mark.xdist_group("wandb")
class TestRealWandb:
    """Its own library and process, on files."""

    @pytest.fixture(autouse=True)
    def anew(self):
        wandb.teardown()
        yield
        with suppress(ConnectionError):  # its process is dead
            wandb.teardown()

    def test_without_network_it_logs_offline(self, start, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", key := "0123456789" * 4)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setattr(wandb_run, "_ANSWER_SECONDS", 2.0)
        tracker = start(tracking="wandb", mode="online")
        tracker.log(1, {"train/loss": 0.5})
        commit(tracker)
        tracker.close({"test/knn20": 0.75})
        assert len(tracker.said) == 1 and "logging offline; send it later: wandb sync" in tracker.said[0]
        (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
        until = time.monotonic() + 60
        while b"test/knn20" not in file.read_bytes():  # its process writes on after `finish`
            assert time.monotonic() < until, (tracker.said, file.read_bytes()[:2000])
            time.sleep(0.05)
        assert b"train/loss" in file.read_bytes()
        written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        assert not [path for path in written if key.encode() in path.read_bytes()]

    def test_when_its_process_dies_training_goes_on(self, start, tmp_path):
        tracker = start(tracking="wandb")
        tracker.log(1, {"train/loss": 0.5})
        commit(tracker)
        (core,) = children()
        os.kill(core, signal.SIGKILL)
        until = time.monotonic() + 30
        step = 1
        while not tracker.said:
            assert time.monotonic() < until
            step += 1
            tracker.log(step, {"train/loss": 0.5})
            commit(tracker)
        tracker.close({"test/knn20": 0.75})
        assert len(tracker.said) == 1 and "metrics go on in" in tracker.said[0]
        assert [row["step"] for row in rows(tmp_path)] == [*range(1, step + 1)]
        after = start(tracking="wandb")  # a search's next trial in this process
        after.log(step + 1, {"train/loss": 0.25})
        commit(after)
        after.close({"test/knn20": 0.75})
        assert not after.said
        assert len(offline_files(tmp_path / "run")) == 2


PICTURES = {("pictures", "curves"), ("pictures", "gallery")}


@pytest.mark.xdist_group("wandb")
class TestRun:
    """A real run, killed and resumed, as Weights & Biases and TensorBoard have it."""

    @pytest.fixture(scope="class")
    def run(self, storage, cli):
        words = [f"storage={storage}", "name=curve", *SMALL, "trainer.epochs=6", "tracking=wandb"]
        words += ["tracking.mode=offline", "tracking.tensorboard=true", "tracking.notes=a note", "tracking.tags=[one]"]
        first = subprocess.Popen([sys.executable, "-m", "jobs.train", *words], stdout=subprocess.PIPE, text=True)
        assert any(line.startswith("epoch 2") for line in first.stdout)
        first.kill()
        first.communicate()
        done = cli("jobs.train", *words)
        assert done.returncode == 0 and "resuming after step" in done.stdout, done.stderr
        return storage / "curve"

    def test_its_rows_make_one_curve(self, run):
        files = offline_files(run)
        assert len(files) == 2
        sent = [row for file in files for row in history(file) if not any("pictures" in key for key in row)]
        assert [row["train/step"] for row in sent] == list(range(1, 25))
        logged = [(row["step"], key, row[key]) for row in read_rows(run / "metrics.jsonl") for key in row if "/" in key]
        assert any("validation" in key for _, key, _ in logged)
        assert [values for values in logged if sent[values[0] - 1].get(values[1]) != values[2]] == []

    def test_it_is_described_with_pictures_and_its_encoder(self, run):
        first, last = offline_files(run)
        begun = next(record.run for record in records(last) if record.WhichOneof("record_type") == "run")
        assert (begun.notes, [*begun.tags], begun.project) == ("a note", ["one"], "semisup")
        settings = {item.key: json.loads(item.value_json) for item in begun.config.update}
        assert settings["trainer"]["epochs"] == 6 and "tensorflow" in settings["environment"]["packages"]
        keys = [key for file in (first, last) for row in history(file) for key in row]
        assert {tuple(key.split("/")[:2]) for key in keys if "pictures" in key} == PICTURES
        (artifact,) = (record.artifact for record in records(last) if record.WhichOneof("record_type") == "artifact")
        for name in ("encoder.keras", "split.json", "config.yaml", "environment.json", "summary.json"):
            assert name.encode() in artifact.SerializeToString()

    def test_its_event_files_have_every_step_once(self, run):
        from tensorflow.python.summary.summary_iterator import summary_iterator

        (file,) = (run / "tensorboard").iterdir()
        events = [(value.tag, event.step) for event in summary_iterator(str(file)) for value in event.summary.value]
        assert [step for tag, step in events if tag == "train/loss"] == list(range(1, 25))
