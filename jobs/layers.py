"""The YAML layers of a configuration: which files, in which order, and what the command line picks."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.errors import ConfigError
from jobs.schema import Groups
from semisup_core.settings import nearest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# Later files win: a data set says what suits it, and a method has the last word (FixMatch its ratio of batches).
GROUP_ORDER = ("encoder", "augmentation", "dataset", "method", "runtime", "tracking")


def members(group: str) -> list[str]:
    """The names of a group's files in `configs/`."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def parse_overrides(overrides: list[str]) -> tuple[dict[str, str], DictConfig]:
    """Group picks (`method=paws`) and values (`method.temperature=0.1`) of the command line."""
    picks, values = {}, []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text}: expected key=value, as in method=suncet or trainer.epochs=50")
        group = key.removeprefix("groups.").removesuffix(".name")
        if group in GROUP_ORDER and group != key:
            raise ConfigError(f"{text}: pick a member with {group}={value}{nearest(value, members(group))}")
        if key in GROUP_ORDER:
            picks[key] = value
        else:
            values.append(text)
    try:
        return picks, OmegaConf.from_dotlist(values)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"cannot read {' '.join(values)}: {one_line(error)}") from error


def read_yaml(path: Path) -> DictConfig:
    """One YAML file, which must be a mapping."""
    if not path.is_file():
        raise ConfigError(f"{path}: expected a YAML file, found none; check the path given to --config")
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # whatever the YAML reader raises, the user needs the file and the place
        raise ConfigError(f"{path}: not a YAML mapping: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top level")
    return config


def layers_of(started_from: DictConfig, picks: dict[str, str], file: str) -> tuple[dict, list[tuple[str, DictConfig]]]:
    """The chosen member of each group, and the YAML layers in order of rising precedence."""
    base = read_yaml(CONFIGS / "train.yaml")
    file_groups = _picked(started_from, file)
    chosen = {**dataclasses.asdict(Groups()), **_picked(base, "train.yaml"), **file_groups, **picks}
    suits = _picked(_member("dataset", chosen["dataset"]), f"dataset/{chosen['dataset']}.yaml")
    chosen.update({group: name for group, name in suits.items() if group not in {**file_groups, **picks}})
    layers = [("configs/train.yaml", base)]
    layers += [(f"configs/{group}/{chosen[group]}.yaml", _member(group, chosen[group])) for group in GROUP_ORDER]
    for group, name in picks.items():
        if file_groups.get(group, name) != name:
            replaced = [_member(group, file_groups[group]), _member(group, name)]
            started_from = _without(started_from, group, replaced)
    return chosen, [*layers, (file, started_from)]


def _without(config: DictConfig, group: str, members: list[DictConfig]) -> DictConfig:
    """A started-from file less its section of a group picked anew, and less what the group's members set elsewhere."""
    kept: Any = OmegaConf.to_container(config)
    kept.pop(group, None)
    for member in members:
        for section, values in member.items():
            for key in values if OmegaConf.is_dict(values) else ():
                if isinstance(kept.get(section), dict):
                    kept[section].pop(key, None)
    return OmegaConf.create(kept)


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
    return read_yaml(CONFIGS / group / f"{name}.yaml")


def one_line(error: Exception) -> str:
    """The words of an OmegaConf or YAML error on one line, without its own account of the place."""
    text = " ".join(str(error).split("\n    full_key")[0].split())
    return re.sub(
        r"Value '(\$VALUE|None)' of type '(\$VALUE_TYPE|NoneType)'", "an entry of the list", text
    )  # OmegaConf names no value there
