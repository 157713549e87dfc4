"""When two commands mean the same run: the identity keys, and the name made of them."""

import hashlib
import json
from typing import Any

from omegaconf import OmegaConf

from jobs.config import flat, to_dict
from jobs.schema import RunConfig
from semisup_core.data import SOURCE_SETTINGS

# What may differ between two attempts at one and the same run; where its images come from is among it.
NOT_IDENTITY = (
    "name",
    "storage",
    "resume",
    "runtime",
    "tracking",
    "debug",
    "evaluation",
    "checkpoint",
    "groups",
    "trainer.steps_per_call",
    "trainer.max_minutes",
    "encoder.init",
    "dataset.corrupt_quota",
    *(f"dataset.{key}" for key in SOURCE_SETTINGS),
)


def identity(config: RunConfig, contents: dict[str, str]) -> dict[str, Any]:
    """The flat keys that make two runs the same run.

    Args:
        config: the run.
        contents: what counts by content instead of by path: "dataset.fingerprint", and "encoder.init" if there is one.
    """
    values = OmegaConf.create(to_dict(config))
    keys = {
        key: OmegaConf.select(values, key)
        for key in flat(values)
        if not any(key == skip or key.startswith(f"{skip}.") for skip in NOT_IDENTITY)
    }
    plain = {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in keys.items()}
    return {**plain, **contents}


def run_name(config: RunConfig, contents: dict[str, str]) -> str:
    """The given name, or the chosen groups and a short hash of the identity keys."""
    if config.name:
        return config.name
    digest = hashlib.sha256(json.dumps(identity(config, contents), sort_keys=True).encode()).hexdigest()
    return "-".join([config.groups.method, config.groups.dataset, config.groups.encoder, digest[:8]])
