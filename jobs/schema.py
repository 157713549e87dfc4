"""The schema of a run: one frozen dataclass per section, each field with its default and its range."""

from dataclasses import dataclass, field
from typing import Any

from semisup_core.data import SOURCE_SETTINGS, SOURCES
from semisup_core.policy import Policy
from semisup_core.settings import Settings, setting

PIPELINE_PREFIX = "pipeline-"  # of the folders in the storage that hold a pipeline's table, not a run
PROTOCOLS = ("knn20", "knn200", "knn200_t0.1", "soft_nn", "linear", "classifier")


@dataclass(frozen=True)
class Groups(Settings):
    """Which file of each group is used."""

    method: str = "suncet_head"
    dataset: str = "digits"
    encoder: str = "conv"
    augmentation: str = "natural"
    runtime: str = "ray"
    tracking: str = "none"


@dataclass(frozen=True)
class DatasetConfig(Settings):
    """What data, and how many of its labels are used; which source needs and takes what stands in `SOURCES`."""

    name: str = setting("digits", one_of=tuple(SOURCES))
    path: str | None = None
    tfds_name: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    unlabelled_split: str | None = None
    image_size: int = setting(96, at_least=4, at_most=2048)
    labels_per_class: int | None = setting(None, at_least=1)
    label_fraction: float | None = setting(None, above=0.0, at_most=1.0)
    validation_per_class: int = setting(0, at_least=0)
    test_fraction: float = setting(0.2, at_least=0.0, below=1.0)
    split_seed: int | None = setting(None, at_least=0)
    balanced: bool = True
    classes_per_batch: int | None = setting(None, at_least=2)
    corrupt_quota: float = setting(0.01, at_least=0.0, at_most=1.0)

    def __post_init__(self) -> None:
        """Checks the ranges, and that the source gets what it needs and nothing that it does not take."""
        super().__post_init__()
        source = SOURCES[self.name]
        for key, example in source.needs.items():
            if not getattr(self, key):
                raise ValueError(f"{key}: dataset.name={self.name} needs one; add dataset.{key}={example}")
        for key in SOURCE_SETTINGS:
            if key not in source.settings and getattr(self, key) is not None:
                takers = ", ".join(name for name, other in SOURCES.items() if key in other.settings)
                raise ValueError(
                    f"{key}: expected none for dataset.name={self.name}, got {getattr(self, key)}; "
                    f"leave it out, or choose a data set of {takers}"
                )


@dataclass(frozen=True)
class AugmentationConfig(Settings):
    """The two view policies, and one number that scales the strong one."""

    strength: float = setting(1.0, at_least=0.0, at_most=4.0)
    strong: Policy = field(default_factory=Policy)
    weak: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class TrainerConfig(Settings):
    """The loop. Batch sizes are global, over all replicas; None derives one from the data (see `jobs.plan`).

    When a loss is not finite, training stops, or goes back to the last checkpoint and leaves out the batches since, at
    most `max_rollbacks` times. `online_probe` trains a linear classifier on the encoder's features beside the method,
    without changing the encoder. `xla` compiles loss and gradient with XLA, on a single device: some GPUs gain by it,
    CPUs lose.
    """

    epochs: int = setting(100, at_least=1)
    steps_per_epoch: int | None = setting(None, at_least=1)
    max_minutes: float | None = setting(None, above=0.0)
    unlabelled_batch: int | None = setting(None, at_least=1)
    labelled_batch: int | None = setting(None, at_least=1)
    precision: str = setting("float32", one_of=("float32", "mixed_bfloat16", "float64"))
    steps_per_call: int = setting(8, at_least=1)
    early_stop: int | None = setting(None, at_least=1)
    on_nan: str = setting("stop", one_of=("stop", "rollback"))
    max_rollbacks: int = setting(3, at_least=1)
    online_probe: bool = False
    xla: bool = False


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """The optimiser and its schedule; `clip` is the global norm of the gradient over all replicas, `epsilon` Adam's."""

    name: str = setting("adamw", one_of=("adam", "adamw", "sgd"))
    learning_rate: float = setting(1e-3, above=0.0)
    weight_decay: float = setting(0.0, at_least=0.0)
    momentum: float = setting(0.9, at_least=0.0, below=1.0)
    epsilon: float = setting(1e-7, above=0.0)
    clip: float | None = setting(None, above=0.0)
    schedule: str = setting("cosine", one_of=("constant", "cosine"))
    warmup_epochs: float | None = setting(None, at_least=0.0)


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """What is measured: `every` epochs on validation, all `protocols` on test once at the end."""

    protocols: tuple[str, ...] = setting(("knn20", "knn200", "linear"), one_of=PROTOCOLS)
    every: int = setting(1, at_least=1)
    monitor: str = setting("linear", one_of=PROTOCOLS)


