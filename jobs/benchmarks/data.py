"""How fast images get into a store, and out of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jobs.benchmarks.step import Training
from semisup_core.data.sources import prepare

FILES = 256  # that are prepared in a call
_FILE_SIZE = 480, 360  # pixels, a small photograph


def pipeline(training: Training, batches: int) -> Callable[[], Any]:
    """Some batches of the pipeline and nothing else, ready to be timed."""
    iterators = training.iterators()

    def run() -> None:
        for _ in range(batches):
            for iterator in iterators:
                next(iterator)

    return run


def random_rows(training: Training, rows: int) -> Callable[[], Any]:
    """Rows of the store in random order, as many as a step reads."""
    store, rng = training.store, np.random.default_rng(0)
    return lambda: store.read(rng.integers(0, len(store), rows))


def preparation(folder: Path, side: int) -> dict[str, Callable[[], Any]]:
    """A folder of JPEG files into a store, and the loop one would write instead, ready to be timed.

    Args:
        folder: for the files and what is made of them.
        side: of the prepared images in pixels.
    """
    files = [folder / "images" / f"class{i % 2}" / f"{i}.jpg" for i in range(FILES)]
    rng = np.random.default_rng(0)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        coarse.resize(_FILE_SIZE, Image.Resampling.BICUBIC).save(file, quality=90)

    def ours() -> None:
        prepare("folder", image_size=side, stores=folder / "stores", path=str(folder / "images"), progress=False)
        shutil.rmtree(folder / "stores")

    def plain() -> None:
        images = []
        for file in files:
            with Image.open(file) as image:
                images.append(np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)))
        np.save(folder / "plain.npy", np.stack(images))

    return {"preparation": ours, "plain": plain}
