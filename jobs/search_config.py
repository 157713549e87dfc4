"""From the command line and `configs/search/` to a Search; every error before anything starts."""

import dataclasses
import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs import config as configs
from jobs.errors import ConfigError
from jobs.identity import identity
from jobs.layers import CONFIGS, members, one_line, read_yaml
from jobs.schema import RunConfig
from jobs.search_space import Dimension, dimension
from jobs.storage import local_file
from semisup_core.settings import Settings, nearest, setting

# What a trial may differ in. Other sections say what trials are compared by, where they run, or what they leave.
_SEARCHED = ("encoder", "method", "augmentation", "optimizer", "trainer", "seed")
_NOT_SEARCHED = ("encoder.name", "encoder.init", "method.name", "trainer.max_minutes")
# What a population may change in the middle of training: none of these shapes a variable.
TUNABLE = ("optimizer.learning_rate", "optimizer.weight_decay", "method.temperature", "augmentation.strength")
ENOUGH_VALIDATION = 20  # labels a class, below which the choice between trials is mostly noise
_MOST_COMBINATIONS = 2000  # that are checked one by one
_DEFAULT = "temperature_width_augmentation"


@dataclass(frozen=True)
class SearchSettings(Settings):
    """How trials are drawn, stopped and placed.

    `num_samples` trials are drawn; a grid is gone through once instead. A trial may be stopped (asha, median) or
    changed (population) after `grace_epochs`, and a population again after every further `grace_epochs`; asha keeps
    one of `reduction_factor`. A trial that fails, for whatever reason, is tried again up to `max_failures` times, from
    its newest checkpoint. Shares of a trial of one worker that are not given are derived from the cluster.
    """

    searcher: str = setting("random", one_of=("random", "grid", "optuna"))
    scheduler: str = setting("none", one_of=("none", "asha", "median", "population"))
    num_samples: int = setting(16, at_least=1)
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)
    grace_epochs: int | None = setting(None, at_least=1)
    reduction_factor: int = setting(3, at_least=2)
    max_concurrent: int | None = setting(None, at_least=1)
    cpus_per_trial: float | None = setting(None, above=0.0)
    gpus_per_trial: float | None = setting(None, at_least=0.0)
    max_failures: int = setting(0, at_least=0)


_NOT_IDENTITY = ("max_concurrent", "cpus_per_trial", "gpus_per_trial", "max_failures")


