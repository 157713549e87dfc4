"""What saving costs beside training: in one run, epochs beside whose steps a checkpoint is written, and the others."""

import json
from statistics import median

import pytest

from jobs import config, driver
from jobs.tracking import read_rows

EPOCHS, STEPS = 40, 20


@pytest.mark.faults
@pytest.mark.xdist_group("ray")  # not beside a job
def test_training_hardly_notices_that_it_is_saved(tmp_path, note):
    line = [f"storage={tmp_path}", "name=saved", "runtime=local", "checkpoint.every=2", "checkpoint.keep=all"]
    line += [f"trainer.epochs={EPOCHS}", f"trainer.steps_per_epoch={STEPS}", f"evaluation.every={EPOCHS}"]
    driver.train(config.load(line))
    rows = [row for row in read_rows(tmp_path / "saved" / "metrics.jsonl") if "epoch_seconds" in row]
    seconds = {row["epoch"]: row["epoch_seconds"] for row in rows}
    checkpoints = sorted((tmp_path / "saved" / "checkpoints").iterdir())
    assert len(checkpoints) == EPOCHS // 2  # the epoch after each has its writing beside it
    phases = json.loads((tmp_path / "saved" / "summary.json").read_text())["phases_seconds"]
    copying = phases["checkpoint"] / len(checkpoints)
    ratio = median(
        (seconds[epoch] + copying) / ((seconds[epoch - 1] + seconds[epoch + 1]) / 2) for epoch in range(3, EPOCHS, 2)
    )  # against its neighbours: what else the machine does comes and goes more slowly

    size = sum(file.stat().st_size for file in checkpoints[0].iterdir()) / 1e6
    note(f"an epoch of {median(seconds.values()):.1f} s takes {ratio:.3f} times as long with {size:.0f} MB saved in it")
    assert ratio < 1.15