@dataclass(frozen=True)
class CheckpointConfig(Settings):
    """A checkpoint every so many epochs; the newest `keep` (or all of them) and the best by validation stay.

    A save that fails is tried again at the next one; `failures` in a row end the run.
    """

    every: int = setting(1, at_least=1)
    keep: int | str = setting(2, at_least=1, or_words=("all",))
    failures: int = setting(3, at_least=1)


@dataclass(frozen=True)
class RuntimeConfig(Settings):
    """Where the workers run; None derives a fair share of what the cluster has.

    `num_workers` is a number, or [fewest, most]: then Ray runs as many as the cluster has room for at the moment.
    `max_failures` restarts without a new checkpoint between them end the run (-1: none do). After a signal, workers
    have `grace_seconds` for a checkpoint. A worker whose call of `trainer.steps_per_call` steps takes longer than
    `hang_seconds` is ended, with what all its threads did in `stacks/`; the first one may take five times as long.
    On a cluster that adds machines when they are asked for (`autoscaling`), workers need not fit those that are there
    now; what one needs must then be said with `cpus_per_worker` (and `gpus_per_worker`).
    `all_reduce` is how gradients are summed: TensorFlow's choice, by NCCL, or without it (a ring of workers; copies
    between the GPUs of one). `prefetch_to_device` has batches copied to the GPU before they are needed.
    """

    name: str = setting("ray", one_of=("local", "ray"))
    num_workers: Any = 1
    cpus_per_worker: float | None = setting(None, above=0.0)
    gpus_per_worker: int | None = setting(None, at_least=0)
    max_failures: int = setting(3, at_least=-1)
    grace_seconds: float = setting(60.0, at_least=0.0)
    hang_seconds: float = setting(600.0, at_least=1.0)
    address: str | None = None
    autoscaling: bool = False
    all_reduce: str = setting("auto", one_of=("auto", "nccl", "ring"))
    prefetch_to_device: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges, and that `num_workers` is one number or two."""
        super().__post_init__()
        given = self.num_workers
        numbers = given if isinstance(given, tuple) and len(given) == 2 else (given, given)
        if not all(type(number) is int and number >= 1 for number in numbers) or numbers[0] > numbers[1]:
            raise ValueError(f"num_workers: expected a number of at least 1, or [fewest, most], got {self.asked}")

    @property
    def asked(self) -> str:
        """`num_workers` as a user writes it."""
        given = self.num_workers
        return f"[{','.join(map(str, given))}]" if isinstance(given, tuple) else repr(given)

    @property
    def workers(self) -> range:
        """The numbers of workers that the run may have."""
        given = self.num_workers
        return range(given[0], given[1] + 1) if isinstance(given, tuple) else range(given, given + 1)


@dataclass(frozen=True)
class TrackingConfig(Settings):
    """Where metrics go besides the run folder; `tensorboard` writes its event files, too."""

    name: str = setting("none", one_of=("none", "wandb"))
    project: str = "semisup"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    mode: str = setting("online", one_of=("online", "offline"))
    tensorboard: bool = False


@dataclass(frozen=True)
class DebugConfig(Settings):
    """Aids for someone who looks for a mistake.

    Run eagerly; stop after so many steps; split the CPU into replicas; name the first operation whose result is not
    finite; write the first batch as the loss sees it; leave a trace for TensorFlow's profiler. None of these changes
    results. `overfit_batch` trains on the first batch alone, which must be learnt by heart.
    """

    eager: bool = False
    steps: int | None = setting(None, at_least=1)
    logical_devices: int = setting(1, at_least=1, at_most=16)
    check_numerics: bool = False
    dump_batch: bool = False
    profile: bool = False
    overfit_batch: bool = False


@dataclass(frozen=True)
class RunConfig(Settings):
    """Everything one run depends on; `method` and `encoder` are the settings class of the chosen entry."""

    groups: Groups
    name: str | None
    storage: str
    seed: int
    resume: bool
    dataset: DatasetConfig
    encoder: Any
    augmentation: AugmentationConfig
    method: Any
    trainer: TrainerConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    runtime: RuntimeConfig
    tracking: TrackingConfig
    debug: DebugConfig

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools that training draws batches from."""
        probe = ("labelled",) if self.trainer.online_probe else ()
        return tuple(dict.fromkeys((*self.method.pools, *probe)))

    @property
    def has_classifier(self) -> bool:
        """Whether a classifier is trained: the method's own or the online probe."""
        return self.method.has_classifier or self.trainer.online_probe