@dataclass(frozen=True)
class Search:
    """A search: its settings, what it varies, and the configuration that every trial starts from."""

    member: str
    settings: SearchSettings
    space: tuple[Dimension, ...]
    config: RunConfig

    def trial_config(self, values: dict[str, Any]) -> RunConfig:
        """The configuration of a trial, checked as a plain run's is.

        Raises:
            ConfigError: as a plain run's.
        """
        plain = OmegaConf.create(configs.to_dict(self.config))
        for key, value in values.items():
            OmegaConf.update(plain, key, list(value) if isinstance(value, tuple) else value)
        return configs.from_dict(OmegaConf.to_container(plain))  # type: ignore[arg-type]

    @property
    def trials(self) -> int:
        """How many trials there will be."""
        if self.settings.searcher == "grid":
            return math.prod(len(each.values) for each in self.space)
        return self.settings.num_samples

    @property
    def several_workers(self) -> bool:
        """Whether a trial is a group of workers."""
        return self.config.runtime.workers[-1] > 1

    @property
    def grace_epochs(self) -> int:
        """Epochs before a trial may be stopped or changed."""
        return self.settings.grace_epochs or max(1, self.config.trainer.epochs // 8)

    @property
    def most_epochs(self) -> int:
        """Epochs of the longest trial."""
        searched = [value for each in self.space if each.key == "trainer.epochs" for value in each.extremes]
        return max(searched, default=self.config.trainer.epochs)

    def corners(self) -> list[dict[str, Any]]:
        """Values to check before anything starts: of a grid all, else each key's extremes and all lows and highs."""
        if self.settings.searcher == "grid" and self.trials <= _MOST_COMBINATIONS:
            products = itertools.product(*(each.values for each in self.space))
            return [dict(zip((each.key for each in self.space), values, strict=True)) for values in products]
        single = [{each.key: value} for each in self.space for value in each.to_check]
        return [*single, *({each.key: each.extremes[end] for each in self.space} for end in (0, -1))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a YAML file of them is valid for `--config`."""
        space = {each.key: {each.kind: list(each.values)} for each in self.space}
        settings = dataclasses.asdict(self.settings)
        search = {"name": self.member, **settings, "space": space}
        return {"search": json.loads(json.dumps(search)), **configs.to_dict(self.config)}

    def identity(self, contents: dict[str, str]) -> dict[str, Any]:
        """The flat values that make two searches the same one.

        Args:
            contents: of the data and the initial weights, as for a run.
        """
        found = self.to_dict()["search"]
        flat = {f"search.space.{key}": value for key, value in found.pop("space").items()}
        flat |= {f"search.{key}": value for key, value in found.items() if key not in ("name", *_NOT_IDENTITY)}
        evaluation = self.config.evaluation
        by = {"evaluation.monitor": evaluation.monitor, "evaluation.every": evaluation.every}
        run = {key: value for key, value in identity(self.config, contents).items() if not key.startswith("debug.")}
        return {**flat, **by, "runtime.num_workers": self.config.runtime.asked, **run}

    def name(self, contents: dict[str, str]) -> str:
        """The given name, or one made of what is searched."""
        if self.config.name:
            return self.config.name
        digest = hashlib.sha256(json.dumps(self.identity(contents), sort_keys=True).encode()).hexdigest()[:8]
        return "-".join(["search", self.config.groups.method, self.config.groups.dataset, self.member, digest])


def load(overrides: list[str], file: str | None = None) -> Search:
    """Builds a search: `configs/search/MEMBER.yaml`, then `--config`, then the command line.

    Args:
        overrides: as of a run, and `search=MEMBER`, `search.KEY=VALUE`, `search.space.KEY={KIND: [values]}`.
        file: a YAML file to start from, such as an earlier search's `search.yaml`.

    Raises:
        ConfigError: the key path, what was expected, what came, and the nearest valid name.
    """
    ours = [word for word in overrides if word.partition("=")[0].split(".")[0] == "search"]
    words = [word for word in overrides if word not in ours]
    given = dict(_value(word) for word in ours)
    started_from = _section(file) if file else {}
    chosen = given.pop("search", None) or started_from.pop("name", _DEFAULT)
    if chosen not in (names := members("search")):
        raise ConfigError(f"search: expected one of {', '.join(names)}; got {chosen!r}{nearest(str(chosen), names)}")
    member = _plain(read_yaml(CONFIGS / "search" / f"{chosen}.yaml"))
    section = _merged(member.pop("search", {}), started_from, given)
    space = tuple(dimension(key, value) for key, value in section.pop("space").items() if value is not None)
    below = [(f"configs/search/{chosen}.yaml", OmegaConf.create(member))]
    run = configs.load(words, file, below)
    if any(each.key == "seed" for each in space) and run.dataset.split_seed is None:
        # Trials with another seed must not be compared on other images.
        run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, split_seed=run.seed))
    search = Search(chosen, _settings(section), space, run)
    _check(search)
    return search


def _plain(config: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(config)
    return values


def _section(file: str) -> dict[str, Any]:
    """What a file says of the search; nothing is fine."""
    section = _plain(read_yaml(local_file(file))).get("search") or {}
    space = section.get("space") or {} if isinstance(section, dict) else {}
    if not isinstance(section, dict) or not isinstance(space, dict):
        raise ConfigError(
            f"{file}: expected search: {{name: {_DEFAULT}, space: {{KEY: {{KIND: [values]}}}}, KEY: VALUE}}, got "
            f"{section!r}"
        )
    return {**section, "space": space}


def _value(word: str) -> tuple[str, Any]:
    """Key and value of one word of the command line, read as those of a run are."""
    key, equals, text = word.partition("=")
    if not equals:
        raise ConfigError(f"{word}: expected search=MEMBER or search.KEY=VALUE, as in search.num_samples=20")
    try:
        return key, _plain(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{key}: cannot read {text}: {one_line(error)}") from error


def _merged(member: dict[str, Any], file: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """One section out of the member, a file and the command line; a space's entries replace each other whole."""
    section: dict[str, Any] = {**member, **file}
    section["space"] = {**member.get("space", {}), **file.get("space", {})}
    for word, value in given.items():
        key = word.removeprefix("search.")
        if key.startswith("space."):
            section["space"][key.removeprefix("space.")] = value
        else:
            section[key] = value
    return section


def _settings(section: dict[str, Any]) -> SearchSettings:
    valid = [field.name for field in dataclasses.fields(SearchSettings)]
    for key in section:
        if key not in valid:
            known = [f"search.{name}" for name in (*valid, "space")]
            like = nearest(f"search.{key}", known)
            raise ConfigError(f"search.{key}: no such key{like}; expected {', '.join(known)}")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(SearchSettings()), {})
        OmegaConf.set_readonly(typed, False)
        for key, value in section.items():
            try:
                OmegaConf.update(typed, key, value)
            except Exception as error:  # OmegaConf's own, of a wrong type
                raise ConfigError(f"search.{key}: {one_line(error)}") from error
        found: Any = OmegaConf.to_object(typed)
        return found
    except ValueError as error:
        raise ConfigError(f"search.{error}") from error


def _check(search: Search) -> None:
    """Checks what can be checked without data and devices.

    Raises:
        ConfigError: names the key, what was expected and what came.
    """
    config, settings = search.config, search.settings
    if not search.space:
        raise ConfigError("search.space: expected at least one key to vary, found none")
    if config.runtime.name != "ray":
        raise ConfigError("runtime: a search needs Ray; leave runtime=ray, which starts it on this machine")
    if not config.dataset.validation_per_class:
        raise ConfigError(
            "dataset.validation_per_class: a search chooses by validation labels; set it to "
            f"{ENOUGH_VALIDATION} or more"
        )
    if config.debug.steps is not None:  # so debug.overfit_batch is refused, too
        raise ConfigError("debug.steps: ends a run without a result, so there is nothing to choose by; leave it out")
    _check_shares(search)
    _check_keys(search)
    _check_together(search)
    for values in search.corners():
        try:
            search.trial_config(values)
        except ConfigError as error:
            shown = " ".join(f"{key}={value}" for key, value in values.items())
            raise ConfigError(f"search.space: with {shown}: {error}") from error
    if settings.scheduler != "none" and config.evaluation.every > search.grace_epochs:
        raise ConfigError(
            f"evaluation.every: expected at most search.grace_epochs={search.grace_epochs}, or {settings.scheduler} "
            f"has nothing to choose by, got {config.evaluation.every}"
        )
    if settings.scheduler != "none" and search.grace_epochs >= search.most_epochs:
        raise ConfigError(
            f"search.grace_epochs: expected less than trainer.epochs={search.most_epochs}, or {settings.scheduler} has "
            f"nothing to do, got {search.grace_epochs}"
        )


def _check_shares(search: Search) -> None:
    """Each kind of trial has its own keys for shares."""
    settings, runtime = search.settings, search.config.runtime
    cpus, gpus = settings.cpus_per_trial, settings.gpus_per_trial
    if search.several_workers:
        given, instead = {"search.cpus_per_trial": cpus, "search.gpus_per_trial": gpus}, "runtime.{}_per_worker"
    else:
        given = {"runtime.cpus_per_worker": runtime.cpus_per_worker, "runtime.gpus_per_worker": runtime.gpus_per_worker}
        instead = "search.{}_per_trial"
    for key, value in given.items():
        if value is not None:
            kind = "several workers" if search.several_workers else "one worker"
            resource = "cpus" if "cpus" in key else "gpus"
            raise ConfigError(f"{key}={value:g}: trials of {kind} take their share from {instead.format(resource)}")
    if gpus and gpus > 1 and gpus != int(gpus):
        raise ConfigError(f"search.gpus_per_trial: expected a part of one GPU or a whole number, got {gpus:g}")


def _check_keys(search: Search) -> None:
    valid = [key for key in configs.flat(OmegaConf.create(configs.to_dict(search.config)))]
    for key in (each.key for each in search.space):
        if key not in valid:
            raise ConfigError(f"search.space.{key}: no such key{nearest(key, valid)}; --print-config shows them all")
        if key.split(".")[0] not in _SEARCHED or key in _NOT_SEARCHED:
            raise ConfigError(
                f"search.space.{key}: cannot be searched, trials would not be comparable; expected a key of "
                f"{', '.join(_SEARCHED)}, but not {', '.join(_NOT_SEARCHED)}"
            )


def _check_together(search: Search) -> None:
    settings = search.settings
    grids = [each.key for each in search.space if each.kind == "grid"]
    others = [each.key for each in search.space if each.kind != "grid"]
    if settings.searcher == "grid" and others:
        raise ConfigError(f"search.space.{others[0]}: search.searcher=grid goes through lists; use grid: [values]")
    if settings.searcher != "grid" and grids:
        raise ConfigError(f"search.space.{grids[0]}: a grid needs search.searcher=grid; or use choice: [values]")
    if settings.scheduler != "population":
        return
    if search.several_workers:
        raise ConfigError(
            "search.scheduler=population: needs trials of one worker, a member goes on from another one's checkpoint "
            "through Ray Tune; set runtime.num_workers=1, or use asha"
        )
    if settings.searcher != "random":
        raise ConfigError(f"search.searcher: a population draws at random; got {settings.searcher}")
    if settings.num_samples < 2:
        raise ConfigError("search.num_samples: a population needs at least 2")
    if settings.max_concurrent:
        raise ConfigError(
            "search.max_concurrent: all members of a population live at once and take turns; leave it out, and set "
            "search.cpus_per_trial for fewer at a time"
        )
    if search.grace_epochs % search.config.checkpoint.every:
        raise ConfigError(
            f"checkpoint.every: a population takes up checkpoints of every {search.grace_epochs} epochs "
            f"(search.grace_epochs), so expected a divisor of that, got {search.config.checkpoint.every}"
        )
    fixed = [each.key for each in search.space if each.key not in TUNABLE]
    if fixed:
        raise ConfigError(
            f"search.space.{fixed[0]}: a population changes values in the middle of training, which only "
            f"{', '.join(TUNABLE)} allow; take it out ({fixed[0]}=null), or use another scheduler"
        )
