"""From the command line and YAML files to a frozen RunConfig; every error before anything starts.

Layers, later wins: the dataclass defaults here, `configs/train.yaml`, one file per group, the `--config` file,
`key=value` arguments. Every YAML file is a piece of the whole configuration, written from the top level;
`groups` in it picks group members, as `method=suncet` does on the command line.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.errors import ConfigError
from jobs.schema import (
    PATH_SOURCES,
    AugmentationConfig,
    CheckpointConfig,
    DatasetConfig,
    DebugConfig,
    EvaluationConfig,
    Groups,
    OptimizerConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainerConfig,
)
from semisup_core.encoders import ENCODERS
from semisup_core.methods import METHODS
from semisup_core.settings import nearest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# Later files win, so the data set has the last word on what suits it.
GROUP_ORDER = ("encoder", "augmentation", "method", "dataset", "runtime", "tracking")
_SECTIONS = {
    "groups": Groups,
    "dataset": DatasetConfig,
    "augmentation": AugmentationConfig,
    "trainer": TrainerConfig,
    "optimizer": OptimizerConfig,
    "evaluation": EvaluationConfig,
    "checkpoint": CheckpointConfig,
    "runtime": RuntimeConfig,
    "tracking": TrackingConfig,
    "debug": DebugConfig,
}
_CHOSEN = {"method": METHODS, "encoder": ENCODERS}


@dataclass
class _Top:
    name: str | None = None
    storage: str = "runs"
    seed: int = 0
    resume: bool = True


def members(group: str) -> list[str]:
    """The names of a group's files in `configs/`."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def load(overrides: list[str], file: str | None = None) -> RunConfig:
    """Builds the configuration of one run.

    Args:
        overrides: `group=member` and `dotted.key=value` strings.
        file: a YAML file to start from (`--config`).

    Returns:
        The checked configuration.

    Raises:
        ConfigError: the key path, what was expected, what came, and the nearest valid name.
    """
    picks, values = _parse_overrides(overrides)
    started_from = _read(Path(file)) if file else OmegaConf.create()
    groups, layers = _layers(started_from, picks, file or "")
    layers.append(("the command line", values))
    merged = _merge(_schema(layers), layers)
    merged.groups = OmegaConf.merge(merged.groups, groups)
    return _to_dataclasses(merged)


def _parse_overrides(overrides: list[str]) -> tuple[dict[str, str], DictConfig]:
    picks, values = {}, []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text}: expected key=value, as in method=suncet or trainer.epochs=50")
        if key in GROUP_ORDER:
            picks[key] = value
        else:
            values.append(text)
    try:
        return picks, OmegaConf.from_dotlist(values)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"cannot read {' '.join(values)}: {error}") from error


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError(f"{path}: expected a YAML file, found none; check the path given to --config")
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # whatever the YAML reader raises, the user needs the file and the place
        raise ConfigError(f"{path}: not a YAML mapping: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top level")
    return config


def _layers(started_from: DictConfig, picks: dict[str, str], file: str) -> tuple[dict, list[tuple[str, DictConfig]]]:
    """The chosen member of each group, and the YAML layers in order of rising precedence."""
    base = _read(CONFIGS / "train.yaml")
    file_groups = _picked(started_from, file)
    chosen = {**dataclasses.asdict(Groups()), **_picked(base, "train.yaml"), **file_groups, **picks}
    suits = _picked(_member("dataset", chosen["dataset"]), f"dataset/{chosen['dataset']}.yaml")
    chosen.update({group: name for group, name in suits.items() if group not in {**file_groups, **picks}})
    layers = [("configs/train.yaml", base)]
    layers += [(f"configs/{group}/{chosen[group]}.yaml", _member(group, chosen[group])) for group in GROUP_ORDER]
    # A member picked anew on the command line starts from its own file, not from the old member's values.
    anew = {group for group, name in picks.items() if file_groups.get(group, name) != name}
    kept = {key: value for key, value in started_from.items() if key not in anew}
    return chosen, [*layers, (file, OmegaConf.create(kept))]


def _picked(config: DictConfig, origin: str) -> dict[str, str]:
    groups: Any = OmegaConf.to_container(config.get("groups") or OmegaConf.create())
    for group in groups:
        if group not in GROUP_ORDER:
            raise ConfigError(
                f"groups.{group} (in {origin}): no such group{nearest(str(group), GROUP_ORDER)}; "
                f"groups are {', '.join(GROUP_ORDER)}"
            )
    return {str(group): str(name) for group, name in groups.items()}


def _member(group: str, name: str) -> DictConfig:
    names = members(group)
    if name not in names:
        raise ConfigError(f"{group}: expected one of {', '.join(names)}; got {name!r}{nearest(name, names)}")
    return _read(CONFIGS / group / f"{name}.yaml")


