"""Configuration: every YAML loads, every mistake is named with its key path and the nearest valid name."""

import dataclasses
import json
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from jobs import config, layers, schema
from jobs.errors import ConfigError
from jobs.identity import differing, identity, run_name
from semisup_core.data import SOURCE_SETTINGS, SOURCES
from semisup_core.encoders import ENCODERS
from semisup_core.methods import METHODS

YAML_FILES = sorted(layers.CONFIGS.rglob("*.yaml"))
NEEDED = {
    "method=linear_probe": ["encoder.init=run"],
    "method=fine_tune": ["encoder.init=run"],
    **{f"dataset={source}": ["dataset.path=somewhere"] for source in ("folder", "csv", "arrays")},
    "dataset=tfds": ["dataset.tfds_name=mnist"],
    "encoder=keras_application": ["encoder.backbone=MobileNet"],
}


def test_there_are_config_files():
    assert len(YAML_FILES) > 10


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(layers.CONFIGS)))
def test_every_yaml_loads_and_starts_with_a_comment(path):
    assert path.read_text().startswith("#")
    group, name = path.parent.name, path.stem
    if group in layers.GROUP_ORDER:
        pick = f"{group}={name}"
        assert getattr(config.load([pick, *NEEDED.get(pick, [])]).groups, group) == name
    else:
        config.load([], None if path.name == "train.yaml" else str(path))


@pytest.mark.parametrize("entries, group", [(METHODS, "method"), (ENCODERS, "encoder")])
def test_every_entry_has_a_config(entries, group):
    assert set(entries) <= set(layers.members(group))


def test_names_in_the_schema_are_those_of_the_library():
    from semisup_core.evaluation.protocols import DESCRIPTIONS

    assert set(schema.PROTOCOLS) == set(DESCRIPTIONS)
    assert set(SOURCES) <= set(layers.members("dataset"))
    assert set(SOURCE_SETTINGS) <= {field.name for field in dataclasses.fields(schema.DatasetConfig)}


def test_precedence_and_groups():
    loaded = config.load(["method=cross_entropy", "trainer.epochs=7", "optimizer.learning_rate=2e-3"])
    assert loaded.method.name == "cross_entropy" and loaded.trainer.epochs == 7
    assert loaded.optimizer.learning_rate == 0.002
    assert loaded.groups.augmentation == "digits"  # the data set says what suits it
    assert config.load(["augmentation=none"]).groups.augmentation == "none"  # unless the user does
    assert config.load(["dataset=folder", "dataset.path=x"]).groups.augmentation == "natural"


