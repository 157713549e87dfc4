"""The stages of a pipeline: what each is made of, and a small one from end to end in this process."""

import json
import shutil
from functools import partial

import pytest

from jobs import config, driver, stages
from jobs.errors import ConfigError

pytestmark = pytest.mark.xdist_group("pipeline")  # one of the two test processes trains the pipeline of the fixture

SMALL = [
    "method=simclr",
    "runtime=local",
    "encoder=conv",
    "encoder.width=8",
    "method.projection=[8]",
    "trainer.epochs=2",
    "trainer.steps_per_epoch=4",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "evaluation.every=2",
]


def test_stages_differ_in_what_they_should_and_in_nothing_else():
    loaded = {
        stage.name: stage.load("runs/x")
        for stage in stages.plan([*SMALL, "method.temperature=0.2", "finetune.trainer.epochs=7", "name=mine", "seed=3"])
    }
    assert list(loaded) == ["baseline", "pretrain", "probe", "finetune"]
    assert {run.name for run in loaded.values()} == {f"mine-{stage}" for stage in loaded}
    assert {stage: run.trainer.epochs for stage, run in loaded.items()} == {
        "baseline": 2,
        "pretrain": 2,
        "probe": 2,
        "finetune": 7,
    }
    assert loaded["pretrain"].method.temperature == 0.2 and loaded["pretrain"].trainer.online_probe
    for stage in ("baseline", "probe", "finetune"):
        assert loaded[stage].method.name == "cross_entropy" and loaded[stage].method.view == "weak"
        assert not loaded[stage].trainer.online_probe
    assert {stage: run.encoder.init for stage, run in loaded.items()} == {
        "baseline": None,
        "pretrain": None,
        "probe": "runs/x",
        "finetune": "runs/x",
    }
    assert [stage for stage, run in loaded.items() if not run.encoder.trainable] == ["probe"]
    assert loaded["finetune"].method.encoder_learning_rate_scale < 1
    assert {run.seed for run in loaded.values()} == {3}


def test_a_file_to_start_from_reaches_every_stage(tmp_path):
    (tmp_path / "mine.yaml").write_text(config.to_yaml(config.load([*SMALL, "encoder.width=12"])))
    loaded = {stage.name: stage.load() for stage in stages.plan([], str(tmp_path / "mine.yaml"))}
    assert {run.encoder.width for run in loaded.values()} == {12}
    assert loaded["pretrain"].method.name == "simclr" and loaded["probe"].method.name == "cross_entropy"


def test_what_a_file_says_of_pretraining_stays_there(tmp_path):
    words = ["name=foo", "encoder.init=earlier", "trainer.online_probe=true", "method=suncet"]
    (tmp_path / "mine.yaml").write_text(config.to_yaml(config.load(words)))
    loaded = {stage.name: stage.load() for stage in stages.plan([], str(tmp_path / "mine.yaml"))}
    assert [run.name for run in loaded.values()] == ["foo-baseline", "foo-pretrain", "foo-probe", "foo-finetune"]
    assert loaded["baseline"].encoder.init is None and loaded["pretrain"].encoder.init == "earlier"
    assert [stage for stage, run in loaded.items() if run.trainer.online_probe] == ["pretrain"]


def test_a_wrong_key_names_its_stage():
    with pytest.raises(ConfigError, match=r"stage finetune: trainer.epoch .*did you mean trainer.epochs"):
        stages.plan([*SMALL, "finetune.trainer.epoch=3"])


def test_bad_usage_is_answered_with_code_2(cli):
    done = cli("jobs.pipeline", "method=simclr", "probe.optimizer.learning_rate=-1")
    assert done.returncode == 2 and "stage probe: optimizer.learning_rate" in done.stderr


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The words of a pipeline that has run, and its folder."""
    words = [*SMALL, f"storage={tmp_path_factory.mktemp('pipeline')}"]
    return words, stages.run(stages.plan(words), driver.train)


def summaries_of(folder):
    return json.loads((folder / "pipeline.json").read_text())["stages"]


def test_it_leaves_a_table_and_a_picture(pipeline):
    _, folder = pipeline
    summaries = summaries_of(folder)
    table = (folder / "table.txt").read_text().splitlines()
    assert [line.split()[0] for line in table] == ["stage", *summaries]
    for line, summary in zip(table[1:], summaries.values(), strict=True):
        accuracies = [f"{row['accuracy']:.4f}" for row in summary["test"].values()]
        assert line.split()[1 : 1 + len(accuracies)] == accuracies and "classifier" in summary["test"]
    assert (folder / "curves.png").stat().st_size > 10_000


def test_the_frozen_encoder_is_the_pretrained_one(pipeline):
    summaries = summaries_of(pipeline[1])
    of_encoder = ("knn20", "knn200", "linear")
    accuracies = {stage: [row["test"][name]["accuracy"] for name in of_encoder] for stage, row in summaries.items()}
    assert accuracies["probe"] == accuracies["pretrain"]
    assert len({tuple(values) for values in accuracies.values()}) == 3


def test_only_the_stage_that_changed_runs_again(pipeline, capsys):
    words, folder = pipeline
    before = summaries_of(folder)
    ran = []

    def train(run, **settings):
        ran.append(run)
        return driver.train(run, **settings)

    after = stages.run(stages.plan([*words, "finetune.trainer.epochs=1"]), partial(train, keep_cluster=True))
    assert len(ran) == 4 and capsys.readouterr().out.count("is finished") == 3
    assert after == folder
    changed = [stage for stage, summary in summaries_of(folder).items() if summary != before[stage]]
    assert changed == ["finetune"]


def test_a_paused_stage_ends_the_pipeline(tmp_path, capsys):
    words = [*SMALL, f"storage={tmp_path}", "evaluation.protocols=[knn20,classifier]", "evaluation.monitor=knn20"]
    assert stages.run(stages.plan([*words, "baseline.debug.steps=3"]), driver.train) is None
    assert "stage baseline was paused" in capsys.readouterr().out
    assert not list(tmp_path.glob("*/pipeline.json"))


def test_pretraining_that_was_stopped_early_is_not_built_upon(tmp_path, capsys):
    words = [*SMALL, f"storage={tmp_path}", "evaluation.protocols=[knn20,classifier]", "evaluation.monitor=knn20"]
    assert stages.run(stages.plan([*words, "pretrain.trainer.max_minutes=0.0001"]), driver.train) is None
    assert "stage pretrain is not done" in capsys.readouterr().out


def test_finished_stages_are_found_where_the_storage_was_moved(pipeline, tmp_path):
    words, folder = pipeline
    moved = tmp_path / "moved"
    shutil.copytree(folder.parent, moved)
    again = stages.run(stages.plan([*words, f"storage={moved}"]), driver.train)
    assert again == moved / folder.name
    assert all(summary["folder"].startswith(str(moved)) for summary in summaries_of(again).values())
