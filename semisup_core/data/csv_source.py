"""A CSV file of path,label[,split]: images that lie anywhere, without moving a file."""

from __future__ import annotations

import csv
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semisup_core.data.images import DECODE_VERSION, decode
from semisup_core.data.manifest import Origin
from semisup_core.data.sources import ORIGINS, Found, Source
from semisup_core.errors import DataError
from semisup_core.settings import nearest

COLUMNS = ("path", "label", "split")
NAMED_LINES = 5


class _Row(NamedTuple):
    """An image of the file: what it says, and where."""

    line: int
    path: str
    label: str
    split: str

    @property
    def origin(self) -> Origin:
        """Without a label, an image that is not for test is an unlabelled one."""
        chosen = ORIGINS[self.split or "train"]
        return chosen if self.label or chosen == Origin.TEST else Origin.UNLABELLED


def csv_file(path: str | Path, image_size: int) -> Found:
    """Images named in a CSV file with a header: ``path,label`` or ``path,label,split``, other columns ignored.

    A path is absolute or relative to the file; links are followed. ``split`` is train, test or unlabelled, empty
    for train; an empty label makes a training image an unlabelled one. The label of an unlabelled image is not
    used. Classes are the labels of training images, in order of their numbers if all are whole numbers, else of
    their names.

    Raises:
        DataError: no such file, no UTF-8, a missing column, or lines that cannot be used; the first are named.
    """
    file = Path(path).expanduser().resolve()
    try:
        content = file.read_bytes()
        rows = list(_rows(file, content.decode("utf-8-sig")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {path} as a CSV file of path,label[,split] in UTF-8: {why}; check it") from error
    if not rows:
        raise DataError(f"{path} names no image; expected a line path,label[,split] for each under its header")
    _check_rows(file, rows)
    images = _stats(file, rows)
    key = hashlib.sha256(f"{DECODE_VERSION} {image_size}\n".encode() + os.fsencode(file.parent) + b"\n" + content)
    key.update("".join(f"{image.st_size} {image.st_mtime_ns}\n" for image in images).encode())
    return Found(key.hexdigest(), partial(_source, file, rows, image_size))


def _source(file: Path, rows: Sequence[_Row], image_size: int) -> Source:
    def load(row: _Row) -> NDArray[np.uint8]:
        return decode(file.parent / row.path, image_size)

    classes = _classes(file, rows)
    number = {name: label for label, name in enumerate(classes)}
    known = [number[row.label] if row.origin != Origin.UNLABELLED else -1 for row in rows]
    return Source(
        name="csv",
        class_names=classes,
        labels=np.array(known, np.int32),
        origins=np.array([row.origin for row in rows], np.int8),
        names=[row.path for row in rows],
        image_shape=(image_size, image_size, 3),
        items=lambda: rows,
        load=load,
        skipped={"not_images": 0},
    )


def _rows(file: Path, text: str) -> Iterator[_Row]:
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    header = [name.strip().lower() for name in next(lines, [])]
    _check_header(file, header)
    place = {name: header.index(name) for name in COLUMNS if name in header}
    for fields in lines:
        if not fields:
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{file}, line {lines.line_num}: expected {len(header)} fields as in the header, got {len(fields)}; "
                "put a path or a label that holds a comma into double quotes"
            )
        cells = {name: fields[index] for name, index in place.items()}
        split = cells.get("split", "").strip().lower()
        yield _Row(lines.line_num, cells["path"], _label(cells["label"]), split)


def _label(cell: str) -> str:
    """The class of a row, "" for none; data sets that number their classes write -1 for that."""
    label = cell.strip()
    return "" if label == "-1" else label


def _check_header(file: Path, header: list[str]) -> None:
    if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
        raise DataError(f"{file}: expected a header with path,label and optionally split, got {','.join(header)}")
    close = [name for name in header if name not in COLUMNS and nearest(name, ["split"])]
    if "split" not in header and close:
        raise DataError(f"{file}: a column is called {close[0]}; did you mean split? Else give it another name")


def _check_rows(file: Path, rows: Sequence[_Row]) -> None:
    _refuse(file, (row for row in rows if not row.path), "without a path; expected one on every line")
    unknown = (row for row in rows if row.split and row.split not in ORIGINS)
    _refuse(file, unknown, f"with a split that is none of {', '.join(ORIGINS)}", "split")
    mute = (row for row in rows if row.origin == Origin.TEST and not row.label)
    _refuse(file, mute, "for test without a label; give one, or make them unlabelled", "path")
    trained = {row.label for row in rows if row.origin == Origin.TRAIN}
    strange = (row for row in rows if row.origin == Origin.TEST and row.label not in trained)
    _refuse(file, strange, "for test with a class that no training image has; rename or remove it", "label")
    seen: set[str] = set()
    repeated = []
    for row in rows:
        full = os.path.normpath(file.parent / row.path)
        repeated += [row] if full in seen else []
        seen.add(full)
    _refuse(file, repeated, "that name an image again; each may stand there once", "path")


def _refuse(file: Path, rows: Iterable[_Row], why: str, field: str = "") -> None:
    """Raises DataError naming the first of the rows, if there are any."""
    bad = list(rows)
    if bad:
        shown = [f"line {row.line}" + (f" ({getattr(row, field)})" if field else "") for row in bad[:NAMED_LINES]]
        more = f" and {len(bad) - NAMED_LINES:,} more" if len(bad) > NAMED_LINES else ""
        raise DataError(f"{file}: {len(bad):,} of its lines {why}: {', '.join(shown)}{more}")


def _stats(file: Path, rows: Sequence[_Row]) -> list[os.stat_result]:
    """Size and time of every image."""
    found, missing = [], []
    for row in rows:
        try:
            status = os.stat(file.parent / row.path)
        except (OSError, ValueError):  # ValueError: what no file can be called
            status = None
        if status and stat.S_ISREG(status.st_mode):
            found.append(status)
        else:
            missing.append(row)
    _refuse(file, missing, f"name a file that is not there (relative paths start at {file.parent})", "path")
    return found


def _classes(file: Path, rows: Sequence[_Row]) -> tuple[str, ...]:
    names = {row.label for row in rows if row.origin == Origin.TRAIN}
    numeric = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numeric else 0, name)))
