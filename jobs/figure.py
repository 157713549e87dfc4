"""A Matplotlib figure drawn off screen and written whole."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DPI = 110


@contextmanager
def figure_file(path: Path, size: tuple[float, float], rows: int = 1, columns: int = 1) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes (rows, columns), written to `path` when the block ends without an error.

    Args:
        path: the PNG; its folder is made.
        size: width and height in inches.
        rows: of axes.
        columns: of axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    try:
        yield figure, axes
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class may have a name in any script
            figure.savefig(partial, dpi=_DPI, format="png")
        partial.replace(path)
    finally:
        plt.close(figure)
