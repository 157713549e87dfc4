"""A run at small scale for the contract tests: the real pipeline, augmenters and trainer, on one or two replicas."""

from functools import partial

import numpy as np
import pytest

from jobs.build import build_iterator, build_streams, build_training
from jobs.config import load
from jobs.plan import make_plan
from jobs.prepare import split_of
from semisup_core.devices import make_strategy, set_precision

NARROW = {"conv": ["encoder=conv", "encoder.width=8"], "resnet18": ["encoder=resnet18", "encoder.width=4"]}
# Everything that could depend on R is on: BatchNorm, heads, clipping, weight decay, warm-up.
COMMON = [
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.steps_per_epoch=6",
    "trainer.epochs=5",
    "optimizer.clip=0.5",
    "optimizer.weight_decay=0.01",
    "optimizer.warmup_epochs=1",
    "augmentation=natural",
    "augmentation.strong.rotation=10",
    "dataset.image_size=32",
]


class Training:
    """A method under training, as the worker loop builds it."""

    def __init__(
        self, store, storage, method, *, encoder="conv", replicas=1, precision="float64", overrides=(), initial=None
    ):
        words = [f"method={method}", *NARROW[encoder], *COMMON, f"trainer.precision={precision}", *overrides]
        self.config = load([f"storage={storage}", *words])
        set_precision(precision)
        self.strategy = make_strategy(1, replicas)
        self.store, self.split = store, split_of(self.config, store)
        self.plan = make_plan(self.config, self.split, len(store.class_names), replicas)
        self.streams = build_streams(self.config, store, self.split, self.plan)
        self.method, self.trainer = build_training(self.config, store, self.plan, self.strategy, initial)
        self.iterator = None

    def run(self, steps, per_call=5):
        return self.logs(steps, per_call)["loss"]

    def logs(self, steps, per_call=5):
        if self.iterator is None:
            self.iterator = build_iterator(self.store, self.streams, self.strategy, self.trainer.step, 0, 1)
        calls = [min(per_call, steps - done) for done in range(0, steps, per_call)]
        logs = [self.trainer.run(self.iterator, call) for call in calls]
        return {name: np.concatenate([log[name] for log in logs]) for name in logs[0]}

    def weights(self):
        return {k: v for k, v in self.trainer.state().items() if not k.startswith("optimizer")}


@pytest.fixture
def training(digits, storage):
    """(method, encoder, replicas, precision, overrides, initial) -> a Training on the digits."""
    return partial(Training, digits, storage)


@pytest.fixture(params=NARROW)
def encoder(request):
    return request.param
