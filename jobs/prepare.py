"""Data of a run: the prepared store and its split."""

from functools import partial
from pathlib import Path

from jobs.schema import RunConfig
from jobs.storage import Storage, open_storage
from semisup_core.data import SOURCES
from semisup_core.data.manifest import MANIFEST
from semisup_core.data.sources import prepare
from semisup_core.data.splits import Split, make_split
from semisup_core.data.store import Store, open_store

STORES = "stores"  # the folder of a storage that holds them


def prepare_store(config: RunConfig, progress: bool = True) -> Store:
    """Opens the store of the run's data set, and builds it first when it is not there.

    Raises:
        DataError: the data cannot be used.
    """
    dataset, storage = config.dataset, open_storage(config.storage)
    store = prepare(
        dataset.name,
        image_size=dataset.image_size,
        stores=storage.root / STORES,
        fetch=partial(_fetch_whole, storage),
        corrupt_quota=dataset.corrupt_quota,
        progress=progress,
        **{key: getattr(dataset, key) for key in SOURCES[dataset.name].settings},
    )
    storage.send(store.path)
    return store


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
