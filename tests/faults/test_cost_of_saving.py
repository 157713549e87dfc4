"""What saving costs beside training: the same run with a checkpoint after every epoch, and with the last one only."""

import json
from statistics import median

import pytest

from jobs import config, driver
from jobs.tracking import read_rows

EPOCHS, STEPS = 8, 20


@pytest.mark.faults
def test_training_hardly_notices_that_it_is_saved(tmp_path, note):
    def seconds_an_epoch(name, every):
        line = [f"storage={tmp_path}", f"name={name}", "runtime=local", f"checkpoint.every={every}"]
        line += [f"trainer.epochs={EPOCHS}", f"trainer.steps_per_epoch={STEPS}", f"evaluation.every={EPOCHS}"]
        driver.train(config.load(line))
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        epochs = [
            row["epoch_seconds"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "epoch_seconds" in row
        ]
        return median(epochs[1:]) + summary["phases_seconds"]["checkpoint"] / EPOCHS  # the first epoch compiles

    pairs = [(seconds_an_epoch(f"all{i}", 1), seconds_an_epoch(f"last{i}", EPOCHS)) for i in range(3)]
    ratios = sorted(saving / without for saving, without in pairs)
    checkpoint = next((tmp_path / "all0" / "checkpoints").iterdir())
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6
    note(f"an epoch of {pairs[0][1]:.1f} s takes {ratios[1]:.3f} (3 pairs: {ratios}) as long with {size:.0f} MB saved")
    assert ratios[1] < 1.25
