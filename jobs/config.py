"""From the command line and YAML files to a frozen RunConfig; every error before anything starts.

Layers, later wins: the dataclass defaults here, `configs/train.yaml`, one file per group, the `--config` file,
`key=value` arguments. Every YAML file is a piece of the whole configuration, written from the top level;
`groups` in it picks group members, as `method=suncet` does on the command line.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.errors import ConfigError
from jobs.layers import GROUP_ORDER, layers_of, one_line, parse_overrides, read_yaml
from jobs.rules import check_together
from jobs.schema import (
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
from jobs.storage import local_file
from semisup_core.encoders import ENCODERS
from semisup_core.methods import METHODS
from semisup_core.settings import nearest

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


def load(overrides: list[str], file: str | None = None, below: Sequence[tuple[str, DictConfig]] = ()) -> RunConfig:
    """Builds the configuration of one run.

    Args:
        overrides: `group=member` and `dotted.key=value` strings.
        file: a YAML file to start from (`--config`); what it says of a search is left to the search.
        below: (origin, values) of layers between the groups' files and that one.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: the key path, what was expected, what came, and the nearest valid name.
    """
    picks, values = parse_overrides(overrides)
    started_from = read_yaml(local_file(file)) if file else OmegaConf.create()
    started_from.pop("search", None)
    groups, layers = layers_of(started_from, picks, file or "")
    layers[-1:] = [*below, layers[-1], ("the command line", values)]
    merged = _merge(_schema(layers), layers)
    merged.groups = OmegaConf.merge(merged.groups, groups)
    return _to_dataclasses(merged)


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
        schema[name] = section
    _make_writable(schema)
    return schema


def _make_writable(node: DictConfig) -> None:
    """Frozen dataclasses become nodes that can be merged into."""
    OmegaConf.set_readonly(node, False)
    for key in map(str, node):
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _make_writable(node[key])


def _merge(schema: DictConfig, layers: list[tuple[str, DictConfig]]) -> DictConfig:
    valid = set(flat(schema))
    merged = schema
    missing: set[str] = set()
    for origin, layer in layers:
        if "${" in OmegaConf.to_yaml(layer):
            raise ConfigError(
                f"{origin}: expected plain values, found an interpolation '${{…}}'; write the value itself"
            )
        # A merge skips '???' over a default, so what a file asks for is kept apart.
        asked = OmegaConf.missing_keys(layer)
        missing = (missing - set(flat(layer))) | asked
        for key in flat(layer):
            if any(other.startswith(f"{key}.") for other in valid):
                raise ConfigError(f"{key} (in {origin}): is a section; give its keys, as in {key}.KEY=VALUE")
            if key not in valid:
                raise ConfigError(
                    f"{key} (in {origin}): no such key{nearest(key, [*GROUP_ORDER, *valid])}; "
                    "python -m jobs.train --print-config shows them all"
                )
            if key in asked:
                continue
            try:
                merged.merge_with(_only(layer, key))  # in place: a merge of two copies the whole schema for every key
            except OmegaConfBaseException as error:
                raise ConfigError(f"{key} (in {origin}): {one_line(error)}") from error
            value = OmegaConf.select(layer, key)
            if isinstance(value, bool | float) and isinstance(OmegaConf.select(merged, key), str):
                raise ConfigError(
                    f"{key} (in {origin}): expected text, got what YAML reads as {value}; put it in two pairs of "
                    f"""quotes, as in {key}='"off"'"""
                )
    if missing:
        raise ConfigError(
            "; ".join(f"{key}: a value is needed, none was given: add {key}=VALUE" for key in sorted(missing))
        )
    return merged


def _only(layer: DictConfig, key: str) -> DictConfig:
    """One key of a layer by itself, so that what a merge complains of is that key."""
    single = OmegaConf.create()
    OmegaConf.update(single, key, OmegaConf.select(layer, key), merge=False, force_add=True)
    return single


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
    check_together(config)
    return config


def _instance(section: str, node: DictConfig) -> Any:
    for key in map(str, node):  # inner sections first, so that an error carries its whole path
        if OmegaConf.is_dict(node[key]):
            _instance(f"{section}.{key}", node[key])
    try:
        return OmegaConf.to_object(node)
    except ValueError as error:
        raise ConfigError(f"{section}.{error}") from error


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
