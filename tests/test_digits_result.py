"""The README's result, from start to finish; minutes, so only in `make test-slow`."""

import statistics

import pytest

from jobs import config, driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_suncet_on_digits_reaches_the_bar(tmp_path):
    summaries = [
        driver.train(config.load([f"storage={tmp_path}", "runtime=local", f"seed={seed}"])) for seed in range(3)
    ]
    ours = [summary["test"]["linear"]["accuracy"] for summary in summaries]
    pixels = [summary["pixels"]["linear"]["accuracy"] for summary in summaries]
    assert statistics.mean(ours) >= 0.96
    assert min(ours) > max(pixels) + 0.03
