"""Data of a run: the prepared store and its split."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jobs.schema import DatasetConfig, RunConfig
from jobs.storage import Storage, is_shared, open_storage
from semisup_core.data import SOURCES
from semisup_core.data.manifest import MANIFEST
from semisup_core.data.sources import prepare
from semisup_core.data.splits import Split, make_split
from semisup_core.data.store import Store, open_store
from semisup_core.data.writer import check_quota
from semisup_core.errors import DataError

STORES = "stores"  # the folder of a storage that holds them


def prepare_store(config: RunConfig, progress: bool = True, say: Callable[[str], Any] = print) -> Store:
    """Opens the store of the run's data set, and builds it first when it is not there.

    On a machine that does not have the data, it is the store that was last made of the same path in this storage.

    Args:
        config: the run.
        progress: draw a bar on stderr while writing.
        say: prints a line to the user.

    Raises:
        DataError: the data cannot be used.
    """
    dataset, storage = config.dataset, open_storage(config.storage)
    missing = bool(dataset.path) and not Path(dataset.path or "").expanduser().exists()
    if missing and (made := made_before(dataset, storage)):
        name, words = made
        say(f"dataset.path={dataset.path} is not on this machine: taking the store {name}, {words}")
        store = fetched_store(storage, name)
        check_quota(store.manifest.corrupt, len(store) + len(store.manifest.corrupt), dataset.corrupt_quota)
        return store
    try:
        store = prepare(
            dataset.name,
            image_size=dataset.image_size,
            stores=storage.root / STORES,
            fetch=partial(_fetch_whole, storage),
            corrupt_quota=dataset.corrupt_quota,
            progress=progress,
            **_settings(dataset),
        )
    except DataError as error:
        if not missing:
            raise
        where = f"python -m jobs.data with the same words and storage={storage.url} on a machine that has the data"
        raise DataError(f"{error}, or run {where}") from error
    storage.send(store.path)
    if dataset.path and is_shared(dataset.path):
        words = f"made of it on {platform.node()} at {time.strftime('%Y-%m-%d %H:%M')}"
        note = {"store": store.path.name, "words": words, "images": len(store)}
        storage.write(_note(dataset, storage), json.dumps(note).encode())
    return store


def made_before(dataset: DatasetConfig, storage: Storage) -> tuple[str, str] | None:
    """The store that was last made of this path, by whatever machine has it: its name, and when and where that was.

    Only an absolute path means the same on two machines.
    """
    try:
        note = json.loads(storage.read(_note(dataset, storage)) or b"{}")
        there = MANIFEST in storage.names(storage.root / STORES / note["store"])
        return (note["store"], f"{note['words']}, {note['images']:,} images") if there else None
    except (ValueError, KeyError, TypeError):  # none, or a damaged one
        return None


def _note(dataset: DatasetConfig, storage: Storage) -> Path:
    """Where it stands which store was made of a path."""
    words = {"name": dataset.name, "image_size": dataset.image_size, **_settings(dataset)}
    if dataset.path:
        words["path"] = os.path.normpath(dataset.path)
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
    return storage.root / STORES / ".made_of" / f"{digest[:16]}.json"


def _settings(dataset: DatasetConfig) -> dict[str, Any]:
    """What the source of a data set takes."""
    return {key: getattr(dataset, key) for key in SOURCES[dataset.name].settings}


def fetched_store(storage: Storage, name: str) -> Store:
    """A prepared store on this machine, copied here once when it lies in an object store.

    Args:
        storage: of the run.
        name: of its folder in `stores`.
    """
    path = storage.root / STORES / name
    storage.fetch(path)
    return open_store(path)


def _fetch_whole(storage: Storage, path: Path) -> None:
    """Copies a store here if all of it is there: one whose sending was interrupted is made and sent again."""
    if MANIFEST in storage.names(path):
        storage.fetch(path)


def split_of(config: RunConfig, store: Store) -> Split:
    """The run's split of a store.

    Raises:
        DataError: a class has fewer labels than asked.
    """
    dataset = config.dataset
    return make_split(
        store.labels,
        store.origins,
        class_names=store.class_names,
        seed=config.seed if dataset.split_seed is None else dataset.split_seed,
        labels_per_class=dataset.labels_per_class,
        label_fraction=dataset.label_fraction,
        validation_per_class=dataset.validation_per_class,
        test_fraction=dataset.test_fraction,
    )
