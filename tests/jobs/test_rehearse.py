"""A job whose node is taken away in the middle, on nodes that come when asked for."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


def test_a_rehearsal_ends_with_the_run_that_nothing_disturbed(cli):
    done = cli("jobs.rehearse", timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "the same run: nothing was lost, and nothing was done twice"
    before, after = done.stdout.split("--- the node of worker 1 is taken away after step")
    assert "2 replicas" in before and "resuming after step" not in before
    assert "resuming after step" in after.split("train-undisturbed")[0]
