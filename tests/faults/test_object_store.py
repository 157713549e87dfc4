"""An object store that goes away, and a job on a cluster that works on one: a real S3 server on loopback."""

import signal

import pytest
from fault_jobs import STEPS_PER_EPOCH, check_same_run
from small_jobs import SMALL, clean

from jobs import config, driver
from jobs.checkpoint import Checkpoints
from jobs.folder import find_run
from jobs.object_storage import ObjectStorage
from jobs.storage import open_storage
from jobs.tracking import read_rows
from semisup_core.errors import StorageError

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]


def line(storage, *more):
    return config.load([f"storage={storage}", "name=run", *SMALL, "trainer.epochs=5", *more])


def rows(storage):
    return clean(read_rows(find_run("run", str(storage)).metrics))


@pytest.fixture
def away(cloud, server, monkeypatch):
    """away(steps): the store goes away when one file of a checkpoint of these steps is there, for the first time."""
    save, upload = Checkpoints.save, ObjectStorage._upload

    def patch(steps):
        def half(self, local, info):
            upload(self, local, info)
            step = int(local.parent.name.rpartition("-")[2]) if local.parent.name.startswith("step-") else None
            if step in steps:
                steps.remove(step)
                server.stop()

        def without_server(self, *args):
            try:
                return save(self, *args)
            finally:
                if not server.running:
                    server.start()

        monkeypatch.setattr(ObjectStorage, "_upload", half)
        monkeypatch.setattr(Checkpoints, "save", without_server)

    return patch


def test_a_store_that_is_away_for_a_while_costs_the_saves_that_meet_it(away, tmp_path, capsys):
    driver.train(line(tmp_path))
    away({8, 20})
    with pytest.raises(StorageError, match="step 20.*last good one is step-000000016.*resumes"):
        driver.train(line("s3://runs/while"))  # the last save has no other after it
    assert capsys.readouterr().out.count("training goes on") == 1
    away(set())
    storage = open_storage("s3://runs/while")
    there = {name: storage.names(storage.root / "run" / "checkpoints" / name) for name in ("step-000000008",)}
    assert "manifest.json" in there["step-000000008"] or not there["step-000000008"]  # nothing half-sent is left
    assert driver.train(line("s3://runs/while"))["complete"]
    assert rows("s3://runs/while") == rows(tmp_path)


def test_a_store_that_stays_away_ends_the_run_and_it_resumes(away, tmp_path):
    driver.train(line(tmp_path))
    away({8, 12})
    with pytest.raises(StorageError, match="step 12.*last good one is step-00000000[48].*resumes"):
        driver.train(line("s3://runs/stays", "checkpoint.failures=2"))
    away(set())
    assert driver.train(line("s3://runs/stays"))["complete"]
    assert rows("s3://runs/stays") == rows(tmp_path)


def test_a_job_of_two_workers_on_an_object_store_loses_one(cloud, job, reference, note):
    run = job(storage="s3://runs/cluster")
    run.wait_for_step(2 * STEPS_PER_EPOCH)
    run.signal(signal.SIGKILL, 1)
    assert run.end() == 0, run.output
    check_same_run(run.run, reference)
    note(run.recovery())


def test_another_machine_takes_over_from_a_driver_that_was_killed(cloud, job, reference, note, tmp_path):
    first = job(storage="s3://runs/driver")
    first.wait_for_step(2 * STEPS_PER_EPOCH)
    first.signal(signal.SIGKILL)
    second = job(storage="s3://runs/driver", SEMISUP_CACHE=str(tmp_path / "another"))
    second.wait_for("no sign of life; taking the run over")
    assert second.end() == 0, second.output
    run = find_run("run", "s3://runs/driver")
    run.storage.fetch(run.path)
    check_same_run(run.path, reference)
    note(second.recovery(first))
