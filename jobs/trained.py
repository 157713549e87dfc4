"""A run that was trained, opened for use: its data, its encoder and classifier, and its embeddings."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from jobs import config as configs
from jobs.errors import ConfigError
from jobs.folder import RunFolder
from jobs.initial import content
from jobs.prepare import STORES, fetched_store, prepare_store, split_of
from jobs.schema import PROTOCOLS, RunConfig
from jobs.storage import Storage, open_storage
from semisup_core.data.manifest import MANIFEST
from semisup_core.data.splits import Split
from semisup_core.data.store import Store
from semisup_core.devices import set_precision
from semisup_core.errors import DataError
from semisup_core.evaluation.embed import Embedder
from semisup_core.evaluation.protocols import Predictor, fit

_KEY_CHARACTERS = 16


class Trained:
    """One run with its data; the encoder is loaded when it is first needed.

    Attributes:
        folder: the run folder.
        config: as the run was configured, with the storage that the folder lies in.
        store: its images.
        split: its rows.
    """

    def __init__(self, folder: RunFolder, data_path: str | None = None) -> None:
        """Opens the data that the run was trained on.

        Args:
            folder: an existing run folder.
            data_path: where the data are now, if they have moved.

        Raises:
            ConfigError: the run's configuration is not valid.
            DataError: other data, or another split, than the run was trained on.
        """
        set_precision("float32")
        self.folder = folder
        written = configs.load([], str(folder.path / "config.yaml"))
        try:
            dataset = dataclasses.replace(written.dataset, path=data_path or written.dataset.path)
        except ValueError as error:
            raise ConfigError(f"dataset.{error}") from error
        self.config = dataclasses.replace(written, storage=folder.storage.url, dataset=dataset)
        self.store, self.split = _same_data(self.config, folder, moved=data_path is not None)

    @cached_property
    def encoder(self) -> Embedder:
        """Turns images into features.

        Raises:
            ConfigError: the run has left no encoder yet.
        """
        return Embedder(_load(self.folder.encoder))

    @cached_property
    def classifier(self) -> Callable[[np.ndarray], Any] | None:
        """Features (N, D) -> logits (N, C), or None where the run has none."""
        if not self.folder.classifier.exists():
            return None
        return _load(self.folder.classifier)

    @property
    def protocols(self) -> list[str]:
        """The protocols that the run can be measured by."""
        return [name for name in PROTOCOLS if name != "classifier" or self.classifier]

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings of stored rows, computed once and kept in the run folder.

        Args:
            rows: (N,) row ids, at least one.

        Returns:
            (N, D) float32.
        """
        parts = [self.encoder_hash, self.store.fingerprint, hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()]
        file = self.folder.path / "embeddings" / ("-".join(part[:_KEY_CHARACTERS] for part in parts) + ".npy")
        try:
            kept = np.load(file, allow_pickle=False)
            if len(kept) == len(rows):
                return kept
        except (OSError, ValueError, EOFError):
            pass  # not there, or cut short: embedded again
        features = self.encoder(self.store, rows)
        self._keep(features, file)
        return features

    def predictor(self, protocol: str) -> Predictor:
        """A protocol fitted on the labelled training images.

        Raises:
            ConfigError: the protocol is "classifier" and the run has none.
        """
        rows = self.split.labelled
        bank, labels = self.features(rows), np.asarray(self.store.labels[rows])
        fitted = fit(protocol, bank, labels, len(self.store.class_names), self.classifier)
        if fitted is None:
            raise ConfigError(
                f"{protocol}: {self.folder.name} has no classifier.keras, its method trains none; "
                f"expected one of {', '.join(self.protocols)}"
            )
        return fitted

    @cached_property
    def encoder_hash(self) -> str:
        """SHA-256 of the encoder's weights."""
        _check_there(self.folder.encoder)
        return content(self.folder.encoder)

    def _keep(self, features: np.ndarray, file: Path) -> None:
        """Writes embeddings whole, and removes those of an encoder that is no longer there."""
        file.parent.mkdir(exist_ok=True)
        for old in file.parent.glob("*.npy"):
            if not old.name.startswith(self.encoder_hash[:_KEY_CHARACTERS]):
                self.folder.storage.remove(old)
        partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
        with open(partial, "wb") as out:
            np.save(out, features, allow_pickle=False)
        partial.replace(file)


def _same_data(config: RunConfig, folder: RunFolder, moved: bool) -> tuple[Store, Split]:
    """The store and the split that the run recorded; the source is read only where the store is gone."""
    try:
        recorded = json.loads((folder.path / "split.json").read_text())
        fingerprint, split_hash = recorded["store_fingerprint"], recorded["hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder.url}/split.json: expected the split of a run, got {error!r}") from error
    store = None if moved else _stored(open_storage(config.storage), fingerprint)  # shared: it never changes
    if store is None:
        try:
            store = prepare_store(config)
        except DataError as error:
            raise DataError(f"{error}; if the data have moved, add dataset.path=FOLDER") from error
    if store.fingerprint != fingerprint:
        place = config.dataset.path or config.dataset.name
        raise DataError(
            f"{place}: expected the images that {folder.name} was trained on (fingerprint {fingerprint[:12]}), found "
            f"others ({store.fingerprint[:12]}); restore them, or give their folder with dataset.path=FOLDER"
        )
    split = split_of(config, store)
    if split.hash != split_hash:
        raise DataError(
            f"{folder.url}/split.json: expected the split {split_hash[:12]}, these keys now give "
            f"{split.hash[:12]}; config.yaml was changed by hand, or another version of this program wrote it"
        )
    return store, split


def _stored(storage: Storage, fingerprint: str) -> Store | None:
    stores = storage.root / STORES
    for name in storage.names(stores):
        try:
            if json.loads(storage.read(stores / name / MANIFEST) or b"{}").get("fingerprint") == fingerprint:
                return fetched_store(storage, name)
        except (OSError, ValueError, KeyError, DataError):
            continue  # a damaged store is rebuilt from the source
    return None


def _check_there(path: Path) -> None:
    if not path.exists():
        raise ConfigError(
            f"{path.parent.name}: expected {path.name} in its folder, found none; a run leaves it when it ends, "
            "python -m jobs.runs shows how to resume it"
        )


def _load(path: Path) -> Any:
    _check_there(path)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras and zipfile raise whatever a damaged file makes of their parsing
        raise DataError(f"{path}: expected a Keras model, cannot load it: {error}") from error
