"""Random images in the shape of a configuration's, so that speed can be measured where the data are not."""

import dataclasses
from pathlib import Path

import numpy as np

from jobs.schema import DatasetConfig, RunConfig

_FEWEST = 4096
_CLASSES = 10


def with_random_images(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with random images in place of its own: as large, all labelled, of about ten classes.

    Args:
        config: the run.
        folder: where the images and their store go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer, dataset = config.trainer, config.dataset
    wanted = dataset.classes_per_batch or _CLASSES
    labelled = trainer.labelled_batch or wanted
    classes = next(count for count in range(min(wanted, labelled), 0, -1) if labelled % count == 0)
    side = dataset.image_size
    rows = max(_FEWEST, 2 * (trainer.unlabelled_batch or 0), 2 * labelled)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, side, side, 3), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(rows) % classes)
    chosen = DatasetConfig(
        name="arrays",
        path=str(folder / "images.npz"),
        image_size=side,
        test_fraction=0.1,
        balanced=dataset.balanced,
        classes_per_batch=dataset.classes_per_batch,
    )
    return dataclasses.replace(
        config,
        storage=str(folder),
        dataset=chosen,
        encoder=dataclasses.replace(config.encoder, init=None),
    )
