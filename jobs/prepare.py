"""Data of a run: the prepared store and its split."""

from pathlib import Path

from jobs.schema import RunConfig
from semisup_core.data import SOURCES
from semisup_core.data.sources import prepare
from semisup_core.data.splits import Split, make_split
from semisup_core.data.store import Store


def prepare_store(config: RunConfig, progress: bool = True) -> Store:
    """Opens the store of the run's data set, and builds it first when it is not there.

    Raises:
        DataError: the data cannot be used.
    """
    dataset = config.dataset
    return prepare(
        dataset.name,
        image_size=dataset.image_size,
        stores=Path(config.storage).expanduser() / "stores",
        corrupt_quota=dataset.corrupt_quota,
        progress=progress,
        **{key: getattr(dataset, key) for key in SOURCES[dataset.name].settings},
    )


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
