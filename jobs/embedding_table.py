"""The table of `python -m jobs.embed`, batch by batch, as Parquet or CSV; it appears whole or not at all."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class Rows(NamedTuple):
    """A batch of N images with k neighbours each.

    Attributes:
        paths: (N,) relative to the folder.
        predicted: (N,) class names.
        confidence: (N,) share of the predicted class.
        neighbours: (N, k) names of labelled images, most similar first.
        classes: (N, k) their class names.
        cosines: (N, k) their similarities.
        embeddings: (N, D).
    """

    paths: Sequence[str]
    predicted: Sequence[str]
    confidence: np.ndarray
    neighbours: Sequence[Sequence[str]]
    classes: Sequence[Sequence[str]]
    cosines: np.ndarray
    embeddings: np.ndarray


_PARQUET = pa.schema(
    [
        ("path", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float32()),
        ("neighbours", pa.list_(pa.string())),
        ("neighbour_classes", pa.list_(pa.string())),
        ("neighbour_similarities", pa.list_(pa.float32())),
        ("embedding", pa.list_(pa.float32())),
    ]
)


@contextmanager
def table_writer(output: Path, neighbours: int, width: int, facts: dict[str, str]) -> Iterator[Callable[[Rows], None]]:
    """Opens a table; it is there when the block ends, and nothing is when an exception leaves it.

    Args:
        output: a file whose ending says what it is: .csv or .parquet.
        neighbours: k.
        width: D.
        facts: kept in a Parquet file's metadata.

    Yields:
        What writes a batch.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    opened = _csv(partial, neighbours, width) if output.suffix.lower() == ".csv" else _parquet(partial, facts)
    try:
        with opened as write:
            yield write
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _parquet(path: Path, facts: dict[str, str]) -> Iterator[Callable[[Rows], None]]:
    with pq.ParquetWriter(path, _PARQUET.with_metadata(facts)) as writer:

        def write(rows: Rows) -> None:
            columns = [*rows[:5], list(rows.cosines), list(rows.embeddings)]
            writer.write_batch(
                pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, _PARQUET, strict=True)], _PARQUET)
            )

        yield write


@contextmanager
def _csv(path: Path, neighbours: int, width: int) -> Iterator[Callable[[Rows], None]]:
    places = range(1, neighbours + 1)
    heads = [head for i in places for head in (f"neighbour{i}", f"class{i}", f"similarity{i}")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "predicted", "confidence", *heads, *(f"e{i}" for i in range(width))])

        def write(rows: Rows) -> None:
            for path, predicted, confidence, names, classes, cosines, embedding in zip(*rows, strict=True):
                near = [cell for triple in zip(names, classes, cosines.tolist(), strict=True) for cell in triple]
                writer.writerow([path, predicted, float(confidence), *near, *embedding.tolist()])

        yield write
