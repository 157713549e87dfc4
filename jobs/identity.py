"""When two commands mean the same run: the identity keys, and the name made of them."""

import dataclasses
import hashlib
import json
from typing import Any

from omegaconf import OmegaConf

from jobs.config import flat, to_dict
from jobs.schema import DebugConfig, RunConfig
from semisup_core.data import SOURCE_SETTINGS

# What may differ between two attempts at one and the same run; where its images come from is among it.
NOT_IDENTITY = (
    "name",
    "storage",
    "resume",
    "runtime",
    "tracking",
    "evaluation",
    "checkpoint",
    "groups",
    "trainer.steps_per_call",
    "trainer.max_minutes",
    "trainer.on_nan",
    "trainer.max_rollbacks",
    "encoder.init",
    "dataset.corrupt_quota",
    *(f"dataset.{key}" for key in SOURCE_SETTINGS),
    *(f"debug.{field.name}" for field in dataclasses.fields(DebugConfig) if field.name != "overfit_batch"),
)


def identity(config: RunConfig, contents: dict[str, str]) -> dict[str, Any]:
    """The flat keys that make two runs the same run.

    Args:
        config: the run.
        contents: what counts by content instead of by path: "dataset.fingerprint", and
            "encoder.initial_weights" if it starts from any.
    """
    values = OmegaConf.create(to_dict(config))
    keys = {key: OmegaConf.select(values, key) for key in flat(values) if _counts(key)}
    plain = {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in keys.items()}
    return {**plain, **contents}


def differing(before: dict[str, Any], config: RunConfig, contents: dict[str, str]) -> list[str]:
    """The keys in which a recorded identity is not that of a configuration.

    Args:
        before: what `identity` gave when the run began; a key that did not exist then counts as its default.
        config: the present configuration of the run.
        contents: of it.
    """
    now = identity(config, contents)
    keys = {*now, *(key for key in before if _counts(key))}
    return sorted(key for key in keys if before.get(key, _default(config, key)) != now.get(key))


def _counts(key: str) -> bool:
    return not any(key == skip or key.startswith(f"{skip}.") for skip in NOT_IDENTITY)


def _default(config: RunConfig, key: str) -> Any:
    """The schema's default of a key as a plain value; None where there is none."""
    *sections, last = key.split(".")
    owner: Any = config
    for section in sections:
        owner = getattr(owner, section, None)
    fields = {field.name: field for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
    default = fields[last].default if last in fields else dataclasses.MISSING
    return None if default is dataclasses.MISSING else json.loads(json.dumps(default))


def run_name(config: RunConfig, contents: dict[str, str]) -> str:
    """The given name, or the chosen groups and a short hash of the identity keys that are not at their defaults.

    So a new key whose default means what was before leaves the names of earlier runs as they are.
    """
    if config.name:
        return config.name
    chosen = {key: value for key, value in identity(config, contents).items() if value != _default(config, key)}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()
    return "-".join([config.groups.method, config.groups.dataset, config.groups.encoder, digest[:8]])
