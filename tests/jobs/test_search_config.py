"""What a search is, and what is refused before anything starts."""

import pytest
from omegaconf import OmegaConf

from jobs import layers, search_config
from jobs.errors import ConfigError
from jobs.resources import trial_share
from jobs.search_space import dimension

GRID = [
    "search.searcher=grid",
    "search.space.method.temperature={grid: [0.1, 0.5]}",
    "search.space.encoder.width={grid: [8, 16, 32]}",
    "search.space.augmentation.strength=null",
]
NO_SPACE = [f"search.space.{key}=null" for key in ("method.temperature", "encoder.width", "augmentation.strength")]


@pytest.mark.parametrize("member", layers.members("search"))
def test_every_shipped_search_is_valid_and_reads_its_own_file(member, tmp_path):
    search = search_config.load([f"search={member}"])
    file = tmp_path / "search.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(search.to_dict())))
    assert search_config.load([], str(file)) == search
    assert search.config.dataset.validation_per_class >= search_config.ENOUGH_VALIDATION


def test_the_command_line_wins_over_the_file_and_the_file_over_the_member(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "search: {name: population, num_samples: 5, space: {optimizer.weight_decay: null}}\n"
        "dataset: {validation_per_class: 30}\ntrainer: {epochs: 9}"
    )
    search = search_config.load(["search.seed=3", "trainer.epochs=8"], str(file))
    assert (search.member, search.settings.num_samples, search.settings.seed) == ("population", 5, 3)
    assert (search.config.dataset.validation_per_class, search.config.trainer.epochs) == (30, 8)
    assert "optimizer.weight_decay" not in [each.key for each in search.space]


def test_a_grid_is_every_combination_once():
    search = search_config.load(GRID)
    assert search.trials == len(search.corners()) == 6
    assert {tuple(values.values()) for values in search.corners()} == {(t, w) for t in (0.1, 0.5) for w in (8, 16, 32)}


def test_trials_with_another_seed_have_the_same_images():
    search = search_config.load(["seed=7", "search.space.seed={randint: [0, 9]}"])
    assert search.trial_config({"seed": 3}).dataset.split_seed == 7


def test_a_name_follows_what_is_searched_and_not_where():
    name = search_config.load([]).name({})
    assert search_config.load(["search.cpus_per_trial=2", "search.max_failures=1"]).name({}) == name
    others = (["search.num_samples=3"], ["search.space.encoder.width={choice: [8]}"], ["trainer.epochs=3"])
    assert len({name, *(search_config.load(words).name({}) for words in others)}) == 4


def test_numbers_of_the_command_line_are_read_as_those_of_a_file():
    search = search_config.load(["search.space.optimizer.learning_rate={loguniform: [1e-4, 1e-2]}"])
    assert [each.values for each in search.space if each.key == "optimizer.learning_rate"] == [(1e-4, 1e-2)]


