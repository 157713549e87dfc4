"""Reads Weights & Biases' offline files: LevelDB's log format around protocol buffers.

W&B's process holds rows back for some seconds before it writes them, and what it holds when a run is killed is lost. So
a run that resumes looks which rows arrived.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FILE_HEADER, _RECORD_HEADER, _BLOCK = 7, 7, 32768
_FULL, _FIRST, _LAST = 1, 2, 4


def offline_files(folder: Path) -> list[Path]:
    """Those of a run folder on this machine, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def arrived(folder: Path, sent: int) -> int:
    """The newest `train/step` that arrived of those that were sent.

    Args:
        folder: of the run.
        sent: the newest one that W&B's process was given; all that is known where its last attempt was online.
    """
    files = offline_files(folder)
    if not files or any(file > files[-1].parent for file in folder.glob("wandb/run-*")):
        return sent
    try:
        steps = [int(row.get("train/step", 0)) for file in files for row in history(file)]
    except Exception:  # whatever protocol buffers make of a damaged file; logging never stops training
        return sent
    return min(max(steps, default=0), sent)


def history(file: Path) -> Iterator[dict[str, Any]]:
    """The rows that were logged."""
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def records(file: Path) -> Iterator[Any]:
    """The records of a file; what a kill cut off is left out."""
    from wandb.proto import wandb_internal_pb2

    data, place = file.read_bytes(), _FILE_HEADER
    parts: list[bytes] = []
    while place + _RECORD_HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _RECORD_HEADER:  # the rest of a block is too small for a header
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + _RECORD_HEADER])
        place += _RECORD_HEADER
        if not kind or place + length > len(data):
            return
        parts = [] if kind in (_FULL, _FIRST) else parts
        parts.append(data[place : place + length])
        place += length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            yield record
