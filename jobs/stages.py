"""The stages of `jobs.pipeline`: pretraining, then a linear probe and fine-tuning, beside a supervised baseline.

Each stage is a run like any other, under a name of its own, so a stage that is finished is not run again. Probe and
fine-tuning start from the pretrained encoder, which counts by content in their identity: another encoder, other runs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jobs import config
from jobs.errors import ConfigError
from jobs.folder import find_run
from jobs.schema import PIPELINE_PREFIX, RunConfig
from jobs.storage import write_text
from jobs.tracking import read_rows

# What each stage changes beside the command line, in the order in which they run.
STAGES: dict[str, list[str]] = {
    "baseline": ["method=cross_entropy", "method.view=weak", "encoder.init=null", "encoder.trainable=true"],
    "pretrain": [],
    "probe": ["method=linear_probe"],
    "finetune": ["method=fine_tune", "encoder.trainable=true"],
}
_FROM_PRETRAINED = ("probe", "finetune")
# Keys of the command line that speak of pretraining alone.
_PRETRAINING = ("method", "groups.method", "encoder.init", "encoder.trainable", "trainer.online_probe")
_PLACEHOLDER = "the-pretrained-run"


class Stage(NamedTuple):
    """One stage: the overrides and the file of its configuration."""

    name: str
    words: list[str]
    file: str | None

    def load(self, pretrained: str = _PLACEHOLDER) -> RunConfig:
        """Its configuration; probe and fine-tuning start from the run folder `pretrained`."""
        init = [f"encoder.init={pretrained}"] if self.name in _FROM_PRETRAINED else []
        return config.load([*self.words, *init], self.file)


def plan(words: list[str], file: str | None = None) -> list[Stage]:
    """The stages of a command line.

    Args:
        words: overrides; `STAGE.KEY=VALUE` is for one stage, `method…` for pretraining, all others for every stage.
        file: a YAML file that every stage starts from.

    Raises:
        ConfigError: a stage's configuration is wrong; names the stage.
    """
    common, own = _sorted(words)
    chosen = config.load(common, file).name
    stages = []
    for name, changes in STAGES.items():
        given = [word for word in common if name == "pretrain" or not _of_pretraining(word)]
        without_probe = [] if name == "pretrain" else ["trainer.online_probe=false"]
        named = [f"name={chosen}-{name}"] if chosen else []
        stages.append(Stage(name, [*given, *without_probe, *changes, *named, *own[name]], file))
    for stage in stages:  # all of them before any runs
        try:
            stage.load()
        except ConfigError as error:
            raise ConfigError(f"stage {stage.name}: {error}") from error
    return stages


def _sorted(words: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    common: list[str] = []
    own: dict[str, list[str]] = {name: [] for name in STAGES}
    for word in words:
        first, _, rest = word.partition(".")
        (own[first] if first in STAGES else common).append(rest if first in STAGES else word)
    return common, own


def _of_pretraining(word: str) -> bool:
    key = word.partition("=")[0]
    return key in _PRETRAINING or key.startswith("method.")


def run(stages: list[Stage], train: Callable[[RunConfig], dict[str, Any] | None]) -> Path | None:
    """Runs the stages, prints their table, and leaves it with their curves in a folder.

    Args:
        stages: of `plan`.
        train: runs one configuration and returns its summary, or None when it was paused.

    Returns:
        The folder, or None when a stage was paused or pretraining was stopped early.
    """
    summaries: dict[str, dict[str, Any]] = {}
    for stage in stages:
        print(f"stage {stage.name}", flush=True)
        pretrained = summaries["pretrain"]["folder"] if stage.name in _FROM_PRETRAINED else _PLACEHOLDER
        summary = train(stage.load(pretrained))
        if summary is None:
            print(f"stage {stage.name} was paused; the same command goes on")
            return None
        if stage.name == "pretrain" and not summary["complete"]:
            print(f"stage pretrain is not done ({summary['stopped']}); the same command goes on with it")
            return None
        summaries[stage.name] = summary
    return _report(summaries)


def _report(summaries: dict[str, dict[str, Any]]) -> Path:
    from jobs.stage_report import draw_stages, stage_table  # NumPy and more, not needed to refuse a wrong key

    runs = {stage: find_run(summary["folder"], "") for stage, summary in summaries.items()}
    storage, name = runs["pretrain"].storage, runs["pretrain"].name
    folder = storage.root / f"{PIPELINE_PREFIX}{name.removesuffix('-pretrain')}"
    folder.mkdir(exist_ok=True)
    write_text(folder / "pipeline.json", json.dumps({"stages": summaries}, indent=1))
    rows = {stage: read_rows(run.metrics) for stage, run in runs.items()}
    steps = {stage: summary["plan"]["steps_per_epoch"] for stage, summary in summaries.items()}
    draw_stages(rows, steps, folder / "curves.png")
    table = stage_table(summaries)
    write_text(folder / "table.txt", table + "\n")
    storage.send(folder)
    print(f"{table}\n  curves and table: {storage.url}/{folder.name}", flush=True)
    return folder
