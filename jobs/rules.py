"""Rules between the keys of a configuration; what needs data or devices is checked in the driver's preflight."""

import re

from jobs.errors import ConfigError
from jobs.schema import PIPELINE_PREFIX, RunConfig
from jobs.storage import check_address
from semisup_core.encoders import check_image_size

_LARGEST_SEED = 2**32 - 1  # NumPy's limit
_RESERVED = ("stores", "baselines")  # folders of a storage that are no runs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_together(config: RunConfig) -> None:
    """Checks what no single key can be blamed for.

    Raises:
        ConfigError: names the keys, what was expected and what came.
    """
    _check_place(config)
    _check_data(config)
    _check_training(config)
    _check_evaluation(config)


def _check_place(config: RunConfig) -> None:
    name = config.name
    if name is not None and (not _NAME.fullmatch(name) or name in _RESERVED or name.startswith(PIPELINE_PREFIX)):
        raise ConfigError(
            f"name: expected letters, digits, '.', '_' and '-', not {' or '.join(_RESERVED)}, nor {PIPELINE_PREFIX}… "
            f"(folders that are no runs); got {name!r}"
        )
    check_address(config.storage)
    if config.runtime.name == "local" and config.runtime.workers[-1] > 1:
        raise ConfigError("runtime.num_workers: runtime=local is one process; use runtime=ray for several workers")
    if config.debug.logical_devices > 1 and config.runtime.workers[-1] > 1:
        raise ConfigError("debug.logical_devices: splits the CPU of one worker; set runtime.num_workers=1")

    if config.debug.overfit_batch and (config.debug.steps is None or config.resume):
        raise ConfigError(
            "debug.overfit_batch: trains on one batch, which is no run to keep or to go on with; expected "
            "debug.steps=200 or so, and resume=false"
        )
    if config.debug.overfit_batch and not config.method.learns_one_batch:
        raise ConfigError(
            f"debug.overfit_batch: expected a method whose loss falls on one batch, got {config.method.name}, whose "
            "negatives would be earlier keys of the same images; try it with method=info_nce"
        )


def _check_data(config: RunConfig) -> None:
    dataset = config.dataset
    if dataset.labels_per_class is not None and dataset.label_fraction is not None:
        raise ConfigError(
            "dataset.labels_per_class and dataset.label_fraction: expected at most one of the two; set one to null"
        )
    try:
        check_image_size(config.encoder, dataset.image_size)
    except ValueError as error:
        raise ConfigError(f"dataset.image_size: {error}") from error


def _check_training(config: RunConfig) -> None:
    if not 0 <= config.seed <= _LARGEST_SEED:
        raise ConfigError(f"seed: expected a value from 0 to {_LARGEST_SEED}, got {config.seed}")
    warmup = config.optimizer.warmup_epochs
    if warmup is not None and warmup >= config.trainer.epochs:
        raise ConfigError(
            f"optimizer.warmup_epochs: expected fewer than trainer.epochs={config.trainer.epochs}, got {warmup:g}"
        )
    if config.optimizer.name == "adam" and config.optimizer.weight_decay:
        raise ConfigError("optimizer.weight_decay: adam has none; set it to 0, or use optimizer.name=adamw")
    if config.trainer.early_stop and not config.dataset.validation_per_class:
        raise ConfigError("trainer.early_stop: needs validation labels; set dataset.validation_per_class above 0")
    if config.trainer.xla and (config.runtime.workers[-1] > 1 or config.debug.logical_devices > 1):
        raise ConfigError(
            "trainer.xla: compiles for a single device; set it to false, or use runtime.num_workers=1 and "
            "debug.logical_devices=1"
        )
    if config.trainer.online_probe and config.method.has_classifier:
        raise ConfigError(f"trainer.online_probe: {config.method.name} has a classifier of its own; set it to false")


def _check_evaluation(config: RunConfig) -> None:
    protocols, monitor = config.evaluation.protocols, config.evaluation.monitor
    if "classifier" in (monitor, *protocols) and not config.has_classifier:
        raise ConfigError(
            f"evaluation.protocols: classifier is measured on a method's own head, and "
            f"{config.method.name} has none; leave it out, or train one beside it with trainer.online_probe=true"
        )
    if monitor not in protocols:
        raise ConfigError(
            f"evaluation.monitor: expected one of evaluation.protocols ({', '.join(protocols)}), got {monitor}"
        )
