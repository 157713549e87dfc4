"""Data of a run: the prepared store and its split."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jobs.schema import DatasetConfig, RunConfig
from jobs.storage import Storage, open_storage
from semisup_core.data import SOURCES
from semisup_core.data.manifest import MANIFEST
from semisup_core.data.sources import prepare
from semisup_core.data.splits import Split, make_split
from semisup_core.data.store import Store, open_store
from semisup_core.data.writer import check_quota

STORES = "stores"  # the folder of a storage that holds them


def prepare_store(config: RunConfig, progress: bool = True, say: Callable[[str], Any] = print) -> Store:
    """Opens the store of the run's data set, and builds it first when it is not there.

    On a machine that does not have the data, it is the store that was last made in this storage with the same words.

    Args:
        config: the run.
        progress: draw a bar on stderr while writing.
        say: prints a line to the user.

    Raises:
        DataError: the data cannot be used.
    """
    dataset, storage = config.dataset, open_storage(config.storage)
    settings = {key: getattr(dataset, key) for key in SOURCES[dataset.name].settings}
    note = storage.root / STORES / ".made_of" / f"{_digest(dataset, settings)}.json"
    if dataset.path and not Path(dataset.path).expanduser().exists() and (made := storage.read(note)):
        name = json.loads(made)["store"]
        say(f"dataset.path={dataset.path} is not on this machine: taking the store {name}, made of it before")
        store = fetched_store(storage, name)
        check_quota(store.manifest.corrupt, len(store) + len(store.manifest.corrupt), dataset.corrupt_quota)
        return store
    store = prepare(
        dataset.name,
        image_size=dataset.image_size,
        stores=storage.root / STORES,
        fetch=partial(_fetch_whole, storage),
        corrupt_quota=dataset.corrupt_quota,
        progress=progress,
        **settings,
    )
    storage.send(store.path)
    if dataset.path:
        storage.write(note, json.dumps({"store": store.path.name, "dataset": dataset.name, **settings}).encode())
    return store


def _digest(dataset: DatasetConfig, settings: dict[str, Any]) -> str:
    words = {"name": dataset.name, "image_size": dataset.image_size, **settings}
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


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
