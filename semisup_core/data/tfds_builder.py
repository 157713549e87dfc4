"""Opens a data set of TensorFlow Datasets by name, and downloads it first when it is not on the disk."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from semisup_core.errors import DataError
from semisup_core.settings import nearest

ANSWER_SECONDS = 10
ASKED_HOSTS = 3

# Writing a data set starts TensorFlow and takes all devices it sees, so a process of its own does it, on the CPU.
_PREPARE = """
import sys
import tensorflow_datasets
try:
    tensorflow_datasets.builder(sys.argv[1], data_dir=sys.argv[2] or None).download_and_prepare()
except Exception as error:
    print(" ".join(f"{type(error).__name__}: {error}".split()))
    sys.exit(1)
"""


def open_builder(name: str, data_dir: str | Path | None) -> Any:
    """The builder of a data set that is on the disk.

    Args:
        name: as in ``tensorflow_datasets.builder``.
        data_dir: folder of data sets; None = that of tfds.

    Raises:
        DataError: no data set of that name, or it is not there and cannot be downloaded.
    """
    if "://" in str(data_dir or ""):
        raise DataError(f"expected a folder of this machine for the data sets of tfds, got {data_dir}; copy it first")
    folder = str(Path(data_dir).expanduser().absolute()) if data_dir else None
    builder = _builder(name, folder)
    with _without_warnings():
        prepared = builder.is_prepared()
    if prepared:
        return builder
    _check_reachable(builder)
    _download(name, folder, builder)
    return _builder(name, folder)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences tfds, which warns of a data set that is not prepared yet."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _builder(name: str, folder: str | None) -> Any:
    import tensorflow_datasets  # takes a second

    try:
        return tensorflow_datasets.builder(name, data_dir=folder)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        there = os.listdir(folder) if folder and os.path.isdir(folder) else []
        known = [*there, *tensorflow_datasets.list_builders(with_community_datasets=False)]
        raise DataError(
            f"expected the name of a data set of tfds{f' or of one in {folder}' if folder else ''}, got {name!r}"
            f"{nearest(name.split(':')[0].split('/')[0], known)} "
            "(all names: https://www.tensorflow.org/datasets/catalog/overview)"
        ) from error
    except Exception as error:  # unknown configurations and versions come as all kinds
        raise DataError(f"tfds cannot open {name!r}: {_short(str(error))}") from error


def _check_reachable(builder: Any) -> None:
    """Asks the hosts of a download once; tfds itself would ask ten times each, for minutes."""
    hosts = {urlsplit(url).netloc: url for url in builder.url_infos or {}}
    silent = []
    for host, url in list(hosts.items())[:ASKED_HOSTS]:
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):
                return
        except urllib.error.HTTPError:
            return  # it answers; what it thinks of the download itself is seen there
        except (OSError, ValueError) as error:
            silent.append(f"{host} ({error})")
    if silent:
        raise _cannot_download(builder, f"no answer from {', '.join(silent)}")


def _download(name: str, folder: str | None, builder: Any) -> None:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", _PREPARE, name, folder or ""]
    done = subprocess.run(command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise _cannot_download(builder, _short(done.stdout.splitlines()[-1] if done.stdout else "it was ended"))


def _cannot_download(builder: Any, why: str) -> DataError:
    return DataError(
        f"{builder.info.full_name} is not in {builder.data_dir} and cannot be downloaded: {why}. Check the network; "
        f"or prepare it elsewhere ('tfds build {builder.name}') and give that folder as dataset.path"
    )


def _short(text: str) -> str:
    return " ".join(text.split())[:500]
