"""Jobs that are cleaned up, and the run that nothing disturbed."""

import fault_jobs
import pytest


@pytest.fixture
def job(tmp_path):
    """job(*overrides) starts one in `tmp_path` or another storage; all are killed in the end."""
    jobs = []

    def start(*overrides, storage=tmp_path):
        jobs.append(fault_jobs.Job(storage, *overrides))
        return jobs[-1]

    yield start
    for each in jobs:
        each.kill()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The folder of the run that nothing disturbed."""
    return fault_jobs.undisturbed(tmp_path_factory.mktemp("undisturbed"))
