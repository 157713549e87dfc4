"""The encoder that a run starts from: `encoder.init`, an earlier run or a .keras file."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jobs.config import to_dict
from jobs.errors import ConfigError
from jobs.folder import RunFolder, find_run
from jobs.schema import RunConfig
from jobs.storage import local_file
from semisup_core.data.splits import Split
from semisup_core.errors import DataError

# What two encoders may differ in and still have the same weights' shapes.
_NOT_STRUCTURE = ("init", "trainable")
_WEIGHTS = "model.weights.h5"  # of a .keras archive; its other files hold the structure, and when it was written
_HELD_OUT = ("validation", "test")


def initial_encoder(config: RunConfig) -> Path | None:
    """The file that `encoder.init` means.

    Args:
        config: `encoder.init` is the name of a run in `storage`, the path of a run folder, or a .keras file.

    Returns:
        An existing .keras archive, or None when the weights start at random.

    Raises:
        ConfigError: there is no such run or file, the run is not finished, or its encoder is another one.
    """
    init = config.encoder.init
    if init is None:
        return None
    if init.endswith(".keras"):
        path = local_file(init, "split.json")
        if not path.is_file():
            raise ConfigError(f"encoder.init: expected a .keras file, found none at {init}")
        return _checked(path.resolve())
    try:
        folder = find_run(init, config.storage)
    except ConfigError as error:
        raise ConfigError(f"encoder.init={error}; or give a .keras file") from error
    if not folder.encoder.is_file():
        raise ConfigError(f"encoder.init: {folder.url} has no {folder.encoder.name}; is the run finished?")
    _check_structure(config, folder)
    return _checked(folder.encoder)


def _checked(file: Path) -> Path:
    try:
        content(file)
    except DataError as error:
        raise ConfigError(f"encoder.init: {error}") from error
    return file


def _check_structure(config: RunConfig, folder: RunFolder) -> None:
    theirs: Any = OmegaConf.to_container(OmegaConf.load(folder.path / "config.yaml"))
    ours = to_dict(config)["encoder"]
    differing = {
        key: theirs["encoder"][key]
        for key, value in ours.items()
        if key not in _NOT_STRUCTURE and theirs["encoder"].get(key, value) != value
    }
    if differing:
        facts = "; ".join(f"encoder.{key} is {value} there and {ours[key]} here" for key, value in differing.items())
        words = " ".join(f"encoder.{key}={value}" for key, value in differing.items() if key != "name")
        group = f"encoder={differing['name']} " if "name" in differing else ""
        raise ConfigError(
            f"encoder.init={config.encoder.init}: {facts}; expected the same: add {group}{words}".rstrip()
        )


def check_held_out(initial: Path, split: Split, fingerprint: str) -> None:
    """Refuses an encoder that was trained on images which this run holds out for validation or test.

    A file that lies beside no split.json cannot be checked.

    Args:
        initial: the encoder's file.
        split: this run's.
        fingerprint: of this run's store; the rows of another store mean other images.

    Raises:
        ConfigError: the earlier run on the same images held out others.
    """
    recorded = initial.parent / "split.json"
    if not recorded.exists():
        return
    earlier = json.loads(recorded.read_text())
    ours = split.to_hashes()
    differing = [pool for pool in _HELD_OUT if len(getattr(split, pool)) and earlier["sha256"][pool] != ours[pool]]
    if earlier["store_fingerprint"] == fingerprint and differing:
        raise ConfigError(
            f"encoder.init: its run held out other {' and '.join(differing)} images, so it may have learned "
            f"from those of this run; expected the same dataset.split_seed (there {earlier['seed']}, here "
            f"{split.seed}), dataset.validation_per_class and dataset.test_fraction"
        )


def content(file: Path) -> str:
    """SHA-256 of a model's weights: what `encoder.init` counts by in a run's identity.

    Raises:
        DataError: the file is no Keras archive.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return hashlib.sha256(archive.read(_WEIGHTS)).hexdigest()
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{file}: expected a model that Keras saved ({error}); is it damaged?") from error
