"""One tiny finished run for every command that uses a trained run."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

CLASSES = ("$one$ & two", "löwe, 名", 'o"quote')


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, digits):
    """A finished cross-entropy run on three digits in a folder of classes with awkward names.

    Attributes: `storage`, `path` (run folder), `data` (image folder), `name`.
    """
    from jobs import config, driver

    base = tmp_path_factory.mktemp("trained")
    for label, name in enumerate(CLASSES):
        rows = np.flatnonzero(digits.labels == label)
        for part, chosen in (("train", rows[:40]), ("test", rows[40:60])):
            (base / "data" / part / name).mkdir(parents=True)
            for row, image in zip(chosen, digits.read(chosen), strict=True):
                Image.fromarray(image).save(base / "data" / part / name / f"{row}.png")
    (base / "data" / "unlabelled").mkdir()
    for row, image in zip(range(20), digits.read(np.arange(20)), strict=True):
        Image.fromarray(image).save(base / "data" / "unlabelled" / f"{row}.png")
    run = config.load(
        [
            f"storage={base / 'runs'}",
            "name=tiny",
            "runtime=local",
            "method=cross_entropy",
            "dataset=folder",
            f"dataset.path={base / 'data'}",
            "dataset.image_size=32",
            "dataset.labels_per_class=30",
            "dataset.validation_per_class=5",
            "encoder=conv",
            "encoder.width=8",
            "trainer.epochs=3",
            "trainer.steps_per_epoch=4",
            "trainer.labelled_batch=30",
            "optimizer.learning_rate=0.01",
            "checkpoint.keep=all",
        ]
    )
    driver.train(run)
    return SimpleNamespace(storage=base / "runs", path=base / "runs" / "tiny", data=base / "data", name="tiny")


@pytest.fixture
def run_copy(trained_run, tmp_path):
    """A copy of the run's storage that a test may change; the stores are links."""
    import shutil

    storage = tmp_path / "runs"
    left_by_commands = ("embeddings", "embedded", "pictures", "evaluation*.json", "test_curves.jsonl")
    shutil.copytree(trained_run.path, storage / "tiny", ignore=shutil.ignore_patterns(*left_by_commands))
    shutil.copytree(trained_run.storage / "stores", storage / "stores")
    return SimpleNamespace(storage=storage, path=storage / "tiny", data=trained_run.data, name="tiny")


@pytest.fixture
def command(monkeypatch, capsys):
    """`command("jobs.evaluate", "RUN", …)` in this process: exit code, and what it printed."""
    import importlib
    import signal
    import sys

    from jobs.cli import main_with_exit_codes

    def run(module, *words):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        monkeypatch.setattr(sys, "argv", [module, *map(str, words)])
        capsys.readouterr()
        try:
            main_with_exit_codes(importlib.import_module(module).main)
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run
