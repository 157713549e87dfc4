"""The encoder that a run starts from: `encoder.init`, an earlier run or a .keras file."""

import hashlib
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jobs.config import to_dict
from jobs.errors import ConfigError
from jobs.folder import RunFolder, find_run
from jobs.schema import RunConfig

# What two encoders may differ in and still have the same weights' shapes.
_NOT_STRUCTURE = ("init", "trainable")


def initial_encoder(config: RunConfig) -> Path | None:
    """The file that `encoder.init` means.

    Args:
        config: `encoder.init` is the name of a run in `storage`, the path of a run folder, or a .keras file.

    Returns:
        An existing .keras file, or None when the weights start at random.

    Raises:
        ConfigError: there is no such run or file, the run is not finished, or its encoder is another one.
    """
    init = config.encoder.init
    if init is None:
        return None
    path = Path(init).expanduser()
    if path.suffix == ".keras":
        if not path.is_file():
            raise ConfigError(f"encoder.init: expected a .keras file, found none at {path}")
        return path.resolve()
    try:
        folder = find_run(init, config.storage)
    except ConfigError as error:
        raise ConfigError(f"encoder.init={error}; or give a .keras file") from error
    if not folder.encoder.is_file():
        raise ConfigError(f"encoder.init: {folder.path} has no {folder.encoder.name}; is the run finished?")
    _check_structure(config, folder)
    return folder.encoder


def _check_structure(config: RunConfig, folder: RunFolder) -> None:
    theirs: Any = OmegaConf.to_container(OmegaConf.load(folder.path / "config.yaml"))
    ours = to_dict(config)["encoder"]
    differing = [
        f"encoder.{key} is {theirs['encoder'].get(key)} there and {value} here"
        for key, value in ours.items()
        if key not in _NOT_STRUCTURE and theirs["encoder"].get(key) != value
    ]
    if differing:
        raise ConfigError(f"encoder.init={config.encoder.init}: {'; '.join(differing)}; expected the same")


def content(file: Path) -> str:
    """SHA-256 of a file: what `encoder.init` counts by in a run's identity."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
