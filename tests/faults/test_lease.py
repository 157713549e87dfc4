"""One attempt at a run at a time: refused while its owner lives, succeeded when it is dead, checked at every commit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_jobs import SMALL

from jobs import config, driver, lease
from jobs.errors import ConfigError, SupersededError
from jobs.folder import RunFolder
from jobs.lease import Lease
from jobs.storage import FolderStorage, open_storage
from jobs.tracking import read_rows

HOLD = """
import sys, time
from jobs.lease import Lease
from jobs.storage import open_storage
with Lease(open_storage(sys.argv[1]), "run").held(print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path):
    """A process that holds the lease of `run`; killed in the end."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def short(monkeypatch):
    """Leases of seconds, for owners on machines that no lock tells about."""
    monkeypatch.setattr(lease, "_DEAD_SECONDS", 4.0)
    monkeypatch.setattr(lease, "_RENEWED_SECONDS", 0.2)


def make(tmp_path, name="run", attempt=None):
    return Lease(FolderStorage(tmp_path), name, attempt)


def elsewhere(tmp_path):
    """Makes the lease look like one of another machine, whose locks are not seen here."""
    file = tmp_path / ".leases" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"machine": "another", "host": "another"}))
    (tmp_path / ".leases" / "run.lock").unlink()
    return file


def test_a_second_run_of_one_name_is_refused_and_a_dead_owner_is_succeeded(owner, tmp_path):
    line = [f"storage={tmp_path}", "name=run", *SMALL]
    with pytest.raises(ConfigError, match=rf"name: .*run is being trained by process {owner.pid} on .*another name"):
        driver.train(config.load(line))
    assert not (tmp_path / "run").exists()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert driver.train(config.load(line))["complete"]
    assert not (tmp_path / ".leases" / "run.json").exists()


def test_another_name_is_another_lease(owner, tmp_path):
    with make(tmp_path, "other").held(print):
        assert json.loads((tmp_path / ".leases" / "other.json").read_text())["pid"] == os.getpid()


def test_an_owner_on_another_machine_lives_while_it_renews(tmp_path, short):
    first, said = make(tmp_path), []
    with first.held(print):
        elsewhere(tmp_path)
        with pytest.raises(ConfigError, match="is being trained by process"), make(tmp_path).held(said.append):
            pass
        first.check()
    assert "waiting up to 4 s" in said[0] and len(said) == 1


def test_an_owner_on_another_machine_that_is_silent_is_dead(owner, tmp_path, short):
    elsewhere(tmp_path)
    said = []
    with make(tmp_path).held(said.append):
        assert "taking the run over" in said[1]


def test_what_was_taken_over_commits_nothing(tmp_path, monkeypatch):
    # Between two checkpoints, another attempt takes the run: the next save finds out and the run ends.
    file, real = tmp_path / ".leases" / "run.json", Lease.check
    log, taken = tmp_path / "run" / "metrics.jsonl", []

    def check(self):
        if not taken and log.exists() and log.stat().st_size:  # the first checkpoint and its rows are safe
            taken.append(True)
            file.write_text(json.dumps(json.loads(file.read_text()) | {"attempt": "another", "pid": 42}))
        real(self)

    monkeypatch.setattr(Lease, "check", check)
    with pytest.raises(SupersededError, match="taken over by process 42"):
        driver.train(config.load([f"storage={tmp_path}", "name=run", *SMALL]))
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-000000004"] and not (tmp_path / "run" / "summary.json").exists()
    assert json.loads(file.read_text())["attempt"] == "another"  # not ours to give back
    assert [row["step"] for row in read_rows(log) if "train/loss" in row] == [1, 2, 3, 4]


def test_a_worker_without_a_lease_is_superseded(tmp_path):
    RunFolder(tmp_path / "run").lease.check()  # looks on only
    with pytest.raises(SupersededError, match="or it was stopped"):
        RunFolder(tmp_path / "run", attempt="mine").lease.check()


def test_a_damaged_lease_is_nobodys(tmp_path):
    (tmp_path / ".leases").mkdir()
    (tmp_path / ".leases" / "run.json").write_text('{"atte')
    with make(tmp_path).held(print):
        pass


in_store = pytest.mark.xdist_group("object store")


@pytest.fixture
def remote(cloud, tmp_path, monkeypatch):
    """remote(name): the lease of `run` in an object store, seen from a cache folder of this name."""

    def see(name):
        monkeypatch.setenv("SEMISUP_CACHE", str(tmp_path / name))
        return Lease(open_storage("s3://runs/lease"), "run")

    return see


@in_store
def test_two_caches_of_one_machine_are_two_machines(remote, short):
    first, second, said = remote("one"), remote("two"), []
    with first.held(print):
        with pytest.raises(ConfigError, match="is being trained by process"), second.held(said.append):
            pass
        first.check()
    assert "waiting up to 4 s" in said[0]
    with second.held(said.append):  # given back, so nobody waits
        assert len(said) == 1


@in_store
def test_a_long_download_does_not_hold_the_lease_up(remote, short):
    ours = remote("one")
    with ours.held(print), open_storage("s3://runs/lease")._alone():
        file = ours._storage.read(ours._file)
        until = time.monotonic() + 30
        while ours._storage.read(ours._file) == file:
            assert time.monotonic() < until
            time.sleep(0.05)
        ours.check()


def test_a_lease_that_is_read_while_it_is_renewed_is_read_again(tmp_path, monkeypatch):
    ours, cut = make(tmp_path), [b'{"atte', b""]
    with ours.held(print):
        real = FolderStorage.read
        monkeypatch.setattr(FolderStorage, "read", lambda self, path: cut.pop() or b"{" if cut else real(self, path))
        ours.check()
    assert not cut