def _schema(layers: list[tuple[str, DictConfig]]) -> DictConfig:
    """The typed defaults; the classes of `method` and `encoder` follow the name that the files give."""
    schema = OmegaConf.structured(_Top)
    chosen = {}
    for section, entries in _CHOSEN.items():
        name = next(layer[section]["name"] for _, layer in reversed(layers) if layer.get(section, {}).get("name"))
        if name not in entries:
            raise ConfigError(
                f"{section}.name: expected one of {', '.join(entries)}; got {name!r}{nearest(str(name), entries)}"
            )
        chosen[section] = OmegaConf.structured(entries[name][0])
    sections = {name: OmegaConf.structured(cls) for name, cls in _SECTIONS.items()}
    OmegaConf.set_struct(schema, False)
    for name, section in {**sections, **chosen}.items():
        OmegaConf.set_readonly(section, False)
        schema[name] = section
    return schema


def _merge(schema: DictConfig, layers: list[tuple[str, DictConfig]]) -> DictConfig:
    valid = set(flat(schema))
    merged = schema
    missing: set[str] = set()
    for origin, layer in layers:
        # A merge skips '???' over a default, so what a file asks for is kept apart.
        missing = (missing - set(flat(layer))) | OmegaConf.missing_keys(layer)
        for key in flat(layer):
            if key not in valid:
                raise ConfigError(
                    f"{key} (in {origin}): no such key{nearest(key, valid)}; "
                    "python -m jobs.train --print-config shows them all"
                )
        try:
            merged = _mapping(OmegaConf.merge(merged, layer))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{error.full_key} (in {origin}): {str(error).splitlines()[0]}") from error
    if missing:
        raise ConfigError(
            "; ".join(f"{key}: a value is needed, none was given: add {key}=VALUE" for key in sorted(missing))
        )
    return merged


def _mapping(config: Any) -> DictConfig:
    if not isinstance(config, DictConfig):
        raise ConfigError(f"expected a mapping of keys to values, got {config}")
    return config


def flat(config: Any, prefix: str = "") -> list[str]:
    """The dotted keys of all leaves; a list is a leaf, and so is an empty section."""
    if not OmegaConf.is_dict(config):
        return [prefix]
    keys = []
    for key in config:
        path = f"{prefix}.{key}" if prefix else str(key)
        leaf = OmegaConf.is_missing(config, key) or not OmegaConf.is_dict(config[key])
        keys += [path] if leaf else flat(config[key], path)
    return keys


def _to_dataclasses(merged: DictConfig) -> RunConfig:
    values: dict[str, Any] = {key: merged[key] for key in ("name", "storage", "seed", "resume")}
    for section in (*_SECTIONS, *_CHOSEN):
        values[section] = _instance(section, merged[section])
    config = RunConfig(**values)
    _check_together(config)
    return config


def _instance(section: str, node: DictConfig) -> Any:
    for key in map(str, node):  # inner sections first, so that an error carries its whole path
        if OmegaConf.is_dict(node[key]):
            _instance(f"{section}.{key}", node[key])
    try:
        return OmegaConf.to_object(node)
    except ValueError as error:
        raise ConfigError(f"{section}.{error}") from error


def _check_together(config: RunConfig) -> None:
    """Rules between keys; what needs data or devices is checked in the driver's preflight."""
    dataset = config.dataset
    if dataset.labels_per_class is not None and dataset.label_fraction is not None:
        raise ConfigError(
            "dataset.labels_per_class and dataset.label_fraction: expected at most one of the two; set one to null"
        )
    if dataset.name in PATH_SOURCES and not dataset.path:
        raise ConfigError(f"dataset.path: dataset.name={dataset.name} needs one; add dataset.path=FOLDER")
    if config.trainer.early_stop and not dataset.validation_per_class:
        raise ConfigError("trainer.early_stop: needs validation labels; set dataset.validation_per_class above 0")
    protocols = (config.evaluation.monitor, *config.evaluation.protocols)
    if "classifier" in protocols and not config.method.has_classifier:
        raise ConfigError(
            f"evaluation.protocols: classifier is measured on a method's own head, and "
            f"{config.method.name} has none; leave it out"
        )
    if config.evaluation.monitor not in config.evaluation.protocols:
        raise ConfigError(
            f"evaluation.monitor: expected one of evaluation.protocols "
            f"({', '.join(config.evaluation.protocols)}), got {config.evaluation.monitor}"
        )
    if config.optimizer.name == "adam" and config.optimizer.weight_decay:
        raise ConfigError("optimizer.weight_decay: adam has none; set it to 0, or use optimizer.name=adamw")
    if config.runtime.name == "local" and config.runtime.num_workers > 1:
        raise ConfigError("runtime.num_workers: runtime=local is one process; use runtime=ray for several workers")
    if config.seed < 0:
        raise ConfigError(f"seed: expected a value at least 0, got {config.seed}")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain values, for YAML, JSON and workers."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The configuration that `to_dict` wrote; raises ConfigError as `load` does."""
    config = OmegaConf.create(values)
    return _to_dataclasses(_merge(_schema([("the run's config", config)]), [("the run's config", config)]))


def to_yaml(config: RunConfig) -> str:
    """The whole resolved configuration; a file of it is valid for `--config`."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))
