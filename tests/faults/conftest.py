"""Jobs that are cleaned up, and the run that nothing disturbed."""

import fault_jobs
import pytest


@pytest.fixture
def job(tmp_path):
    """job(*overrides, **environment) starts one in `tmp_path` or another storage; all are killed in the end."""
    jobs = []

    def start(*overrides, storage=tmp_path, **environment):
        jobs.append(fault_jobs.Job(storage, *overrides, **environment))
        return jobs[-1]

    yield start
    for each in jobs:
        each.kill()


@pytest.fixture
def note(record_property):
    """note(words) shows something measured at the end of the session."""
    return lambda words: record_property("measured", words)


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed"):
        for words in (value for name, value in report.user_properties if name == "measured"):
            terminalreporter.write_line(f"{report.nodeid}: {words}")


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The folder of the run that nothing disturbed."""
    return fault_jobs.undisturbed(tmp_path_factory.mktemp("undisturbed"))