def test_a_resolved_config_is_valid_and_the_same(tmp_path):
    loaded = config.load(["trainer.epochs=3", "method.projection=[32]"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(loaded))
    assert config.load([], str(file)) == loaded
    assert config.from_dict(json.loads(json.dumps(config.to_dict(loaded)))) == loaded
    assert config.load(["trainer.epochs=4"], str(file)).trainer.epochs == 4


@pytest.mark.parametrize("words, keep", [([], 2), (["checkpoint.keep=7"], 7), (["checkpoint.keep=all"], "all")])
def test_keep_is_a_number_or_all(words, keep):
    loaded = config.load(words)
    assert loaded.checkpoint.keep == keep
    assert config.from_dict(config.to_dict(loaded)) == loaded


def test_a_member_picked_anew_drops_what_the_file_said_of_it(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(config.load(["method.temperature=0.3"])))
    assert config.load([], str(file)).method.temperature == 0.3
    fresh, anew = config.load(["method=cross_entropy"]), config.load(["method=cross_entropy"], str(file))
    assert anew == fresh  # its evaluation protocols too, which its own file sets


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["method=sunct"], ["method", "sunct", "did you mean suncet"]),
        (["method.temprature=1"], ["method.temprature", "did you mean method.temperature"]),
        (["temperature=1"], ["temperature", "did you mean method.temperature"]),
        (["trainer.temperature=1"], ["did you mean method.temperature"]),
        (["augmentation.strong.min_aera=0.5"], ["did you mean augmentation.strong.min_area"]),
        (["trainer.epochs.more=3"], ["trainer.epochs.more"]),
        (["trainer=3"], ["trainer"]),
        (["name=off"], ["name", "expected text", "False"]),
        (["tracking.notes=1e3"], ["tracking.notes", "1000.0"]),
        (["trainer.epochs=many"], ["trainer.epochs", "many"]),
        (["trainer.epochs=2.5"], ["trainer.epochs", "2.5"]),
        (["dataset.balanced=perhaps"], ["dataset.balanced", "perhaps"]),
        (["trainer.epochs=0"], ["trainer.epochs", "at least 1", "got 0"]),
        (["augmentation.strong.min_area=7"], ["augmentation.strong.min_area", "at most 1.0", "7"]),
        (["method.projection=[0]"], ["method.projection", "at least 1"]),
        (["optimizer.name=adan"], ["optimizer.name", "adam", "did you mean"]),
        (["method.name=paws"], ["method.name", "paws"]),
        (["encoder.name=resnet19"], ["encoder.name", "did you mean resnet18"]),
        (["dataset=folder"], ["dataset.path", "none was given"]),
        (["dataset=folder", "dataset.path=null"], ["dataset.path", "add dataset.path=FOLDER"]),
        (["dataset.path=somewhere"], ["dataset.path", "none for dataset.name=digits", "folder, csv, arrays, tfds"]),
        (["dataset=folder", "dataset.path=x", "dataset.tfds_name=mnist"], ["dataset.tfds_name", "got mnist", "tfds"]),
        (["dataset=csv"], ["dataset.path"]),
        (["dataset=arrays"], ["dataset.path"]),
        (["dataset=tfds"], ["dataset.tfds_name", "none was given"]),
        (["dataset=stl10", "dataset.train_split=null"], ["dataset.train_split", "add dataset.train_split=train"]),
        (["dataset=stl"], ["dataset", "did you mean stl10"]),
        (["epochs"], ["epochs", "key=value"]),
        (["=3"], ["key=value"]),
        (["groups.methd=suncet"], ["groups.methd"]),
        (["evaluation.protocols=[knn2]"], ["evaluation.protocols", "knn20"]),
        (["evaluation.protocols=[classifier]", "evaluation.monitor=classifier"], ["suncet", "classifier"]),
        (["evaluation.monitor=knn20", "evaluation.protocols=[linear]"], ["evaluation.monitor"]),
        (["dataset.label_fraction=0.1"], ["labels_per_class", "label_fraction"]),
        (["trainer.early_stop=3", "dataset.validation_per_class=0"], ["trainer.early_stop", "validation"]),
        (["optimizer.name=adam"], ["optimizer.weight_decay", "adamw"]),
        (["runtime=local", "runtime.num_workers=2"], ["runtime.num_workers", "runtime=ray"]),
        (["seed=-1"], ["seed", "from 0"]),
        (["seed=4294967296"], ["seed", "4294967295"]),
        (["trainer.epochs=[1"], ["trainer.epochs=[1"]),
        (["dataset.path=${nope}"], ["interpolation"]),
        (["method.projection=[1.5]"], ["method.projection", "an entry of the list"]),
        (["method.projection=3"], ["method.projection"]),
        (["groups.method=cross_entropy"], ["method=cross_entropy"]),
        (["method.name=cross_entropy"], ["method=cross_entropy"]),
        (["optimizer.learning_rate=.inf"], ["optimizer.learning_rate", "finite"]),
        (["trainer=null"], ["trainer", "section"]),
        (["augmentation.strong=3"], ["augmentation.strong", "section"]),
        (["name=../x"], ["name", "../x"]),
        (["name=stores"], ["name", "stores"]),
        (["name=baselines"], ["name", "baselines"]),
        (["name=pipeline-x"], ["name", "pipeline-"]),
        (["checkpoint.keep=most"], ["checkpoint.keep", "a number or all", "most"]),
        (["checkpoint.keep=0"], ["checkpoint.keep", "at least 1"]),
        (["checkpoint.keep=1.5"], ["checkpoint.keep", "1.5"]),
        (["storage=ftp://host/runs"], ["storage", "ftp://host/runs"]),
        (["dataset.image_size=30"], ["dataset.image_size", "at least 31", "conv"]),
        (["encoder=resnet50", "dataset.image_size=31"], ["dataset.image_size", "at least 32", "encoder.stem=large"]),
        (["encoder=keras_application"], ["encoder.backbone", "none was given", "encoder.backbone=VALUE"]),
        (["encoder=keras_application", "encoder.backbone=ResNet5"], ["encoder.backbone", "did you mean ResNet50?"]),
        (["encoder=keras_application", "encoder.backbone=null"], ["encoder.backbone", "None"]),
        (
            ["encoder=keras_application", "encoder.backbone=Xception", "dataset.image_size=70"],
            ["dataset.image_size", "at least 71", "encoder.backbone=Xception", "got 70"],
        ),
        (["trainer.epochs=5", "optimizer.warmup_epochs=5"], ["optimizer.warmup_epochs", "fewer"]),
        (["debug.logical_devices=2", "runtime.num_workers=2"], ["debug.logical_devices"]),
    ],
)
def test_mistakes_are_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        config.load(overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n", "trainer: {epoch: 3}\n", "groups: {methd: suncet}\n"])
def test_bad_files_are_named(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="mine.yaml"):
        config.load([], str(file))
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        config.load([], str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("bad", [["method=sunct"], ["trainer.epochs=0"], ["dataset=folder"], ["trainr.epochs=1"]])
def test_command_line_answers_with_exit_2_and_one_line(cli, bad):
    done = cli("jobs.train", *bad)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "mistake", ["method.temprature=1", "encoder=keras_application encoder.backbone=Xception dataset.image_size=70"]
)
def test_mistakes_are_answered_at_once_without_heavy_imports(mistake):
    program = (
        "import sys\n"
        "from jobs.cli import main_with_exit_codes\nfrom jobs.train import main\n"
        "try: main_with_exit_codes(main)\n"
        "except SystemExit as stop: print(stop.code)\n"
        "heavy = ('keras', 'tensorflow', 'tensorflow_datasets', 'ray', 'numpy', 'wandb')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, *mistake.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=layers.CONFIGS.parent)
    assert done.stdout.splitlines() == ["2", "[]"]  # a few tenths of a second, then


def test_help_and_print_config(cli):
    text = cli("jobs.train", "--help").stdout
    for group in layers.GROUP_ORDER:
        assert f"{group}={' | '.join(layers.members(group))}" in text
    printed = cli("jobs.train", "--print-config", "trainer.epochs=9")
    assert printed.returncode == 0
    assert OmegaConf.create(printed.stdout).trainer.epochs == 9
    assert cli("jobs.train", "--no-such-flag").returncode == 2
    mixed = cli("jobs.train", "trainer.epochs=9", "--print-config", "method=cross_entropy")
    assert "name: cross_entropy" in mixed.stdout and "epochs: 9" in mixed.stdout


def test_identity_holds_what_changes_the_result_and_nothing_else():
    def name(*overrides, fingerprint="f"):
        return run_name(config.load(list(overrides)), {"dataset.fingerprint": fingerprint})

    assert name().startswith("suncet_head-digits-conv_small-")
    same = [
        "resume=false",
        "storage=elsewhere",
        "runtime=local",
        "tracking=wandb",
        "debug.eager=true",
        "evaluation.every=5",
        "checkpoint.keep=9",
        "trainer.steps_per_call=3",
        "trainer.max_minutes=1",
        "runtime.num_workers=2",
    ]
    assert all(name(override) == name() for override in same)
    assert name("dataset=folder", "dataset.path=a") == name("dataset=folder", "dataset.path=b")
    assert name("dataset=stl10") == name("dataset=stl10", "dataset.tfds_name=my_stl10", "dataset.path=elsewhere")
    other = [
        "seed=1",
        "method.temperature=0.2",
        "trainer.epochs=3",
        "encoder.width=16",
        "dataset.labels_per_class=5",
        "augmentation.strength=0.5",
        "optimizer.clip=1",
        "trainer.precision=mixed_bfloat16",
    ]
    assert len({name(), *map(name, other)}) == len(other) + 1
    assert name("augmentation.strong.blur=0") == name()  # said or not, a default is the same run
    assert name(fingerprint="g") != name() and name("name=mine") == "mine"
    assert "method.temperature" in identity(config.load([]), {})


def test_a_run_from_before_a_key_existed_is_still_the_same_run():
    now, contents = config.load([]), {"dataset.fingerprint": "f"}
    before = {key: value for key, value in identity(now, contents).items() if key != "trainer.online_probe"}
    assert differing({**before, "dataset.path": "elsewhere"}, now, contents) == []
    probed = config.load(["trainer.online_probe=true"])
    assert differing(before, probed, contents) == ["trainer.online_probe"]
    assert differing({**before, "encoder.initial_weights": "x"}, now, contents) == ["encoder.initial_weights"]