def test_whole_steps_are_whole_numbers():
    domain = dimension("a", {"quniform": [8, 16, 4]}).domain()
    drawn = [domain.sample() for _ in range(60)]
    assert set(drawn) == {8, 12, 16} and all(isinstance(value, int) for value in drawn)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("search: population", "got 'population'"),
        ("search: [population]", "got ['population']"),
        ("search: {space: wide}", "got {'space': 'wide'}"),
        ("search: {name: [population]}", "search: expected one of"),
        ("search: {space: {encoder.width: 8}}", "search.space.encoder.width: expected {KIND: [values]}"),
    ],
)
def test_a_section_of_another_form_is_refused(text, expected, tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        search_config.load([], str(file))
    assert expected in str(error.value)


@pytest.mark.parametrize("text", ["search: null", "search: {space: null}", "seed: 3"])
def test_a_file_need_not_say_anything_of_the_search(text, tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(text)
    assert search_config.load([], str(file)).space == search_config.load([]).space


@pytest.mark.parametrize(
    "words, expected",
    [
        (["search=temperatur"], "search: expected one of population, temperature_width"),
        (["search.sampels=3"], "search.sampels: no such key; did you mean search.num_samples?"),
        (["search.num_samples=0"], "search.num_samples: expected a value at least 1, got 0"),
        (["search.num_samples=many"], "search.num_samples: Value 'many'"),
        (["search.scheduler=ashe"], "did you mean asha?"),
        (["search.space.encoder.width=[8, 16]"], "search.space.encoder.width: expected {KIND: [values]}"),
        (["search.space.encoder.width={choise: [8]}"], "did you mean choice?"),
        (["search.space.encoder.width={choice: []}"], "expected a list of different values"),
        (["search.space.encoder.width={choice: [8, 8]}"], "expected a list of different values"),
        (["search.space.encoder.width={choice: wide}"], "expected a list of values"),
        (["search.space.encoder.width={choice: [8"], "cannot read"),
        (["search.space.encoder.widht={choice: [8]}"], "did you mean encoder.width?"),
        (["search.space.encoder={choice: [8]}"], "search.space.encoder: no such key"),
        (["search.space.encoder.width={choice: [0, 8]}"], "with encoder.width=0: encoder.width: expected a value at"),
        (["search.space.method.temperature={uniform: [0.5, 0.1]}"], "expected low < high"),
        (["search.space.method.temperature={uniform: [0.1, 0.5, 0.1]}"], "uniform expects [low, high]"),
        (["search.space.method.temperature={uniform: [0.1, .inf]}"], "finite numbers"),
        (["search.space.method.temperature={uniform: [0.1, high]}"], "finite numbers"),
        (["search.space.method.temperature={loguniform: [0, 1]}"], "loguniform expects a low end above 0"),
        (["search.space.method.temperature={uniform: [0, 1]}"], "with method.temperature=0: method.temperature"),
        (["search.space.method.temperature={quniform: [0.1, 0.5, 0.3]}"], "multiples of the step"),
        (["search.space.encoder.width={randint: [8.5, 16]}"], "randint expects whole numbers"),
        (["search.space.encoder.width={uniform: [8, 16]}"], "with encoder.width=10.9"),
        (["search.space.encoder.width={quniform: [8, 16, 0.5]}"], "with encoder.width=8.5"),
        (["search.space.dataset.labels_per_class={choice: [5, 10]}"], "trials would not be comparable"),
        (["search.space.evaluation.monitor={choice: [knn20, linear]}"], "trials would not be comparable"),
        (["search.space.method.name={choice: [suncet, paws]}"], "trials would not be comparable"),
        (["search.space.trainer.max_minutes={choice: [1, 2]}"], "trials would not be comparable"),
        ([*GRID[1:]], "a grid needs search.searcher=grid"),
        ([GRID[0]], "search.searcher=grid goes through lists"),
        ([*GRID, "search.space.encoder.width={grid: [8, 0]}"], "encoder.width: expected a value at least 1, got 0"),
        (NO_SPACE, "search.space: expected at least one key"),
        (["search=population", "search.space.encoder.width={choice: [8]}"], "only optimizer.learning_rate"),
        (["search=population", "runtime.num_workers=2"], "population: needs trials of one worker"),
        (["search=population", "search.searcher=optuna"], "a population draws at random"),
        (["search=population", "search.num_samples=1"], "a population needs at least 2"),
        (["dataset.validation_per_class=0"], "a search chooses by validation labels"),
        (["runtime=local"], "a search needs Ray"),
        (["debug.steps=4"], "debug.steps"),
        (["search.scheduler=asha", "search.grace_epochs=2", "evaluation.every=5"], "has nothing to choose by"),
        (["method=cross_entropy"], "search.space.method.temperature: no such key"),
        (["search"], "search: expected search=MEMBER"),
        (["search.num_samples"], "search.num_samples: expected search=MEMBER"),
        (["search.scheduler=asha", "search.grace_epochs=4", "trainer.epochs=4"], "less than trainer.epochs=4"),
        (["search=population", "search.max_concurrent=1"], "members of a population live at once"),
        (["search=population", "search.grace_epochs=5", "checkpoint.every=2"], "expected a divisor of that, got 2"),
        (["runtime.cpus_per_worker=2"], "trials of one worker take their share from search.cpus_per_trial"),
        (
            ["runtime.num_workers=2", "search.gpus_per_trial=1"],
            "trials of several workers take their share from runtime.gpus_per_worker",
        ),
        (["search.gpus_per_trial=1.5"], "expected a part of one GPU or a whole number"),
        (["trainer.epochs=0"], "trainer.epochs: expected a value at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(words, expected):
    with pytest.raises(ConfigError) as error:
        search_config.load(words)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "key, given, value, clamped",
    [
        ("a", {"uniform": [0, 2]}, 2.4, 2),
        ("a", {"loguniform": [0.1, 1.0]}, 0.05, 0.1),
        ("a", {"choice": [1, 2]}, 2, 2),
        ("a", {"quniform": [0.5, 2.0, 0.5]}, 1.2, 1.0),
    ],
)
def test_a_population_stays_within_its_ranges(key, given, value, clamped):
    assert dimension(key, given).clamped(value) == clamped


def test_both_ends_of_randint_are_drawn():
    domain = dimension("a", {"randint": [3, 4]}).domain()
    assert {domain.sample() for _ in range(60)} == {3, 4}


@pytest.mark.parametrize(
    "words, nodes, share",
    [
        ([], [(2.0, 0)], (1.0, 0, 2)),
        ([], [(64.0, 0)], (4.0, 0, 16)),  # 16 trials
        ([], [(64.0, 0), (64.0, 0)], (8.0, 0, 16)),
        ([], [(64.0, 8), (4.0, 0)], (8.0, 1, 8)),
        (["search.gpus_per_trial=0.5"], [(64.0, 8)], (4.0, 0.5, 16)),
        (["search.cpus_per_trial=3", "search.max_concurrent=1"], [(8.0, 0)], (3.0, 0, 1)),
        (["runtime.num_workers=2"], [(2.0, 0)], (1.0, 0, 1)),
        (["runtime.num_workers=2"], [(16.0, 4), (16.0, 4)], (4.0, 1, 4)),
    ],
)
def test_shares_of_a_trial(words, nodes, share):
    assert trial_share(search_config.load(words), nodes) == share


def test_a_trial_that_fits_no_node_is_refused():
    with pytest.raises(ConfigError, match="does not fit the cluster"):
        trial_share(search_config.load(["search.gpus_per_trial=2"]), [(8.0, 1)])


def test_a_wrong_search_is_answered_with_exit_code_2_and_leaves_nothing(cli, tmp_path):
    done = cli("jobs.tune", f"storage={tmp_path}", "search.space.encoder.widht={choice: [8]}")
    assert done.returncode == 2 and "did you mean encoder.width?" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
